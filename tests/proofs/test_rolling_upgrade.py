"""What the proof of upgrades counts as lost: what is not there, not what is not answered."""

from collections.abc import Iterator
from http.client import IncompleteRead
from typing import cast

import pytest

from tests.http.processes.clients import Client
from tests.proofs import rolling_upgrade
from tests.proofs.rolling_upgrade import Looking


class Answers:
    """Stands for connections to a node, which is asked for one promise after the other."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers: Iterator[int | Exception] = iter(answers)
        self.connections_count = 0

    def connect(self) -> Client:
        """Return another connection."""
        self.connections_count += 1
        return cast("Client", self)

    def ask(self, method: str, path: str) -> tuple[int, None]:
        """Return the next answer, or raise what stands for it."""
        assert (method, path) == ("GET", "/promises/one")
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer, None

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling_upgrade, "_LOOK_S", 0.0)


def test_what_is_not_answered_is_asked_again() -> None:
    answers = Answers(503, TimeoutError(), IncompleteRead(b""), 500, 200, 404)
    looking = Looking(answers.connect)
    assert looking.is_there("one")
    assert not looking.is_there("one")
    assert answers.connections_count == 3


def test_what_is_not_answered_for_long_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling_upgrade, "MISSING_LIMIT_S", 0.0)
    with pytest.raises(AssertionError, match=r"is one there\? 503"):
        Looking(Answers(503).connect).is_there("one")
