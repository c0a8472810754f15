"""A directory that is to be converted and is not whole is refused, and says what is wrong."""

import shutil
from pathlib import Path

import lmdb
import pytest

from tests.persistence.groups import write
from tests.shards.stage import EPOCH_MS, FAR_MS
from troth.core import commands as c
from troth.core.model import PromiseState
from troth.persistence.checkpoints import rows
from troth.persistence.conversion.old_data import OldData
from troth.persistence.errors import (
    CheckpointDamaged,
    DataDirectoryError,
    DataDirectoryUnreadable,
    LogDamaged,
)

GOLDEN = Path(__file__).parent / "golden"
OLD = "version_1_format_3"


def copied(tmp_path: Path, name: str = OLD) -> Path:
    """A copy of what an earlier release wrote."""
    return Path(shutil.copytree(GOLDEN / name / "data", tmp_path / "data"))


def put(store: Path, key: bytes, value: bytes) -> None:
    """Change a row about the store itself."""
    with (
        lmdb.open(str(store), max_dbs=len(rows.TABLES) + 1, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        table = environment.open_db(rows.META.encode(), transaction, create=False)
        transaction.put(key, value, db=table)


def refused(data: Path, kind: type[DataDirectoryError], problem: str) -> None:
    """It is refused for this, and can be copied whole afterwards: nothing is open."""
    with pytest.raises(kind, match=problem):
        OldData(data, EPOCH_MS)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (b"format", b"9", "format b'9' is unknown"),
        (b"data id", b"x" * 16, "it belongs to another data directory"),
    ],
)
def test_checkpoints_that_do_not_belong_to_the_directory(
    key: bytes, value: bytes, problem: str, tmp_path: Path
) -> None:
    data = copied(tmp_path)
    put(data / "checkpoints", key, value)
    refused(data, CheckpointDamaged, problem)


def test_checkpoints_that_cannot_be_opened(tmp_path: Path) -> None:
    data = copied(tmp_path)
    (data / "checkpoints" / "data.mdb").write_bytes(b"not a store" * 1000)
    refused(data, DataDirectoryUnreadable, "Check the disk and the permissions")


def test_a_log_that_begins_after_the_checkpoint(tmp_path: Path) -> None:
    """Records between both are missing."""
    data = copied(tmp_path)
    shutil.rmtree(data / "checkpoints")
    first, *_ = sorted((data / "log").iterdir())
    first.unlink()
    refused(data, LogDamaged, "it begins with record .*, too late")


def test_a_log_that_ends_before_the_checkpoint(tmp_path: Path) -> None:
    data = copied(tmp_path)
    *_, last = sorted((data / "log").iterdir())
    last.unlink()
    first, *_ = sorted((data / "log").iterdir())
    content = bytearray(first.read_bytes())
    content[200:] = bytes(len(content) - 200)
    first.write_bytes(content)
    refused(data, LogDamaged, "it ends before what the checkpoints have reached")


def test_a_directory_without_checkpoints_is_read_from_its_log_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, [c.CreatePromise("a", FAR_MS), c.CompletePromise("a", PromiseState.RESOLVED)])
    old = OldData(data, EPOCH_MS)
    assert old.records_count == 2
    assert [name for state in old.states for name in state.promises] == ["a"]
    assert list(old.cold_promises()) == []
    old.close()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path, DataDirectoryUnreadable, "Give the directory that `troth serve` was given")
