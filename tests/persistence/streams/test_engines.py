"""What the protocol asks of an engine: simulated, PostgreSQL and NATS JetStream keep to all of it.

What only one of them does is in test_postgres_stream.py and test_jetstream_stream.py.
"""

import os
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from tests.helpers.nats import NatsServer
from tests.helpers.postgres import PostgresServer
from troth.core.limits import (
    STREAM_FRAME_LIMIT_BYTES,
    STREAM_READ_LIMIT_BYTES,
    STREAM_SILENCE_MS,
)
from troth.persistence.streams.chain import ChainMark
from troth.persistence.streams.stream import (
    SnapshotDescription,
    Stream,
    StreamKeeping,
    StreamUnreachable,
)
from troth.persistence.streams.stream_log import Deposed
from troth.persistence.wal.log import LogRecord

from .engines import Engine, TwinEngine, jetstream_engine, postgres_engine

pytestmark = pytest.mark.slow
_groups = count(1000)


@pytest.fixture(params=["simulated", "postgres", "jetstream"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return an engine with nothing in it."""
    if request.param == "simulated":
        return TwinEngine()
    group = next(_groups)
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server_of_session")
        return postgres_engine(postgres.url, group)
    nats: NatsServer = request.getfixturevalue("nats_server_of_session")
    return jetstream_engine(nats.url, group)


@pytest.fixture
def stream(engine: Engine) -> Iterator[Stream]:
    """Return a stream that was founded."""
    stream = engine.stream()
    assert stream.found(b"who it is") == b"who it is"
    yield stream
    stream.close()


@pytest.fixture
def keeping(engine: Engine, stream: Stream) -> Iterator[StreamKeeping]:
    """Return what is kept next to the stream."""
    keeping = engine.keeping()
    yield keeping
    keeping.close()


def _claimed(stream: Stream) -> None:
    assert stream.append(1, 1, b"claim", is_claim=True)


def _go_on() -> None:
    pass


def test_the_first_identity_stays(engine: Engine, stream: Stream) -> None:
    other = engine.stream()
    assert other.found(b"another") == b"who it is"
    assert stream.found(b"a third") == b"who it is"
    other.close()


def test_a_stream_without_frames_shows_none(stream: Stream) -> None:
    assert stream.read(1) == []
    assert stream.first() == 0


def test_frames_are_read_as_they_were_appended(stream: Stream) -> None:
    _claimed(stream)
    frames = [b"\0a", *(os.urandom(STREAM_FRAME_LIMIT_BYTES) for _ in range(3)), b""]
    for number, frame in enumerate(frames, 2):
        assert stream.append(number, 1, frame, is_claim=False)

    assert _all_from(stream, 1) == [b"claim", *frames]
    assert _all_from(stream, 5) == frames[3:]
    assert stream.read(len(frames) + 2) == []
    assert stream.first() == 1


def _all_from(stream: Stream, number: int) -> list[bytes]:
    """Return all frames from a number on, read as a node does that follows."""
    bodies: list[bytes] = []
    while shown := stream.read(number + len(bodies)):
        assert sum(len(body) for _, body in shown[1:]) <= STREAM_READ_LIMIT_BYTES
        for found, body in shown:
            assert found == number + len(bodies)
            bodies.append(body)
    return bodies


def test_many_frames_are_read_in_order_while_more_come(stream: Stream) -> None:
    _claimed(stream)
    for number in range(2, 60):
        assert stream.append(number, 1, b"%d" % number, is_claim=False)
    first = stream.read(1)
    assert stream.append(60, 1, b"60", is_claim=False)

    rest = _all_from(stream, len(first) + 1)

    bodies = [body for _, body in first] + rest
    assert bodies == [b"claim", *(b"%d" % number for number in range(2, 61))]
    assert stream.append(61, 1, b"61", is_claim=False)
    assert stream.read(61) == [(61, b"61")]


def test_a_number_is_taken_once_and_none_is_left_out(engine: Engine, stream: Stream) -> None:
    _claimed(stream)
    other = engine.stream()

    assert not stream.append(3, 1, b"a gap", is_claim=False)
    assert stream.append(2, 1, b"first", is_claim=False)
    assert not other.append(2, 1, b"second", is_claim=False)
    assert not other.append(2, 2, b"a claim", is_claim=True)
    assert not stream.append(2, 1, b"first", is_claim=False), "also the same again"
    assert _all_from(stream, 1) == [b"claim", b"first"]
    other.close()


def test_a_claim_takes_the_next_number_from_the_owner(engine: Engine, stream: Stream) -> None:
    _claimed(stream)
    other = engine.stream()
    assert other.append(2, 2, b"second claim", is_claim=True)

    assert not stream.append(2, 1, b"too late", is_claim=False)
    assert other.append(3, 2, b"the owner's", is_claim=False)
    assert _all_from(stream, 1) == [b"claim", b"second claim", b"the owner's"]
    other.close()


def test_a_batch_in_parts_is_read_whole(engine: Engine) -> None:
    log = engine.log(engine.stream(), 1)
    list(log.take_over(_go_on))
    body = bytes(range(256)) * 5000
    assert log.append([(0, 1, body)], 1) == 1
    assert log.append([(0, 2, b"small")], 2) == 2
    log.close()

    other = engine.log(engine.stream(), 2)
    records = [record for _, record in other.take_over(_go_on)]

    assert records == [LogRecord(0, 1, body), LogRecord(0, 2, b"small")]
    other.close()


def test_a_second_node_takes_over_and_the_first_is_deposed(engine: Engine) -> None:
    first = engine.log(engine.stream(), 1)
    list(first.take_over(_go_on))
    first.append([(0, 1, b"a")], 1)

    second = engine.log(engine.stream(), 2)
    silent_ms = first.silence_ms
    assert [record.body for _, record in second.take_over(_go_on)] == [b"a"]
    assert first.silence_ms - silent_ms >= STREAM_SILENCE_MS

    assert not first.may_answer()
    with pytest.raises(Deposed):
        first.append([(0, 2, b"b")], 2)
    assert second.append([(0, 2, b"c")], 2) == 2
    first.close()
    second.close()


def test_a_released_stream_is_taken_over_without_waiting(engine: Engine) -> None:
    first = engine.log(engine.stream(), 1)
    list(first.take_over(_go_on))
    first.close()

    second = engine.log(engine.stream(), 2)
    silent_ms = first.silence_ms
    list(second.take_over(_go_on))

    assert second.epoch == 2
    assert first.silence_ms - silent_ms < STREAM_SILENCE_MS
    second.close()


def test_nodes_that_come_together_found_it_once(engine: Engine) -> None:
    streams = [engine.stream() for _ in range(4)]
    found: list[bytes] = []

    def make(stream: Stream, identity: bytes) -> None:
        for _ in range(20):  # a server tries again for a while
            try:
                found.append(stream.found(identity))
                return
            except StreamUnreachable:
                continue

    threads = [
        threading.Thread(target=make, args=(one, b"%d" % n)) for n, one in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1
    for one in streams:
        one.close()


# What is kept next to a stream


def test_the_least_that_a_node_needs_is_known(keeping: StreamKeeping) -> None:
    assert keeping.needed_number() is None
    keeping.note_reader("machine.example:/var/cache/troth", 9)
    keeping.note_reader("b", 7)
    keeping.note_reader("a", 12)
    assert keeping.needed_number() == 7
    keeping.note_reader("b", 10)
    assert keeping.needed_number() == 9


@pytest.mark.parametrize("number", [0, 1])
def test_a_node_that_has_read_nothing_holds_everything_back(
    keeping: StreamKeeping, stream: Stream, number: int
) -> None:
    """A purge in JetStream that names sequence 0 would remove all."""
    _claimed(stream)
    assert stream.append(2, 1, b"a", is_claim=False)
    keeping.note_reader("new", number)

    assert keeping.needed_number() == number
    assert keeping.trim(number, 1) == 0
    assert _all_from(stream, 1) == [b"claim", b"a"]


def test_a_snapshot_counts_when_it_is_whole_and_stays_while_the_next_is_written(
    keeping: StreamKeeping, stream: Stream
) -> None:
    _claimed(stream)
    assert keeping.snapshot() is None
    mark = ChainMark(5, 4_000_000_000, 1, 7, 2**64 - 1, 1_700_000_000_000)
    for identifier in (17, 18, 19):
        place = keeping.begin_snapshot(1)
        for number in range(3):
            keeping.add_piece(place, identifier, number, b"%d/%d" % (identifier, number), 1)
        newest = keeping.snapshot()
        assert newest is None or newest.identifier == identifier - 1, "not finished yet"
        if newest is not None:
            assert keeping.piece(newest.place, newest.identifier, 2) is not None
            assert keeping.piece(newest.place, newest.identifier - 1, 2) is None, "it was removed"
        made = SnapshotDescription(identifier, place, 3, 12, "digest", 1_700, mark)
        keeping.finish_snapshot(made, 1)
        assert keeping.snapshot() == made
        assert keeping.piece(place, identifier, 1) == b"%d/1" % identifier
        assert keeping.piece(place, identifier, 3) is None
    moved = made._replace(mark=mark._replace(number=6))
    keeping.finish_snapshot(moved, 1)
    assert keeping.snapshot() == moved, "its mark can move on"


def test_a_node_that_was_deposed_finishes_no_snapshot_and_trims_nothing(
    engine: Engine, keeping: StreamKeeping, stream: Stream
) -> None:
    _claimed(stream)
    place = keeping.begin_snapshot(1)
    keeping.add_piece(place, 1, 0, b"a", 1)
    assert stream.append(2, 2, b"second claim", is_claim=True)
    made = SnapshotDescription(1, place, 1, 1, "digest", 0, ChainMark(1, 0, 1, 1, 0, 0))

    with pytest.raises(StreamUnreachable):
        keeping.finish_snapshot(made, 1)
    assert keeping.snapshot() is None
    assert keeping.trim(2, 1) == 0
    assert stream.first() == 1
