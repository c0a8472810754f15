"""A log on a simulated stream: what it promises, whatever the engine does."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.helpers.seeds import seeds
from tests.twins.simulated_stream import FAULTS, SimulatedClock, SimulatedEngine, SimulatedStream
from troth.core.limits import (
    STREAM_FRAME_LIMIT_BYTES,
    STREAM_LEASE_MS,
    STREAM_SILENCE_MS,
    STREAM_TAKEOVER_WAIT_MS,
)
from troth.persistence.errors import LogConflict, LogFailed
from troth.persistence.streams import features, stream_log
from troth.persistence.streams.chain import ChainMark, StreamDamaged, StreamTrimmed
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.ownership import Standing
from troth.persistence.streams.stream_frames import FrameKind, decode_stream_frame
from troth.persistence.streams.stream_log import Deposed, StreamLog
from troth.persistence.wal.log import LogRecord


def _log(
    engine: SimulatedEngine,
    clock: SimulatedClock,
    incarnation: int = 1,
    *,
    seed: int = 0,
    chance: float = 0.0,
    faults: tuple[str, ...] = FAULTS,
    mark: ChainMark | None = None,
) -> StreamLog:
    stream = SimulatedStream(engine, Random(f"{seed} {incarnation}"), clock, chance, faults)
    return _log_on(stream, clock, incarnation, mark)


def _log_on(
    stream: SimulatedStream,
    clock: SimulatedClock,
    incarnation: int = 1,
    mark: ChainMark | None = None,
    ended: Callable[[], frozenset[int]] = frozenset,
) -> StreamLog:
    return StreamLog(
        stream,
        ended=ended,
        node=f"n{incarnation}",
        incarnation=incarnation,
        boot_ms=clock.boot_ms,
        now_ms=clock.now_ms,
        sleep_s=clock.sleep_s,
        mark=mark,
    )


def _go_on() -> None:
    pass


def _owner(engine: SimulatedEngine, clock: SimulatedClock, incarnation: int = 1) -> StreamLog:
    log = _log(engine, clock, incarnation)
    assert list(log.take_over(_go_on)) is not None
    return log


def _kinds(engine: SimulatedEngine) -> list[FrameKind]:
    decoded = [decode_stream_frame(data) for data in engine.frames]
    return [one[0].kind for one in decoded if one is not None]


def test_an_empty_stream_is_claimed_without_waiting() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    began_ms = clock.time_ms

    log = _owner(engine, clock)

    assert log.may_answer()
    assert clock.time_ms - began_ms < 100
    assert _kinds(engine) == [FrameKind.OWNER]


def test_what_was_appended_is_read_by_the_next_owner() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    assert log.append([(0, 1, b"a"), (1, 1, b"b")], 1) == 2
    assert log.append([(0, 2, b"c")], 3) == 3
    log.close()
    began_ms = clock.time_ms

    read = list(_log(engine, clock, 2).take_over(_go_on))

    assert read == [
        (1, LogRecord(0, 1, b"a")),
        (2, LogRecord(1, 1, b"b")),
        (3, LogRecord(0, 2, b"c")),
    ]
    assert clock.time_ms - began_ms < 100, "the old owner had released it"


def test_a_batch_larger_than_a_frame_goes_in_parts() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    body = bytes(range(256)) * 5000

    log.append([(0, 1, body)], 1)

    assert max(map(len, engine.frames)) < STREAM_FRAME_LIMIT_BYTES + 100
    assert _kinds(engine) == [FrameKind.OWNER, *[FrameKind.PART] * 2, FrameKind.RECORDS]
    assert list(log.read(1)) == [(1, LogRecord(0, 1, body))]


@pytest.mark.parametrize("more_bytes", [-1, 0, 1])
def test_a_batch_of_just_a_frame_is_whole(more_bytes: int) -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    body = b"x" * (STREAM_FRAME_LIMIT_BYTES - 16 + more_bytes)

    log.append([(0, 1, body)], 1)

    assert list(log.read(1)) == [(1, LogRecord(0, 1, body))]


def test_parts_that_an_owner_left_behind_do_not_count() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    log._put(FrameKind.PART, b"half of a batch")

    second = _log(engine, clock, 2)
    assert list(second.take_over(_go_on)) == []
    second.append([(0, 1, b"a")], 1)

    assert list(second.read(1)) == [(1, LogRecord(0, 1, b"a"))]


def test_a_log_that_failed_in_the_middle_of_a_batch_releases_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    put = StreamLog._put

    def put_parts_only(self: StreamLog, kind: FrameKind, payload: bytes, **options: Any) -> None:
        if kind is FrameKind.RECORDS:
            raise MemoryError
        put(self, kind, payload, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StreamLog, "_put", put_parts_only)
        with pytest.raises(LogFailed, match="memory ran out"):
            log.append([(0, 1, b"x" * 2 * STREAM_FRAME_LIMIT_BYTES)], 1)
    log.close()

    assert _kinds(engine)[-1] is FrameKind.PART
    assert list(_log(engine, clock, 2).take_over(_go_on)) == []


def test_bad_appends_write_nothing() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    log.append([(0, 5, b"a")], 1)
    count = len(engine.frames)

    with pytest.raises(ValueError, match="at least one"):
        log.append([], 2)
    with pytest.raises(LogConflict):
        log.append([(0, 6, b"a")], 1)
    with pytest.raises(ValueError, match="too late"):
        log.append([(0, 5, b"a")], 2)
    with pytest.raises(ValueError, match="out of range"):
        log.append([(-1, 6, b"a")], 2)

    assert len(engine.frames) == count
    assert log.append([(0, 6, b"a")], 2) == 2


def test_a_second_node_stands_by_until_the_owner_is_silent_and_its_lease_is_over() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    first = _owner(engine, clock)
    first.append([(0, 1, b"a")], 1)
    sent_ms = clock.time_ms
    looks = 0

    def go_on() -> None:
        nonlocal looks, sent_ms
        looks += 1
        if looks < 50:
            sent_ms = clock.time_ms
            first.seal()

    second = _log(engine, clock, 2)
    assert [record.body for _, record in second.take_over(go_on)] == [b"a"]

    assert clock.time_ms >= sent_ms + STREAM_TAKEOVER_WAIT_MS
    assert clock.time_ms <= sent_ms + STREAM_SILENCE_MS + 2_000
    assert second.may_answer()
    assert not first.may_answer()
    with pytest.raises(Deposed, match="another server has taken over"):
        first.append([(0, 2, b"b")], 2)
    with pytest.raises(Deposed):
        first.seal()


def test_an_owner_is_not_replaced_because_the_engine_was_away() -> None:
    """It could not say anything; when the engine is back, it has as long as ever to do so."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    first = _owner(engine, clock)
    stream = SimulatedStream(engine, Random(1), clock, faults=("no read",))
    second = _log_on(stream, clock, 2)
    away_from_ms, away_until_ms = clock.time_ms + 1_000, clock.time_ms + 11_000
    claimed_ms = 0

    def go_on() -> None:
        nonlocal claimed_ms
        stream.chance = 1.0 if away_from_ms <= clock.time_ms < away_until_ms else 0.0
        if clock.time_ms < away_from_ms:
            first.seal()
        if not second.is_following and not claimed_ms:
            claimed_ms = clock.time_ms

    list(second.take_over(go_on))

    assert claimed_ms >= away_until_ms + STREAM_SILENCE_MS
    assert claimed_ms <= away_until_ms + STREAM_SILENCE_MS + 2_000


def test_an_owner_that_says_nothing_may_not_answer_after_its_lease() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)

    clock.time_ms += STREAM_LEASE_MS
    assert not log.may_answer()
    log.seal()
    assert log.may_answer()


def test_a_lease_counts_from_when_what_was_acknowledged_was_sent() -> None:
    """The next owner counts from when it received that, which may have been soon after."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    land = engine.land
    takes_ms = STREAM_LEASE_MS - 100

    def land_slowly(*arguments: Any, **more: Any) -> bool:
        is_there = land(*arguments, **more)
        clock.time_ms += takes_ms
        return is_there

    engine.land = land_slowly  # type: ignore[method-assign]
    log.append([(0, 1, b"a")], 1)

    assert log.may_answer()
    clock.time_ms += 100
    assert not log.may_answer()


def test_an_owner_says_no_time_below_that_of_the_last_frame() -> None:
    engine, ahead, clock = SimulatedEngine(), SimulatedClock(9_000_000), SimulatedClock()
    log = _owner(engine, ahead)
    log.close()
    told_ms = log.time_ms

    other = _owner(engine, clock, 2)
    other.append([(0, 1, b"a")], 1)

    assert clock.now_ms() < told_ms
    assert other.time_ms == told_ms


def test_an_owner_does_not_answer_before_all_that_it_has_read_is_durable() -> None:
    """An engine may show what it has not replicated, and lose it with its leader."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    stream = SimulatedStream(engine, Random(1), clock)
    log = _log_on(stream, clock)
    stream.chance, stream._faults = 1.0, ("answer lost",)

    for _ in log.take_over(_stop_losing(stream)):
        pass

    assert log._own.durable_number == log.number == 2, "the claim, and what was acknowledged"
    assert log.may_answer()


def _stop_losing(stream: SimulatedStream) -> Callable[[], None]:
    """Let answers come from when the claim stands there."""

    def pause() -> None:
        if len(stream._engine.frames) == 1:
            stream.chance = 0.0

    return pause


def test_an_idle_owner_says_that_it_is_alive() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)

    for _ in range(3):
        wait_s = log.seal()
        assert wait_s is not None
        clock.sleep_s(wait_s)
        assert log.may_answer()

    assert _kinds(engine)[1:] == [FrameKind.ALIVE] * 2


def test_an_engine_that_does_not_answer_ends_the_log_when_patience_is_over() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    stream = SimulatedStream(engine, Random(1), clock)
    log = _log_on(stream, clock)
    list(log.take_over(_go_on))
    stream.chance, stream._faults = 1.0, ("lost", "no read")
    began_ms = clock.time_ms

    with pytest.raises(LogFailed, match="has not answered for 30 s: no answer"):
        log.append([(0, 1, b"a")], 1)

    assert clock.time_ms - began_ms >= 30_000
    with pytest.raises(LogFailed, match="has not answered"):
        log.append([(0, 1, b"a")], 1)
    log.close()
    assert stream.is_closed


@pytest.mark.seeds
def test_nothing_is_lost_or_doubled_whatever_the_engine_does() -> None:
    """Five nodes at one stream, one after the other: what was acknowledged is in it, once."""
    for seed in seeds(0, 40, 2000):
        _check_run(seed)


def _check_run(seed: int) -> None:
    random = Random(f"run {seed}")
    engine, clock = SimulatedEngine(), SimulatedClock()
    acknowledged: list[bytes] = []
    sequences: dict[int, int] = {}
    for incarnation in range(1, 6):
        log = _log(engine, clock, incarnation, seed=seed, chance=random.choice((0, 0.2, 0.6)))
        try:
            read = [record.body for _, record in log.take_over(_go_on)]
            assert [body for body in read if body in set(acknowledged)] == acknowledged, seed
            assert len(read) == len(set(read)), seed
            assert log.may_answer()
            sequences = {0: len(read)}
            for _ in range(random.randrange(12)):
                sequences[0] += 1
                body = b"%d/%d" % (incarnation, sequences[0])
                assert log.append([(0, sequences[0], body)], log.next_sequence)
                acknowledged.append(body)
                if random.random() < 0.3:
                    clock.sleep_s(random.random())
                    log.seal()
        except Deposed:
            raise  # no other node is there
        except LogFailed:
            pass  # the engine did not answer for too long: the next node finds out
        if random.random() < 0.5:
            log.close()


def test_every_fault_is_met() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    stream = SimulatedStream(engine, Random(3), clock, 0.5)
    log = _log_on(stream, clock)
    list(log.take_over(_go_on))
    for number in range(1, 30):
        log.append([(0, number, b"%d" % number)], number)

    assert stream.met == set(FAULTS)


@pytest.mark.parametrize("place", [0, 9, 20, 63, 64, -1])
def test_a_byte_that_rots_is_found(place: int) -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    log.append([(0, 1, b"abc")], 1)
    rotten = bytearray(engine.frames[1])
    rotten[place] ^= 1
    engine.frames[1] = bytes(rotten)

    with pytest.raises(StreamDamaged, match="frame 2"):
        list(_log(engine, clock, 2).take_over(_go_on))


def test_a_frame_that_is_missing_is_found() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 4):
        log.append([(0, number, b"a")], number)
    del engine.frames[2]

    with pytest.raises(StreamDamaged, match="frame 3"):
        list(_log(engine, clock, 2).take_over(_go_on))


def test_a_frame_of_another_history_is_found() -> None:
    """As when a database is set back, and goes on, and a page of what it was comes back."""
    engines = [SimulatedEngine(), SimulatedEngine()]
    for engine, body in zip(engines, (b"a", b"b"), strict=True):
        log = _owner(engine, SimulatedClock())
        log.append([(0, 1, body)], 1)
        log.append([(0, 2, b"c")], 2)
    engines[0].frames[2] = engines[1].frames[2]

    with pytest.raises(StreamDamaged, match=r"frame 3: it does not continue"):
        list(_log(engines[0], SimulatedClock(), 2).take_over(_go_on))


def test_reading_goes_on_from_a_mark() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 200):
        log.append([(0, number, b"%d" % number)], number)
    mark = log.mark_before(100)
    assert mark is not None
    assert 30 < mark.next_sequence <= 100
    assert log.mark_before(mark.next_sequence) == mark
    assert log.mark_before(mark.next_sequence - 1) is None, "older ones are forgotten"
    log.close()

    second = _log(engine, clock, 2, mark=mark)
    read = list(second.take_over(_go_on))

    assert [sequence for sequence, _ in read] == list(range(mark.next_sequence, 200))
    assert second._own.standing is Standing.OWNING


def test_marks_stay_few_however_long_no_checkpoint_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_log, "_MARKS_LIMIT_COUNT", 4)
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 1_000):
        log.append([(0, number, b"a")], number)

    assert len(log._marks) <= 5
    mark = log.mark_before(70)
    assert mark is not None
    assert mark.next_sequence <= 70
    mark = log.mark_before(999)
    assert mark is not None
    assert mark.number >= 999 - 2 * 64 * 4


def test_records_are_read_back_where_the_stream_was_trimmed() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 200):
        log.append([(0, number, b"%d" % number)], number)
    mark = log.mark_before(150)
    assert mark is not None
    engine.trimmed_count = mark.number - 1

    assert [sequence for sequence, _ in log.read(150, mark)] == list(range(150, 200))


def test_who_was_away_for_too_long_is_told_so() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 5):
        log.append([(0, number, b"a")], number)
    engine.trimmed_count = 2

    with pytest.raises(StreamTrimmed, match="begins with frame 3, and this server has read up to"):
        list(_log(engine, clock, 2).take_over(_go_on))


def test_an_owner_whose_doubt_was_trimmed_is_deposed() -> None:
    """It was halted in the middle of an append, and another has gone on for an hour."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    clock.time_ms += STREAM_SILENCE_MS
    second = _owner(engine, clock, 2)
    for number in range(1, 5):
        second.append([(0, number, b"a")], number)
    engine.trimmed_count = 4

    with pytest.raises(Deposed):
        log.append([(0, 1, b"b")], 1)


def test_a_mark_is_held_against_what_the_stream_has() -> None:
    """A database that was set back to an earlier state lacks what the checkpoints have."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    for number in range(1, 200):
        log.append([(0, number, b"%d" % number)], number)
    mark = log.mark_before(150)
    assert mark is not None
    log.close()
    _log(engine, clock, 2, mark=mark).check_mark("/data", _go_on)

    other, later = SimulatedEngine(), SimulatedClock()
    log = _owner(other, later, 9)
    for number in range(1, 200):
        log.append([(0, number, b"other %d" % number)], number)
    set_back = SimulatedEngine(engine.identity, engine.frames[: mark.number - 1])
    for changed in (other, set_back):
        with pytest.raises(StreamDamaged, match="the checkpoints in /data have"):
            _log(changed, clock, 2, mark=mark).check_mark("/data", _go_on)


def test_a_stream_that_cannot_be_read_is_given_up_when_patience_is_over() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    _owner(engine, clock).close()
    began_ms = clock.time_ms
    with pytest.raises(LogFailed, match="has not answered for 30 s: no answer"):
        list(_log(engine, clock, 2, chance=1.0, faults=("no read",)).take_over(_go_on))
    assert clock.time_ms - began_ms >= 30_000


def test_reading_begins_with_any_record() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _log(engine, clock)
    assert list(log.read(1)) == [], "nothing is durable"
    list(log.take_over(_go_on))
    log.append([(0, 1, b"a"), (0, 2, b"b"), (0, 3, b"c")], 1)
    assert list(log.read(3)) == [(3, LogRecord(0, 3, b"c"))]
    assert list(log.read(4)) == []


def test_a_log_that_is_closed_takes_nothing() -> None:
    engine, clock = SimulatedEngine(), SimulatedClock()
    log = _owner(engine, clock)
    log.close()
    frames_count = len(engine.frames)
    log.close()
    for act in (lambda: log.append([(0, 1, b"a")], 1), log.seal):
        with pytest.raises(LogFailed, match="closed"):
            act()
    assert len(engine.frames) == frames_count


def test_what_stands_where_a_frame_was_sent_and_is_no_frame_ends_the_log() -> None:
    """Its answer was lost, and what the engine shows there is not what anyone has written."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    stream = SimulatedStream(engine, Random(1), clock)
    log = _log_on(stream, clock)
    list(log.take_over(_go_on))
    stream.chance, stream._faults = 1.0, ("answer lost",)

    def rot() -> None:
        engine.frames[-1] = b"rotten"

    clock.on_sleep = rot
    landed = engine.land

    def land(number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        is_there = landed(number, epoch, frame, is_claim=is_claim)
        rot()
        return is_there

    engine.land = land  # type: ignore[method-assign]
    with pytest.raises(LogFailed, match="it is not what was written"):
        log.append([(0, 1, b"a")], 1)


@pytest.mark.parametrize("begins_at_mark", [False, True])
def test_who_knows_that_the_owner_has_ended_does_not_wait(begins_at_mark: bool) -> None:
    """It comes in its place; another node has to wait, since nothing was released."""
    engine, clock = SimulatedEngine(), SimulatedClock()
    first = _owner(engine, clock)
    first.append([LogRecord(0, 1, b"a")], 1)
    mark = first.mark_before(2)
    first.close(keeps_ownership=True)
    assert FrameKind.RELEASED not in _kinds(engine)
    began_ms = clock.time_ms

    stream = SimulatedStream(engine, Random(2), clock)
    second = _log_on(stream, clock, 2, mark if begins_at_mark else None, lambda: frozenset({1}))
    if begins_at_mark:
        second.check_mark("directory", _go_on)
    records = list(second.take_over(_go_on))

    assert [record.body for _, record in records] == ([] if begins_at_mark else [b"a"])
    assert second.may_answer()
    assert clock.time_ms - began_ms < 200
    assert second.epoch == 2


def test_what_not_all_nodes_can_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of record that came with a later version waits until the cluster is finalized."""
    later = FEATURES + 1
    monkeypatch.setattr(features, "RECORD_FEATURES", {"thing-happened/1": later})
    log = _owner(SimulatedEngine(), SimulatedClock())
    known, new = b'["promise-created/1","p"]', b'["thing-happened/1","p"]'

    assert log.append([(0, 1, known)], 1) == 1
    with pytest.raises(ValueError, match="a kind of record that not all nodes can read"):
        log.append([(0, 2, known), (1, 1, new)], 2)
    assert log.next_sequence == 2
    log.agree(later)
    assert log.append([(1, 1, new)], 2) == 2
