"""Every data directory that a release has written can be opened, or converted, by all later ones.

`golden/` holds one directory for each format, with what must be found in it (`golden/make.py`
wrote them). Each is copied, converted if it is old, opened several times, and compared.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.persistence.golden.make import SHARD_COUNT, describe
from tests.shards.stage import EPOCH_MS, Outgoing, make_shards
from troth.persistence.conversion.convert import NewPlacement, convert
from troth.persistence.errors import OldFormatVersion
from troth.persistence.placement import PlacementRule
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshots import cut_stopped_directory, verify, write_file
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage

FOLDER = Path(__file__).parent / "golden"
OLD = ["version_1_format_1", "version_1_format_2", "version_1_format_3"]
GOLDEN = [*OLD, "version_2", "version_2_format_5"]


def test_all_are_there() -> None:
    """No golden directory is forgotten here."""
    assert sorted(path.name for path in FOLDER.glob("version_*")) == GOLDEN


def expected(name: str) -> dict[str, Any]:
    """Return what must be found, without what a conversion makes anew."""
    found: dict[str, Any] = json.loads((FOLDER / name / "expected.json").read_text())
    return comparable(found) if name in OLD else found


def comparable(described: dict[str, Any]) -> dict[str, Any]:
    """Leave out which shard things are in, and the numbers that shards count tasks by."""
    for task in [*described["tasks"], *described.get("function tasks", [])]:
        del task[6]
    for kind in ("callbacks", "locks", "awaits", "listeners"):
        if kind in described:
            described[kind] = sorted(json.dumps(one) for found in described[kind] for one in found)
    for kind in ("workflows", "unblocks"):
        described[kind] = sorted(map(json.dumps, described.get(kind, [])))
    described["counts"] = [sum(column) for column in zip(*described["counts"], strict=True)]
    return described


def opened(data: Path) -> tuple[DirectoryStorage, Shards]:
    """Open a directory, and the shards on it."""
    storage = DirectoryStorage(data)
    shards = make_shards(SHARD_COUNT, Outgoing(), placement=storage.placement)
    return storage, shards


def copied(name: str, data: Path, placement: PlacementRule | None = None) -> None:
    """Copy a golden directory; convert it if it is old."""
    shutil.copytree(FOLDER / name / "data", data)
    if name in OLD or placement is not None:
        convert(data, NewPlacement(placement), now_ms=EPOCH_MS)


@pytest.mark.parametrize("name", OLD)
def test_an_old_directory_is_refused(name: str, tmp_path: Path) -> None:
    """In one line that names the command, and without a change."""
    shutil.copytree(FOLDER / name / "data", tmp_path / "data")
    with pytest.raises(OldFormatVersion) as caught:
        DirectoryStorage(tmp_path / "data")
    message = str(caught.value)
    assert f"`troth data convert {tmp_path / 'data'}`" in message
    assert len(message.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        *("checkpoints", "log", "troth.json")
    ]


@pytest.mark.parametrize("placement", [None, *PlacementRule])
@pytest.mark.parametrize("name", GOLDEN)
async def test_it_opens(
    name: str, placement: PlacementRule | None, tmp_path: Path, mock_clock: object
) -> None:
    """What it holds is what its release wrote; also after this release's own checkpoint."""
    copied(name, tmp_path / "data", placement)
    is_converted = name in OLD or placement is PlacementRule.ID
    for life in range(3):
        storage, shards = opened(tmp_path / "data")
        recovery = shards.recover(storage)
        has_tail = life == 1 if is_converted else life < 2
        assert (recovery.records_count > 0) == has_tail, "from the checkpoint and from the log"
        checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
        assert checkpointer is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            check(await describe(shards), name, is_converted=is_converted)
            if life > 0:
                await checkpointer.checkpoint()
                check(await describe(shards), name, is_converted=is_converted)
            nursery.cancel_scope.cancel()
        storage.close()


def check(described: dict[str, Any], name: str, *, is_converted: bool) -> None:
    """Compare what was found with what must be."""
    wanted = expected(name)
    if is_converted:
        described = comparable(described)
        if name not in OLD:
            wanted = comparable(wanted)
    assert described == wanted


@pytest.mark.parametrize("name", GOLDEN)
async def test_its_snapshot_brings_all_of_it_back(
    name: str, tmp_path: Path, mock_clock: object
) -> None:
    """Out of rows and log, and after the checkpoint that follows."""
    copied(name, tmp_path / "data")
    file = tmp_path / "a.snapshot"
    with cut_stopped_directory(tmp_path / "data", created_at_ms=1, troth_version="test") as cut:
        write_file(cut.encoded(), file)
    verify(file)
    restore(file, tmp_path / "new", until=Until())
    for _ in range(2):
        storage, shards = opened(tmp_path / "new")
        shards.recover(storage)
        checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
        assert checkpointer is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            check(await describe(shards), name, is_converted=name in OLD)
            await checkpointer.checkpoint()
            nursery.cancel_scope.cancel()
        storage.close()
