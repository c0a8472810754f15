"""A server is refused whose name another one has, and not one that takes the place of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from troth.core.limits import CLUSTER_NAME_TAKEN_MS
from troth.persistence.streams.cluster import MemberSeen
from troth.persistence.streams.stream import StreamRefused
from troth.shards.streams.stream_opening import home_of, refuse_taken_name
from troth.shards.streams.times import Times

_NOTE_MS = 10_000


class Book:
    """Members of a cluster, in simulated time. One that lives notes itself every ten seconds."""

    name = "the database"

    def __init__(self, node: str, home: str | None, *, noted_ms: int, lives: bool) -> None:
        self.now_ms = 0
        self._noted_ms = noted_ms
        self._lives = lives
        self._member = MemberSeen(node, "http://other:8001", "1", 0, home=home)

    def members(self) -> list[MemberSeen]:
        seen_ms = self._noted_ms + self.now_ms
        if self._lives:
            seen_ms %= _NOTE_MS
        return [self._member._replace(seen_ms=seen_ms)]

    def sleep_s(self, duration_s: float) -> None:
        self.now_ms += int(duration_s * 1000)


def _refuse(book: Any, directory: Path) -> None:
    times = Times(boot_ms=lambda: book.now_ms, sleep_s=book.sleep_s)
    refuse_taken_name(book, "a", directory, times)


def test_a_name_of_a_server_that_is_there_is_refused(tmp_path: Path) -> None:
    book = Book("a", "machine:/var/cache/troth", noted_ms=100, lives=True)

    said = "has a server named a already, at http://other:8001 (machine:/var/cache/troth)"
    with pytest.raises(StreamRefused, match=re.escape(said)):
        _refuse(book, tmp_path)

    assert book.now_ms <= _NOTE_MS


def test_a_server_that_is_gone_is_replaced_by_one_elsewhere(tmp_path: Path) -> None:
    book = Book("a", "machine:/var/cache/troth", noted_ms=100, lives=False)

    _refuse(book, tmp_path)

    assert book.now_ms <= CLUSTER_NAME_TAKEN_MS


@pytest.mark.parametrize(
    ("node", "home", "noted_ms"),
    [
        ("a", None, 0),
        ("b", "machine:/var/cache/troth", 0),
        ("a", "machine:/var/cache/troth", CLUSTER_NAME_TAKEN_MS),
        ("a", "itself", 0),
    ],
)
def test_what_cannot_be_another_server_is_not_waited_for(
    tmp_path: Path, node: str, home: str | None, noted_ms: int
) -> None:
    home = home_of(tmp_path) if home == "itself" else home
    book = Book(node, home, noted_ms=noted_ms, lives=False)

    _refuse(book, tmp_path)

    assert book.now_ms == 0
