"""Streams in a real PostgreSQL server: what the protocol asks of an engine, and its failures."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from tests.helpers.postgres import PostgresServer, postgres_server
from troth.core.limits import STREAM_READ_LIMIT_BYTES
from troth.persistence.streams.postgres_stream import PostgresStream
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable
from troth.persistence.streams.stream_log import Deposed, StreamLog
from troth.persistence.wal.log import LogRecord

pytestmark = pytest.mark.slow
_groups = count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def group() -> int:
    return next(_groups)


@pytest.fixture
def stream(server: PostgresServer, group: int) -> Iterator[PostgresStream]:
    stream = PostgresStream(server.url, group)
    assert stream.found(b"who it is") == b"who it is"
    yield stream
    stream.close()


def _claimed(stream: PostgresStream) -> None:
    assert stream.append(1, 1, b"claim", is_claim=True)


def _log(server: PostgresServer, group: int, incarnation: int, **options: int) -> StreamLog:
    stream = PostgresStream(server.url, group, **options)
    stream.found(b"who it is")
    return StreamLog(
        stream,
        node=f"n{incarnation}",
        incarnation=incarnation,
        boot_ms=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
        now_ms=lambda: time.time_ns() // 1_000_000,
        sleep_s=time.sleep,
    )


def _go_on() -> None:
    pass


def test_the_first_identity_stays(
    server: PostgresServer, stream: PostgresStream, group: int
) -> None:
    other = PostgresStream(server.url, group)
    assert other.found(b"another") == b"who it is"
    other.close()


def test_frames_are_read_as_they_were_appended(stream: PostgresStream) -> None:
    _claimed(stream)
    large = os.urandom(STREAM_READ_LIMIT_BYTES * 3 // 4)
    for number, frame in enumerate((b"\0a", large, large, b""), 2):
        assert stream.append(number, 1, frame, is_claim=False)

    assert stream.read(1) == [(1, b"claim"), (2, b"\0a"), (3, large), (4, large)]
    assert stream.read(5) == [(5, b"")]
    assert stream.read(6) == []


def test_a_number_is_taken_once_and_none_is_left_out(stream: PostgresStream) -> None:
    _claimed(stream)

    assert not stream.append(3, 1, b"a gap", is_claim=False)
    assert stream.append(2, 1, b"first", is_claim=False)
    assert not stream.append(2, 1, b"second", is_claim=False)
    assert [body for _, body in stream.read(1)] == [b"claim", b"first"]


def test_an_old_owner_is_fenced_even_where_its_number_is_free_again(
    server: PostgresServer, stream: PostgresStream, group: int
) -> None:
    _claimed(stream)
    assert stream.append(2, 2, b"second claim", is_claim=True)
    assert not stream.append(3, 1, b"too late", is_claim=False)
    assert not stream.append(3, 2, b"the same epoch", is_claim=True)
    assert not stream.append(3, 4, b"an epoch left out", is_claim=True)

    server.query(f"DELETE FROM troth_log WHERE grp = {group} AND number = 2")
    assert not stream.append(2, 1, b"too late", is_claim=False)
    assert not stream.append(5, 3, b"a gap", is_claim=True), "and the epoch stays as it was"
    assert stream.append(2, 2, b"the owner's", is_claim=False)


def test_a_session_that_does_not_wait_for_the_disk_appends_nothing(
    server: PostgresServer, stream: PostgresStream
) -> None:
    _claimed(stream)
    stream._query("SET synchronous_commit = off")

    assert not stream.append(2, 1, b"lost in a power cut", is_claim=False)
    stream.close()
    assert stream.append(2, 1, b"kept", is_claim=False)


def test_a_database_that_does_not_wait_by_default_is_made_to(
    server: PostgresServer, stream: PostgresStream
) -> None:
    server.query("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        stream.close()
        _claimed(stream)
    finally:
        server.query("ALTER ROLE postgres RESET synchronous_commit")


def test_a_commit_that_no_standby_has_is_not_acknowledged(
    server: PostgresServer, stream: PostgresStream
) -> None:
    """PostgreSQL says that it is committed, with a warning, when its wait is broken off."""
    _claimed(stream)
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'")
    server.query("SELECT pg_reload_conf()")
    try:
        numbers = [1]

        def append() -> None:
            """Append until it is refused: the setting takes a moment to hold."""
            is_taken = True
            while is_taken:
                numbers.append(numbers[-1] + 1)
                is_taken = stream.append(numbers[-1], 1, b"a", is_claim=False)
                time.sleep(0.02)

        thread = threading.Thread(target=append, daemon=True)
        thread.start()
        ends_s = time.monotonic() + 60
        while thread.is_alive() and time.monotonic() < ends_s:
            server.query(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
            time.sleep(0.02)
        assert not thread.is_alive(), "it was never refused"
        assert [number for number, _ in stream.read(1)] == numbers, "all can be seen all the same"
    finally:
        server.query("ALTER SYSTEM RESET synchronous_standby_names")
        server.query("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://h/d?colour=blue", "invalid URI query parameter"),
        ("hello", "Give a connection string such as"),
    ],
)
def test_what_is_no_connection_string_is_refused(url: str, text: str) -> None:
    with pytest.raises(StreamRefused, match=text):
        PostgresStream(url)


def test_a_role_without_rights_is_refused(server: PostgresServer, stream: PostgresStream) -> None:
    server.query("CREATE ROLE reader LOGIN")
    reader = PostgresStream(server.url.replace("user=postgres", "user=reader"))

    with pytest.raises(StreamRefused, match=r"permission denied.*needs to read and write"):
        reader.found(b"who it is")
    reader.close()


def test_no_server_is_told_as_such() -> None:
    stream = PostgresStream("postgresql:///d?host=/nowhere")

    with pytest.raises(StreamUnreachable, match="nowhere"):
        stream.read(1)


def test_a_password_is_not_shown() -> None:
    assert PostgresStream("postgresql://u:secret@h:1/d").name == "postgresql://h:1/d"


def test_a_backend_that_is_killed_leaves_nothing_in_doubt_for_long(
    server: PostgresServer, group: int
) -> None:
    """PostgreSQL restarts all of itself then, and recovers from its own log."""
    log = _log(server, group, 1)
    list(log.take_over(_go_on))
    log.append([(0, 1, b"a")], 1)
    for backend in server.backends():
        os.kill(backend, signal.SIGKILL)

    assert log.append([(0, 2, b"b")], 2) == 2
    assert [record.body for _, record in log.read(1)] == [b"a", b"b"]
    log.seal()
    assert log.may_answer()
    log.close()


def test_a_backend_that_hangs_is_left_and_its_append_counts_once(
    server: PostgresServer, group: int
) -> None:
    log = _log(server, group, 1, answer_limit_ms=300)
    list(log.take_over(_go_on))
    (backend,) = server.backends()
    os.kill(backend, signal.SIGSTOP)
    try:
        assert log.append([(0, 1, b"a")], 1) == 1
    finally:
        os.kill(backend, signal.SIGCONT)
    assert log.append([(0, 2, b"b")], 2) == 2

    assert [record for _, record in log.read(1)] == [LogRecord(0, 1, b"a"), LogRecord(0, 2, b"b")]
    log.close()


def test_a_second_node_takes_over_and_the_first_is_deposed(
    server: PostgresServer, group: int
) -> None:
    first = _log(server, group, 1)
    list(first.take_over(_go_on))
    first.append([(0, 1, b"a")], 1)

    second = _log(server, group, 2)
    began_s = time.monotonic()
    assert [record.body for _, record in second.take_over(_go_on)] == [b"a"]
    assert 2 < time.monotonic() - began_s < 30

    assert not first.may_answer()
    with pytest.raises(Deposed):
        first.append([(0, 2, b"b")], 2)
    assert second.append([(0, 2, b"c")], 2) == 2
    first.close()
    second.close()


def test_a_released_stream_is_taken_over_without_waiting(
    server: PostgresServer, group: int
) -> None:
    first = _log(server, group, 1)
    list(first.take_over(_go_on))
    first.close()

    second = _log(server, group, 2)
    began_s = time.monotonic()
    list(second.take_over(_go_on))

    assert time.monotonic() - began_s < 2
    second.close()
