"""Streams in a real NATS server: how it is set up, what is refused, and how it fails.

What holds for all engines is in test_engines.py.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import TypeVar

import pytest

from tests.helpers.nats import NatsServer, nats_cluster
from troth.persistence.streams import jetstream_keeping, jetstream_stream
from troth.persistence.streams.chain import ChainMark
from troth.persistence.streams.jetstream_connection import JetStreamConnection, JetStreamRefusal
from troth.persistence.streams.jetstream_keeping import JetStreamKeeping
from troth.persistence.streams.jetstream_layout import JetStreamLayout
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.stream import SnapshotDescription, StreamRefused, StreamUnreachable
from troth.persistence.streams.stream_log import StreamLog
from troth.persistence.wal.log import LogRecord

from .engines import jetstream_engine

pytestmark = pytest.mark.slow
Answer = TypeVar("Answer")
_names = count()


@pytest.fixture
def server(nats_server_of_session: NatsServer) -> NatsServer:
    return nats_server_of_session


@pytest.fixture
def url(server: NatsServer) -> str:
    """Return where nothing is yet."""
    return f"{server.url}/js{next(_names)}"


@pytest.fixture
def stream(url: str) -> Iterator[JetStreamStream]:
    stream = JetStreamStream(url, replicas_count=1, answer_limit_ms=10_000)
    stream.found(b"who it is")
    yield stream
    stream.close()


@pytest.fixture
def connection(url: str) -> Iterator[JetStreamConnection]:
    """Return an operator's connection."""
    connection = JetStreamConnection(read_jetstream_url(url), 10_000)
    yield connection
    connection.close()


@pytest.fixture
def keeping(url: str, stream: JetStreamStream) -> Iterator[JetStreamKeeping]:
    keeping = JetStreamKeeping(url, answer_limit_ms=10_000)
    yield keeping
    keeping.close()


def _fill(stream: JetStreamStream, until: int) -> None:
    assert stream.append(1, 1, b"claim", is_claim=True)
    for number in range(2, until + 1):
        assert stream.append(number, 1, b"%d" % number, is_claim=False)


def _layout(url: str) -> JetStreamLayout:
    return JetStreamLayout(read_jetstream_url(url).name, 0)


def _go_on() -> None:
    pass


# How it is set up


def test_a_stream_keeps_everything_and_answers_only_as_its_leader(
    url: str, stream: JetStreamStream, connection: JetStreamConnection
) -> None:
    config = connection.api(f"STREAM.INFO.{_layout(url).frames}")["config"]

    assert config["storage"] == "file"
    assert config["discard"] == "new"
    assert (config["max_msgs"], config["max_bytes"], config["max_age"]) == (-1, -1, 0)
    assert config["max_msg_size"] == 1 << 20
    assert config["duplicate_window"] == 100_000_000
    assert config["deny_delete"] is True
    assert config["allow_direct"] is False
    with pytest.raises(JetStreamRefusal):
        connection.api(f"STREAM.MSG.DELETE.{_layout(url).frames}", {"seq": 1})


@pytest.mark.parametrize(
    ("kind", "field", "value", "text"),
    [
        ("frames", "max_age", 3_600_000_000_000, "max_age 3600000000000, and 0 is needed"),
        ("frames", "allow_direct", True, "allow_direct True, and False is needed"),
        ("pieces", "max_bytes", 1 << 30, "max_bytes 1073741824, and -1 is needed"),
    ],
)
def test_a_stream_that_could_lose_or_hide_something_is_refused(
    url: str,
    stream: JetStreamStream,
    connection: JetStreamConnection,
    kind: str,
    field: str,
    value: object,
    text: str,
) -> None:
    name = getattr(_layout(url), kind)
    config = connection.api(f"STREAM.INFO.{name}")["config"]
    connection.api(f"STREAM.UPDATE.{name}", {**config, field: value})

    with pytest.raises(StreamRefused, match=f"{text}.*nats stream edit {name}"):
        stream.found(b"who it is")


def test_copies_that_a_single_server_cannot_have_are_refused(url: str) -> None:
    stream = JetStreamStream(url)
    with pytest.raises(StreamRefused, match="replicas > 1 not supported"):
        stream.found(b"who it is")
    stream.close()


def test_a_number_of_copies_that_is_not_the_streams_is_refused(
    url: str, stream: JetStreamStream
) -> None:
    other = JetStreamStream(url, replicas_count=3)
    with pytest.raises(StreamRefused, match="num_replicas 1, and 3 is needed"):
        other.found(b"who it is")
    other.close()
    unsaid = JetStreamStream(url)
    assert unsaid.found(b"another") == b"who it is", "as it is"
    unsaid.close()


def test_a_stream_that_was_deleted_is_not_made_again(
    url: str, stream: JetStreamStream, connection: JetStreamConnection
) -> None:
    connection.api(f"STREAM.DELETE.{_layout(url).frames}")

    with pytest.raises(StreamRefused, match="it is gone, but its notes are there"):
        stream.found(b"who it is")


def test_a_stream_whose_notes_are_anothers_is_refused(
    url: str, stream: JetStreamStream, connection: JetStreamConnection
) -> None:
    connection.api(f"STREAM.DELETE.KV_{_layout(url).bucket}")

    with pytest.raises(StreamRefused, match="it is of other data than the notes"):
        stream.found(b"another")


# Reading and trimming


def test_numbers_that_were_trimmed_are_never_free_again(
    stream: JetStreamStream, keeping: JetStreamKeeping
) -> None:
    _fill(stream, 9)
    assert keeping.trim(6, 2) == 0, "only the owner trims"
    assert keeping.trim(6, 1) == 5
    assert keeping.trim(6, 1) == 0
    assert stream.first() == 6
    assert stream.read(1)[0] == (6, b"6"), "the first that is there"
    assert not stream.append(3, 1, b"late", is_claim=False)
    assert not stream.append(1, 1, b"late", is_claim=True)

    assert keeping.trim(10, 1) == 4
    assert stream.first() == 0
    assert not stream.append(5, 1, b"late", is_claim=False)
    assert stream.append(10, 1, b"10", is_claim=False)


def test_what_a_consumer_does_not_show_is_asked_for(
    url: str, stream: JetStreamStream, connection: JetStreamConnection
) -> None:
    window = jetstream_stream._WINDOW_COUNT
    _fill(stream, 3 * window)
    assert len(stream.read(1)) == window
    assert stream._consumer is not None
    frames = _layout(url).frames
    connection.api(f"CONSUMER.DELETE.{frames}.{stream._consumer}")
    assert [number for number, _ in stream.read(window + 1)] == [*range(window + 1, 2 * window + 1)]
    connection.api(f"STREAM.PURGE.{frames}", {"seq": 2 * window + 3})
    assert stream.read(2 * window + 1)[0][0] == 2 * window + 3, "a gap is shown as one"


def test_frames_go_to_the_server_that_leads_and_to_the_next_one() -> None:
    with nats_cluster() as cluster:
        url = f"{cluster.url}/led"
        stream = JetStreamStream(url, answer_limit_ms=10_000)
        connection = JetStreamConnection(read_jetstream_url(url), 10_000)
        _again(lambda: stream.found(b"who it is"), stream)
        _put(stream, 1, b"claim", is_claim=True)
        leaders = []
        for number in range(2, 6):
            stream._leader_due_s = 0.0
            _put(stream, number, b"more")
            leader = cluster.leader("led_frames_0")
            while stream._connection._servers[0] != leader.url:  # on a busy machine another leads
                _again(stream._go_to_leader, stream)
                leader = cluster.leader("led_frames_0")
            leaders.append(leader.name)
            _again(lambda: connection.api("STREAM.LEADER.STEPDOWN.led_frames_0"), stream)
            _until_led_by_another(stream, leader.name)
        assert len({*leaders}) > 1
        shown: list[int] = []
        while len(shown) < 5:
            begin = len(shown) + 1
            frames = _again(partial(stream.read, begin), stream)
            shown += [number for number, _ in frames]
        assert shown == [*range(1, 6)]
        connection.close()
        stream.close()


def test_a_leader_that_cannot_be_reached_is_done_without() -> None:
    with nats_cluster() as cluster:
        stream = JetStreamStream(f"{cluster.url}/led", answer_limit_ms=10_000)
        _again(lambda: stream.found(b"who it is"), stream)
        _put(stream, 1, b"claim", is_claim=True)
        leader = cluster.leader("led_frames_0")
        connection = stream._connection
        connection._addresses[leader.name] = "nats://127.0.0.1:1"
        connection._servers = [one.url for one in cluster.servers if one is not leader]
        connection._servers.append("nats://127.0.0.1:1")
        connection.close()
        _put(stream, 2, b"more")
        assert connection._servers[0] not in (leader.url, "nats://127.0.0.1:1")
        stream.close()


def _again(ask: Callable[[], Answer], stream: JetStreamStream) -> Answer:
    """Ask again as long as no server leads, as on a busy machine for moments."""
    ends_s = time.monotonic() + 60
    while True:
        stream._leader_due_s = 0.0
        try:
            return ask()
        except (StreamUnreachable, JetStreamRefusal):
            assert time.monotonic() < ends_s
            time.sleep(0.05)


def _put(stream: JetStreamStream, number: int, frame: bytes, *, is_claim: bool = False) -> None:
    """Append as a log does: what is in doubt is looked for, and sent again if it is not there."""

    def is_put() -> bool:
        is_durable = stream.append(number, 1, frame, is_claim=is_claim)
        return is_durable or stream.read(number) == [(number, frame)]

    while not _again(is_put, stream):
        time.sleep(0.05)


def _until_led_by_another(stream: JetStreamStream, leader: str) -> None:
    ends_s = time.monotonic() + 60
    led_by = leader
    while led_by == leader:
        assert time.monotonic() < ends_s
        time.sleep(0.05)
        with contextlib.suppress(StreamUnreachable, IndexError):  # they choose one
            led_by = stream.servers()[0]


# Failures


def _log(url: str, answer_limit_ms: int) -> StreamLog:
    stream = JetStreamStream(url, replicas_count=1, answer_limit_ms=answer_limit_ms)
    return jetstream_engine(url, 0).log(stream, 1)


def test_a_server_that_hangs_is_left_and_its_append_counts_once(
    server: NatsServer, url: str
) -> None:
    log = _log(url, 300)
    list(log.take_over(_go_on))
    with server.halted():
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(log.append([(0, 1, b"a")], 1)))
        thread.start()
        time.sleep(0.8)
        assert not ended
    thread.join(60)
    assert ended == [1]
    assert log.append([(0, 2, b"b")], 2) == 2

    assert [record for _, record in log.read(1)] == [LogRecord(0, 1, b"a"), LogRecord(0, 2, b"b")]
    log.close()


def test_a_server_that_is_killed_leaves_nothing_in_doubt_for_long(
    server: NatsServer, url: str
) -> None:
    log = _log(url, 10_000)
    list(log.take_over(_go_on))
    log.append([(0, 1, b"a")], 1)
    server.stop(signal.SIGKILL)
    server.start()

    assert log.append([(0, 2, b"b")], 2) == 2
    assert [record.body for _, record in log.read(1)] == [b"a", b"b"]
    log.seal()
    assert log.may_answer()
    log.close()


# Snapshots


def _description(place: int, identifier: int) -> SnapshotDescription:
    return SnapshotDescription(identifier, place, 1, 1, "digest", 0, ChainMark(1, 0, 1, 1, 0, 0))


def test_an_old_owner_cannot_harm_what_the_new_one_has_written(
    url: str, stream: JetStreamStream, keeping: JetStreamKeeping
) -> None:
    """It was halted in the middle of a snapshot, and goes on after the new owner's."""
    _fill(stream, 1)
    place = keeping.begin_snapshot(1)
    keeping.add_piece(place, 1, 0, b"a", 1)
    revision = keeping._newest()[2]
    other = JetStreamKeeping(url, answer_limit_ms=10_000)
    assert stream.append(2, 2, b"second claim", is_claim=True)
    later = other.begin_snapshot(2)
    assert keeping.piece(place, 1, 0) is None, "what nobody will finish was removed"
    other.add_piece(later, 2, 0, b"b", 2)

    # What it has sent before the claim may come late.
    with pytest.raises(StreamUnreachable, match="another node owns the stream"):
        keeping._write_newest(_description(place, 1), 1, revision)
    with pytest.raises(StreamUnreachable, match="another node owns the stream"):
        keeping.finish_snapshot(_description(place, 1), 1)
    with pytest.raises(StreamUnreachable, match="another node owns the stream"):
        keeping.begin_snapshot(1)
    keeping.add_piece(place, 1, 1, b"a", 1)

    assert other.piece(later, 2, 0) == b"b"
    other.finish_snapshot(_description(later, 2), 2)
    assert other.snapshot() == _description(later, 2)
    other.begin_snapshot(2)
    assert other.piece(later, 2, 0) == b"b"
    assert keeping.piece(place, 1, 1) is None
    other.close()


def test_what_an_old_owner_removes_is_not_the_new_ones(
    monkeypatch: pytest.MonkeyPatch, url: str, stream: JetStreamStream, keeping: JetStreamKeeping
) -> None:
    """It was halted after it had looked who owns the stream."""
    _fill(stream, 1)
    other = JetStreamKeeping(url, answer_limit_ms=10_000)
    write_newest = keeping._write_newest

    def claim(*arguments: object) -> None:
        write_newest(*arguments)  # type: ignore[arg-type]  # what it was called with
        assert stream.append(2, 2, b"second claim", is_claim=True)
        later = other.begin_snapshot(2)
        other.add_piece(later, 2, 0, b"b", 2)

    monkeypatch.setattr(keeping, "_write_newest", claim)
    assert keeping.begin_snapshot(1) == 1

    assert other.piece(2, 2, 0) == b"b"
    other.close()


def test_a_node_that_is_gone_for_long_holds_nothing_back(
    monkeypatch: pytest.MonkeyPatch, keeping: JetStreamKeeping
) -> None:
    keeping.note_reader("a", 7)
    time.sleep(0.2)
    keeping.note_reader("b", 9)
    assert keeping.needed_number() == 7
    monkeypatch.setattr(jetstream_keeping, "STREAM_READER_GONE_MS", 100)
    assert keeping.needed_number() == 9


def test_notes_can_be_read_by_people(
    url: str, keeping: JetStreamKeeping, connection: JetStreamConnection
) -> None:
    keeping.note_reader("machine:/var/cache/troth", 7)
    bucket = _layout(url).bucket
    found = connection.api(
        f"STREAM.INFO.KV_{bucket}", {"subjects_filter": f"$KV.{bucket}.reader.>"}
    )
    (subject,) = found["state"]["subjects"]
    note = keeping._notes.read(subject.removeprefix(f"$KV.{bucket}."))
    assert note is not None
    assert json.loads(note.body) == {"node": "machine:/var/cache/troth", "number": 7}
    assert abs(note.written_ms - time.time() * 1000) < 60_000


def test_a_piece_is_as_large_as_it_may_be(keeping: JetStreamKeeping) -> None:
    piece = os.urandom(512 * 1024)
    keeping.add_piece(1, 1, 0, piece, 1)
    assert keeping.piece(1, 1, 0) == piece
