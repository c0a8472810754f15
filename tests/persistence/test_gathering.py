"""A writer that gathers what comes soon: when it waits, and when it does not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.persistence.test_writer import PATIENCE_S, Calls, WatchedLog, batch
from troth.persistence.wal import gathering
from troth.persistence.wal.gathering import GatheringWriter

APPEND_S = 3.0
PAUSE_LIMIT_S = 5.0  # only a test that fails waits this long


class Clock:
    """Stands for the time that appends take: each asks twice."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        self.time_s += APPEND_S
        return self.time_s


class Pauses:
    """Stands for the event that ends a pause: it notes that there was one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writer: GatheringWriter) -> None:
        self.limits_s: list[float] = []
        self.begun = threading.Event()
        self._ended = threading.Event()
        monkeypatch.setattr(writer, "_enough", self)

    def clear(self) -> None:
        self._ended.clear()

    def set(self) -> None:
        self._ended.set()

    def wait(self, limit_s: float) -> bool:
        self.limits_s.append(limit_s)
        self.begun.set()
        return self._ended.wait(PAUSE_LIMIT_S)


class Gathering:
    """A writer whose appends wait for permission, and its pauses for their end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.calls = WatchedLog(), Calls()
        self.writer = GatheringWriter(
            self.log, self._note, self.calls.on_failure, now_s=Clock().now_s
        )
        self.pauses = Pauses(monkeypatch, self.writer)
        self._written = threading.Semaphore(0)

    def _note(self, last_sequence: int) -> None:
        self.calls.on_durable(last_sequence)
        self._written.release()

    def until_written(self) -> None:
        """Wait until one more batch is durable."""
        assert self._written.acquire(timeout=PATIENCE_S)

    def overlap(self, *waiting: int) -> None:
        """Write record 1, during which others come."""
        self.log.allowed.clear()
        self.writer.submit(batch(1))
        assert self.log.appending.wait(PATIENCE_S)
        for number in waiting:
            self.writer.submit(batch(number))
        self.log.allowed.set()
        self.until_written()


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gathering]:
    with _closing(Gathering(monkeypatch)) as one:
        one.writer.start()
        yield one


@contextmanager
def _closing(one: Gathering) -> Iterator[Gathering]:
    try:
        yield one
    finally:
        one.log.allowed.set()
        one.pauses.set()
        one.writer.close()


def test_what_is_written_alone_never_waits(one: Gathering) -> None:
    for submitted in (batch(1, 2, 3), batch(4), batch(5, 6), batch(7), batch(8)):
        one.writer.submit(submitted)
        one.until_written()
    assert one.pauses.limits_s == []
    assert len(one.log.batches) == 5


def test_those_that_were_answered_join_those_that_waited(one: Gathering) -> None:
    one.overlap(2, 3)
    assert one.pauses.begun.wait(PATIENCE_S)
    assert one.log.batches == [batch(1)], "the one that was answered is waited for"
    one.writer.submit(batch(4))
    one.until_written()
    assert one.log.batches == [batch(1), batch(2, 3, 4)]
    assert one.pauses.limits_s == [gathering.GATHER_LIMIT_S]


def test_a_pause_ends_only_with_the_last_that_is_expected(one: Gathering) -> None:
    one.overlap(2)
    assert one.pauses.begun.wait(PATIENCE_S)
    one.writer.submit(batch(3))
    one.until_written()
    one.pauses.begun.clear()
    one.writer.submit(batch(4))
    assert one.pauses.begun.wait(PATIENCE_S), "two were written, so two are expected"
    assert len(one.log.batches) == 2
    one.writer.submit(batch(5))
    one.until_written()
    assert one.log.batches == [batch(1), batch(2, 3), batch(4, 5)]


def test_a_pause_in_which_nothing_came_is_the_last(one: Gathering) -> None:
    one.overlap(2)
    assert one.pauses.begun.wait(PATIENCE_S)
    one.pauses.set()  # its time is over
    one.until_written()
    for number in range(3, 8):
        one.writer.submit(batch(number))
        one.until_written()
    assert len(one.pauses.limits_s) == 1
    assert [len(written) for written in one.log.batches] == [1] * 7


def test_a_pause_is_a_part_of_what_appends_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHER_LIMIT_S", PATIENCE_S)
    with _closing(Gathering(monkeypatch)) as one:
        one.writer.start()
        one.overlap(2)
        assert one.pauses.begun.wait(PATIENCE_S)
        assert 0 < one.pauses.limits_s[0] < APPEND_S


def test_closing_in_a_pause_writes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with _closing(Gathering(monkeypatch)) as one:
        one.writer.start()
        one.overlap(2)
        assert one.pauses.begun.wait(PATIENCE_S)
    assert one.log.batches == [batch(1), batch(2)]
    assert one.calls.durable == [1, 2]
