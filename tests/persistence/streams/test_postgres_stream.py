"""Streams in a real PostgreSQL server: what the protocol asks of an engine, and its failures."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from tests.helpers.postgres import PostgresServer
from troth.core.limits import STREAM_READ_LIMIT_BYTES
from troth.persistence.streams.chain import ChainMark
from troth.persistence.streams.postgres_keeping import PostgresKeeping
from troth.persistence.streams.postgres_stream import PostgresStream
from troth.persistence.streams.stream import SnapshotDescription, StreamRefused, StreamUnreachable
from troth.persistence.streams.stream_log import StreamLog
from troth.persistence.wal.log import LogRecord

pytestmark = pytest.mark.slow
_groups = count()


@pytest.fixture
def server(postgres_server_of_session: PostgresServer) -> PostgresServer:
    return postgres_server_of_session


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


def test_frames_are_read_as_they_were_appended(stream: PostgresStream) -> None:
    _claimed(stream)
    large = os.urandom(STREAM_READ_LIMIT_BYTES * 3 // 4)
    for number, frame in enumerate((b"\0a", large, large, b""), 2):
        assert stream.append(number, 1, frame, is_claim=False)

    assert stream.read(1) == [(1, b"claim"), (2, b"\0a"), (3, large), (4, large)]
    assert stream.read(5) == [(5, b"")]
    assert stream.read(6) == []


def test_an_old_owner_is_fenced_even_where_its_number_is_free_again(
    server: PostgresServer, stream: PostgresStream, group: int
) -> None:
    _claimed(stream)
    assert stream.append(2, 2, b"second claim", is_claim=True)
    assert not stream.append(3, 1, b"too late", is_claim=False)
    assert not stream.append(3, 2, b"the same epoch", is_claim=True)
    assert not stream.append(3, 4, b"an epoch left out", is_claim=True)

    server.query(f"DELETE FROM troth_log_{group}_0 WHERE number = 2")
    assert not stream.append(2, 1, b"too late", is_claim=False)
    assert not stream.append(5, 3, b"a gap", is_claim=True), "and the epoch stays as it was"
    assert stream.append(2, 2, b"the owner's", is_claim=False)


def test_a_session_that_does_not_wait_for_the_disk_appends_nothing(
    server: PostgresServer, stream: PostgresStream
) -> None:
    _claimed(stream)
    stream._connection.query("SET synchronous_commit = off")

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


# Trimming: the tables of the log take turns


def _filled(server: PostgresServer, group: int) -> PostgresStream:
    """Return a stream with frames 1 to 10 in its first two tables, and 11 in the third."""
    stream = PostgresStream(server.url, group, table_bytes=500)
    stream.found(b"who it is")
    _claimed(stream)
    for number in range(2, 12):
        assert stream.append(number, 1, b"a", is_claim=False), number
    assert _counts(server, group) == ["5", "5", "1"]
    return stream


def _counts(server: PostgresServer, group: int) -> list[str]:
    return [server.query(f"SELECT count(*) FROM troth_log_{group}_{place}") for place in range(3)]


@pytest.fixture
def keeping(server: PostgresServer, group: int) -> Iterator[PostgresKeeping]:
    keeping = PostgresKeeping(server.url, group, answer_limit_ms=10_000)
    yield keeping
    keeping.close()


def test_tables_take_turns_and_are_emptied_whole(
    server: PostgresServer, group: int, keeping: PostgresKeeping
) -> None:
    stream = _filled(server, group)
    assert keeping.trim(5, 1) == 0, "frame 5 is needed, and the last of its table"
    assert keeping.trim(8, 2) == 0, "only the owner trims"
    assert keeping.trim(8, 1) == 5
    assert stream.first() == 6
    assert [number for number, _ in stream.read(1)] == list(range(6, 12))

    for number in range(12, 18):
        assert stream.append(number, 1, b"a", is_claim=False), number
    assert _counts(server, group) == ["2", "5", "5"]
    assert [number for number, _ in stream.read(1)] == list(range(6, 18))
    assert keeping.trim(1_000, 1) == 10, "the one that is appended to stays"
    assert stream.first() == 16
    stream.close()


def test_a_table_that_is_still_needed_is_not_appended_to_again(
    server: PostgresServer, group: int, keeping: PostgresKeeping
) -> None:
    stream = _filled(server, group)
    for number in range(12, 40):
        assert stream.append(number, 1, b"a", is_claim=False), number

    assert _counts(server, group) == ["5", "5", "29"]
    keeping.trim(6, 1)
    for number in range(40, 46):
        assert stream.append(number, 1, b"a", is_claim=False), number
    assert int(_counts(server, group)[0]) > 0
    assert [number for number, _ in stream.read(1)] == list(range(6, 46))
    stream.close()


def test_a_new_owner_goes_on_in_the_right_table(
    server: PostgresServer, group: int, keeping: PostgresKeeping
) -> None:
    """It claims behind the last frame, in whatever table that is; also just after a turn."""
    first = _filled(server, group)
    first._filled_bytes = 500
    keeping.trim(6, 1)
    assert first._place_for(1, is_claim=False) == 0, "turned, and then it died"

    second = PostgresStream(server.url, group, table_bytes=500)
    assert not second.append(13, 2, b"a gap", is_claim=True)
    assert second.append(12, 2, b"claim", is_claim=True)
    assert second.append(13, 2, b"a", is_claim=False)
    assert not first.append(14, 1, b"too late", is_claim=False)
    assert not first.append(12, 1, b"too late", is_claim=False)
    assert _counts(server, group)[0] == "2"
    first.close()
    second.close()


def test_a_frame_that_comes_after_its_table_was_emptied_is_not_taken(
    server: PostgresServer, group: int, keeping: PostgresKeeping
) -> None:
    """It was sent long ago over a connection that hung, and has landed over another since."""
    late, stream = PostgresStream(server.url, group), _filled(server, group)
    late._place = 0
    keeping.trim(8, 1)
    assert not late.append(3, 1, b"a", is_claim=False)
    for number in range(12, 17):
        assert stream.append(number, 1, b"a", is_claim=False)
    assert _counts(server, group)[0] == "1"
    late._place = 0
    assert not late.append(3, 1, b"a", is_claim=False), "its table is appended to again"
    assert [number for number, _ in stream.read(1)] == list(range(6, 17))
    late.close()
    stream.close()


def test_trimming_waits_for_no_one_for_long(
    server: PostgresServer, group: int, keeping: PostgresKeeping
) -> None:
    """What waits for a table holds up all who come later."""
    stream = _filled(server, group)
    reader = PostgresStream(server.url, group)
    reader._connection.query(f"BEGIN; SELECT FROM troth_log_{group}_0")

    began_s = time.monotonic()
    assert keeping.trim(8, 1) == 0
    assert time.monotonic() - began_s < 5
    reader.close()
    assert keeping.trim(8, 1) == 5
    stream.close()


def test_nothing_below_what_a_node_needs_is_forgotten(
    server: PostgresServer, group: int, keeping: PostgresKeeping, stream: PostgresStream
) -> None:
    assert keeping.needed_number() is None
    keeping.note_reader("a", 9)
    keeping.note_reader("b", 7)
    keeping.note_reader("a", 12)
    assert keeping.needed_number() == 7
    server.query(f"UPDATE troth_reader SET seen = seen - interval '59 minutes' WHERE grp = {group}")
    assert keeping.needed_number() == 7
    server.query(
        "UPDATE troth_reader SET seen = seen - interval '2 minutes' "
        f"WHERE grp = {group} AND node = 'b'"
    )
    assert keeping.needed_number() == 12, "who is gone for an hour is a new node"


def test_a_snapshot_counts_when_it_is_whole_and_stays_while_the_next_is_written(
    server: PostgresServer, group: int, keeping: PostgresKeeping, stream: PostgresStream
) -> None:
    _claimed(stream)
    assert keeping.snapshot() is None
    mark = ChainMark(5, 4_000_000_000, 1, 7, 2**64 - 1, 1_700_000_000_000)
    identifiers = (17, 18, 19)
    for identifier in identifiers:
        place = keeping.begin_snapshot(1)
        for number in range(3):
            keeping.add_piece(place, identifier, number, b"%d/%d" % (identifier, number), 1)
        newest = keeping.snapshot()
        assert newest is None or newest.identifier == identifier - 1, "not finished yet"
        if newest is not None:
            assert keeping.piece(newest.place, newest.identifier, 2) is not None
        made = SnapshotDescription(identifier, place, 3, 12, "digest", 1_700, mark)
        keeping.finish_snapshot(made, 1)
        assert keeping.snapshot() == made
        assert keeping.piece(place, identifier, 1) == b"%d/1" % identifier
        assert keeping.piece(place, identifier, 3) is None
    counts = [
        server.query(f"SELECT count(*) FROM troth_snapshot_{group}_{place}") for place in (0, 1)
    ]
    assert counts == ["3", "3"], "an older one was removed, and not by deleting rows"


def test_a_node_that_was_deposed_makes_no_snapshot(
    keeping: PostgresKeeping, stream: PostgresStream
) -> None:
    _claimed(stream)
    place = keeping.begin_snapshot(1)
    keeping.add_piece(place, 1, 0, b"a", 1)
    assert stream.append(2, 2, b"second claim", is_claim=True)

    with pytest.raises(StreamUnreachable, match="another node owns the stream"):
        keeping.add_piece(place, 1, 1, b"a", 1)
    made = SnapshotDescription(1, place, 1, 1, "digest", 0, ChainMark(1, 0, 1, 1, 0, 0))
    with pytest.raises(StreamUnreachable, match="another node owns the stream"):
        keeping.finish_snapshot(made, 1)
    keeping._change(keeping._tables.clearing(place, 1))
    assert keeping.piece(place, 1, 0) == b"a", "nor does it clear the new owner's"


def test_tables_of_an_earlier_version_are_refused(server: PostgresServer) -> None:
    server.query("CREATE DATABASE earlier")
    url = server.url.replace("///postgres", "///earlier")
    server.query("CREATE TABLE troth_owner (grp integer, epoch bigint, identity bytea)", url)
    earlier = PostgresStream(url)

    with pytest.raises(StreamRefused, match="an earlier version of Troth"):
        earlier.found(b"who it is")
    earlier.close()


def test_nodes_that_come_together_make_the_tables_once(server: PostgresServer) -> None:
    server.query("CREATE DATABASE together")
    streams = [PostgresStream(server.url.replace("///postgres", "///together")) for _ in range(4)]
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda one=one, name=b"%d" % n: found.append(one.found(name)))
        for n, one in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1
    for one in streams:
        one.close()
