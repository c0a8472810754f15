"""Every data directory that a release has written can be opened by all later ones.

`golden/` holds one directory for each format, with what must be found in it (`golden/make.py`
wrote them). Each is copied, opened twice, and compared.
"""

import json
import shutil
from pathlib import Path

import pytest
import trio

from tests.persistence.golden.make import SHARD_COUNT, describe
from tests.shards.stage import Outgoing, make_shards
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshots import cut_stopped_directory, verify, write_file
from troth.shards.storage import DirectoryStorage

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format_*"))


def test_there_is_one() -> None:
    """The glob finds what it should."""
    assert [path.name for path in GOLDEN][:3] == ["format_1", "format_2", "format_3"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
async def test_an_old_directory_opens(golden: Path, tmp_path: Path, mock_clock: object) -> None:
    """What it holds is what its release wrote; also after this release's own checkpoint."""
    expected = json.loads((golden / "expected.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(golden / "data", data)
    for life in range(3):
        storage = DirectoryStorage(data)
        shards = make_shards(SHARD_COUNT, Outgoing())
        recovery = shards.recover(storage)
        assert (recovery.records_count > 0) == (life < 2), "from the checkpoint and from the log"
        checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
        assert checkpointer is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            assert await describe(shards) == expected
            if life > 0:
                await checkpointer.checkpoint()
                assert await describe(shards) == expected
            nursery.cancel_scope.cancel()
        storage.close()


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
async def test_its_snapshot_brings_all_of_it_back(
    golden: Path, tmp_path: Path, mock_clock: object
) -> None:
    """Out of rows and log, and after the checkpoint that follows."""
    expected = json.loads((golden / "expected.json").read_text())
    shutil.copytree(golden / "data", tmp_path / "data")
    file = tmp_path / "a.snapshot"
    with cut_stopped_directory(tmp_path / "data", created_at_ms=1, troth_version="test") as cut:
        write_file(cut.encoded(), file)
    verify(file)
    restore(file, tmp_path / "new", until=Until())
    for life in range(2):
        storage = DirectoryStorage(tmp_path / "new")
        shards = make_shards(SHARD_COUNT, Outgoing())
        shards.recover(storage)
        checkpointer = shards.make_checkpointer(storage, interval_ms=10**9, log_bytes=10**9)
        assert checkpointer is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(shards.run, storage.make_writer)
            assert await describe(shards) == expected, f"life {life}"
            await checkpointer.checkpoint()
            nursery.cancel_scope.cancel()
        storage.close()
