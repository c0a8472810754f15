"""Opening while something is short: waited out, room is asked for, and advice is given."""

import errno
import os
from pathlib import Path
from typing import Any

import lmdb
import pytest

from troth.persistence import shortage
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.errors import CheckpointFailed
from troth.persistence.shortage import add_relief, opening


@pytest.mark.parametrize("number", sorted(shortage.SHORTAGES))
def test_a_shortage_is_waited_out(number: int) -> None:
    asked: list[str] = []
    pauses: list[float] = []

    def action() -> str:
        if len(pauses) < 3:
            raise OSError(number, os.strerror(number))
        return "opened"

    remove = add_relief(lambda: asked.append("relieved"))
    try:
        assert opening(action, pause=pauses.append) == "opened"
    finally:
        remove()

    assert asked == ["relieved"] * 3
    assert pauses == [0.01, 0.02, 0.04]
    assert opening(lambda: "again", pause=pauses.append) == "again"


def test_it_is_not_waited_for_ever() -> None:
    pauses: list[float] = []

    def action() -> None:
        raise OSError(errno.EMFILE, "short")

    with pytest.raises(OSError, match="short"):
        opening(action, pause=pauses.append, patience_s=2.0)

    assert 2.0 <= sum(pauses) < 3.0


def test_other_errors_are_not_waited_for() -> None:
    def action() -> None:
        raise FileNotFoundError(errno.ENOENT, "missing")

    with pytest.raises(FileNotFoundError):
        opening(action, pause=lambda _: pytest.fail("it waits"))


def test_lmdb_says_it_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors have no number; a shortage is told by the text."""
    real_open = lmdb.open
    failures = [os.strerror(errno.EMFILE), os.strerror(errno.ENFILE)]

    def scarce_open(path: str, **named: Any) -> lmdb.Environment:
        if failures:
            raise lmdb.Error(f"{path}: {failures.pop()}")
        return real_open(path, **named)

    monkeypatch.setattr(lmdb, "open", scarce_open)
    store = LmdbStore(tmp_path / "s", ("a",))
    store.commit([("a", b"1", b"one")])
    store.close()
    assert failures == []
    failures.append(os.strerror(errno.EACCES))
    with pytest.raises(CheckpointFailed):
        LmdbStore(tmp_path / "s", ("a",))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free space, then start"),
        (MemoryError("mdb_put"), "Allow this process more memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "more address space"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Check the disk, then start"),
    ],
)
def test_a_checkpoint_that_fails_says_what_to_do(error: Exception, advice: str) -> None:
    assert advice in str(CheckpointFailed("the store", "cannot be written", error))
