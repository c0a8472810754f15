"""A data directory that cannot be opened whole is not kept from whoever tries again."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from troth.persistence.checkpoints.store import DATA_NAME
from troth.persistence.data_directory import CHECKPOINTS_NAME
from troth.persistence.errors import PersistenceError
from troth.shards.storage import DirectoryStorage


def test_a_directory_whose_checkpoints_cannot_be_opened_is_left_unlocked(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with closing(DirectoryStorage(path, 2)):
        pass
    checkpoints = path / CHECKPOINTS_NAME
    assert not checkpoints.exists()
    checkpoints.mkdir()
    (checkpoints / DATA_NAME).write_bytes(b"no checkpoints" * 1_000)
    with pytest.raises(PersistenceError):
        DirectoryStorage(path)

    shutil.rmtree(checkpoints)
    with closing(DirectoryStorage(path)) as storage:
        assert storage.shard_count == 2
