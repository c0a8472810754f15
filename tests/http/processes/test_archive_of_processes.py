"""The archive of a server of three processes: restored to a moment, in all groups the same one."""

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from troth.core.records import PromiseCreated, Record, decode
from troth.http.identity import operator_key
from troth.persistence.inspection.log_records import record_time_ms
from troth.persistence.snapshots.archive import REACHED_NAME, later_batches
from troth.persistence.snapshots.restoring import Restored, Until, restore
from troth.persistence.snapshots.snapshots import inspect

from .clients import FAR_MS, Client, ids_by_group

BATCHES_COUNT = 3


@dataclass
class Archived:
    """A server's archive, a snapshot from its beginning, and what was made when."""

    directory: Path
    snapshot: Path
    data_id: str
    made: list[list[str]]
    """Ids of all groups, those of each batch made before the next."""
    times_ms: list[int]
    """When each batch had been made."""


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    """A server has run, with small files of the log, and was stopped in good order."""
    directory = tmp_path_factory.mktemp("archived")
    archive = directory / "archive"
    archive.mkdir()
    options = ("--archive-directory", str(archive), "--segment-bytes", "65536")
    made, times_ms = [], []
    with ServerProcess(directory, "--processes", "3", *options) as server:
        with closing(Client(server)) as client:
            key = operator_key.read(server.data)
            client.connection.request(
                "POST", "/admin/snapshot", headers={"Authorization": f"Bearer {key}"}
            )
            file = directory / "first.snapshot"
            file.write_bytes(client.connection.getresponse().read())
            for _ in range(BATCHES_COUNT):
                ids = [one for group in ids_by_group("kept", 12) for one in group]
                for one in ids:
                    param = {"data": secrets.token_hex(3_000)}
                    body = {"id": one, "timeout": FAR_MS, "param": param}
                    assert client.ask("POST", "/promises", body)[0] == 201
                made.append(ids)
                time.sleep(0.01)
                times_ms.append(time.time_ns() // 1_000_000)
                time.sleep(0.01)
        identity = json.loads((server.data / "troth.json").read_text())
        assert server.terminate() == 0
        yield Archived(archive, file, identity["data_id"], made, times_ms)


def records_of(snapshot: Path, data: Path, restored: Restored) -> list[list[Record]]:
    """Return the records of each group's log in a directory that was restored."""
    header = inspect(snapshot).header
    assert header is not None
    found: list[list[Record]] = []
    for group, part in enumerate(header.parts):
        data_id = bytes.fromhex(restored.data_id)
        batches = later_batches(data, data_id, part.rows_position + 1, group)
        found.append([decode(one.body) for _, records in batches for one in records])
    return found


def test_a_moment_is_restored_in_all_groups(archived: Archived, tmp_path: Path) -> None:
    """What was made before is there, and nothing else."""
    until = Until(time_ms=archived.times_ms[1])
    restored = restore(
        archived.snapshot, tmp_path / "data", until=until, archives=[archived.directory]
    )
    assert restored.stopped_early
    found = records_of(archived.snapshot, tmp_path / "data", restored)
    made = {one.id for group in found for one in group if isinstance(one, PromiseCreated)}
    assert made == {one for ids in archived.made[:2] for one in ids}


def test_all_that_was_archived_is_restored(archived: Archived, tmp_path: Path) -> None:
    """Of a server that was stopped that is all."""
    restored = restore(
        archived.snapshot, tmp_path / "data", until=Until(), archives=[archived.directory]
    )
    assert not restored.stopped_early
    assert restored.records_count >= sum(map(len, archived.made))


def test_no_group_goes_on_to_what_another_has_not_archived(
    archived: Archived, tmp_path: Path
) -> None:
    """Its last files are missing, as when the server was lost with its disk."""
    archive = tmp_path / "archive"
    shutil.copytree(archived.directory, archive)
    log = archive / archived.data_id / "1"
    *_, last = sorted(log.glob("*.log"))
    last.unlink()
    (log / REACHED_NAME).unlink()
    restored = restore(archived.snapshot, tmp_path / "data", until=Until(), archives=[archive])
    assert restored.stopped_early
    assert restored.limit_ms is not None
    found = records_of(archived.snapshot, tmp_path / "data", restored)
    times = [max(filter(None, map(record_time_ms, group))) for group in found]
    assert times[1] == restored.limit_ms
    assert max(times) == restored.limit_ms
    assert min(times) > restored.limit_ms - 2_000, "the others have nearly as much"
