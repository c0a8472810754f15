"""How often a node that stands by reads its stream, and what it makes of one that is behind."""

from random import Random
from typing import Any

import pytest

from tests.twins.simulated_stream import SimulatedClock, SimulatedEngine, SimulatedStream
from troth.persistence.streams import stream_log
from troth.persistence.streams.stream_log import StreamLog


def _go_on() -> None:
    pass


def _log(stream: Any, clock: SimulatedClock, incarnation: int, **options: Any) -> StreamLog:
    return StreamLog(
        stream,
        node=f"n{incarnation}",
        incarnation=incarnation,
        boot_ms=clock.boot_ms,
        now_ms=clock.now_ms,
        sleep_s=clock.sleep_s,
        **options,
    )


class _WatchedStream:
    """A stream whose reads are noted, with the time of each and how many frames it showed."""

    def __init__(self, stream: SimulatedStream, clock: SimulatedClock) -> None:
        self._stream = stream
        self._clock = clock
        self.reads: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        found = self._stream.read(from_number)
        self.reads.append((self._clock.time_ms, len(found)))
        return found


class _SteadyRandom(Random):
    """Lets no time pass in calls, and shows all there is."""

    def choice(self, seq: Any) -> Any:
        return seq[-1] if seq == (1, 2, 100) else seq[0]


def _standing_by(
    appended_each_pause_count: int, pauses_count: int = 20, **options: Any
) -> list[tuple[int, int]]:
    """Stand by for an owner that appends in each pause of the reader; return its reads."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    owner = _log(SimulatedStream(engine, _SteadyRandom(0), clock), clock, 1)
    list(owner.take_over(_go_on))
    watched = _WatchedStream(SimulatedStream(engine, _SteadyRandom(0), clock), clock)
    left = pauses_count

    def on_sleep() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise InterruptedError
        for _ in range(appended_each_pause_count):
            sequence = owner.next_sequence
            owner.append([(0, sequence, b"a")], sequence)

    reader = _log(watched, clock, 2, **options)
    clock.on_sleep = on_sleep
    with pytest.raises(InterruptedError):
        list(reader.take_over(_go_on))
    assert reader.waits_for == "n1"
    return list(watched.reads)


def test_a_node_that_stands_by_reads_at_intervals_however_much_is_appended() -> None:
    reads = _standing_by(3)
    assert len(reads) <= 22, "one in each pause, and those at the beginning"
    assert [shown_count for _, shown_count in reads[5:]] == [3] * len(reads[5:])


def test_a_node_that_is_behind_reads_on_immediately() -> None:
    reads = _standing_by(stream_log._READ_ON_COUNT, 10)
    shown = [shown_count for _, shown_count in reads]
    assert shown.count(0) >= 8, "after a large piece it looks whether there is more"


def test_a_node_looks_more_often_while_it_expects_the_group() -> None:
    reads = _standing_by(0, look_s=lambda: 0.01)
    assert reads[-1][0] - reads[5][0] < 20 * 30


def test_an_engine_that_is_behind_a_mark_is_looked_at_again() -> None:
    """A directory that began with a snapshot may have more than a server that was cut off shows.

    Seed 203 of `--nodes 3 --groups 4`: the node ended, and said that the log was set back.
    """
    engine, clock = SimulatedEngine(), SimulatedClock()
    owner = _log(SimulatedStream(engine, _SteadyRandom(0), clock), clock, 1)
    list(owner.take_over(_go_on))
    for number in range(1, 100):
        owner.append([(0, number, b"%d" % number)], number)
    mark = owner.mark_before(90)
    assert mark is not None
    owner.close()
    behind = SimulatedEngine(engine.identity, engine.frames[: mark.number - 1])
    began_ms = clock.time_ms

    def catch_up() -> None:
        if clock.time_ms >= began_ms + 5_000:
            behind.frames[:] = engine.frames

    reader = _log(SimulatedStream(behind, _SteadyRandom(0), clock), clock, 2, mark=mark)
    reader.check_mark("/data", catch_up)
    assert len(behind.frames) > mark.number


def test_who_follows_and_hears_that_the_owner_has_ended_does_not_wait_from_then_on() -> None:
    """It has all of that one's records, also those that were written in the meantime."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    first = _log(SimulatedStream(engine, _SteadyRandom(0), clock), clock, 1)
    list(first.take_over(_go_on))
    first.append([(0, 1, b"a")], 1)
    told: set[int] = set()
    stream = SimulatedStream(engine, _SteadyRandom(0), clock)
    second = _log(stream, clock, 2, ended=lambda: frozenset(told))
    heard_ms = 0

    def go_on() -> None:
        nonlocal heard_ms
        if second.waits_for is None or told:
            return
        if first.next_sequence == 2:
            first.append([(0, 2, b"b")], 2)
            first.close(keeps_ownership=True)
            told.add(1)
            heard_ms = clock.time_ms

    records = list(second.take_over(go_on))
    assert [record.body for _, record in records] == [b"a", b"b"]
    assert second.may_answer()
    assert clock.time_ms - heard_ms < 200
    assert second.epoch == 2
