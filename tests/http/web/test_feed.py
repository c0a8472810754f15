"""The live feed: who hears what, once; and that nothing waits for those who read slowly."""

import json
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.admin.test_accounts import secret_of
from tests.http.client import FAR_MS, NOW_MS, World, running
from tests.http.sockets.test_lane_streams import Lane
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.failures import FailureKind
from troth.http.api.streams import CONNECTED, KEEP_ALIVE
from troth.http.settings.settings import Settings
from troth.http.sockets.lane_connection import LaneConnection
from troth.http.sockets.lane_parsing import Parser
from troth.http.sockets.lane_streams import LaneStream
from troth.http.web.feed import Feed
from troth.http.web.feed_stream import WATCHED_LIMIT_COUNT, FeedStream, Topic
from troth.http.wire.principals import ANONYMOUS, Principal, PrincipalKind
from troth.shards.surveys.queues import QueueRow, QueuesPage

ALL = frozenset(Topic)
BULK = frozenset({Topic.BULK})
NO_TOPIC: frozenset[Topic] = frozenset()


def principal(*scopes: Scope, prefix: str = "") -> Principal:
    """One who has these rights."""
    return Principal(PrincipalKind.TOKEN, frozenset(scopes), id_prefix=prefix)


def feed_of(world: World) -> Feed:
    """A feed of the world that tells only what a test has it tell."""
    feed = world.api.feed = Feed(world.api)
    return feed


def read(stream: FeedStream) -> list[tuple[str, Any]]:
    """What a stream has to tell now: names and contents."""
    chunk = stream.next_now(trio.current_time())
    if chunk == CONNECTED:
        chunk = stream.next_now(trio.current_time())
    assert chunk is not None
    found = []
    for event in chunk.decode().split("\n\n"):
        if event and not event.startswith(":"):
            name, data = event.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.fixture(autouse=True)
def stands_still(mock_clock: MockClock) -> None:
    """Time passes only where a test lets it."""


async def test_first_there_is_all_and_then_what_changes() -> None:
    async with running() as world:
        feed = feed_of(world)
        stream = feed.open(ANONYMOUS, ALL, [])
        await feed.tell_second()

        first = dict(read(stream))
        assert set(first) == {"counters", "queues", "failures", "bulk"}
        assert {told["at"] for told in first.values()} == {NOW_MS}
        assert first["counters"]["counts"]["promises"]["pending"] == 0
        assert first["queues"] == {"at": NOW_MS, "total": 0, "complete": True, "queues": []}
        assert first["failures"] == {"at": NOW_MS, "failures": []}
        assert first["bulk"] == {"at": NOW_MS, "jobs": []}

        await feed.tell_second()
        assert read(stream) == []
        await world.create("a")
        await feed.tell_second()
        (told,) = read(stream)
        assert told[0] == "counters"
        assert told[1]["counts"]["promises"]["pending"] == 1


async def test_a_second_is_encoded_once_for_all_with_the_same_rights() -> None:
    async with running() as world:
        feed = feed_of(world)
        streams = [feed.open(ANONYMOUS, ALL, []) for _ in range(3)]
        other = feed.open(principal(Scope.METRICS_READ, prefix="a/"), ALL, [])
        await feed.tell_second()

        first, *others = [dict(stream._newest) for stream in streams]
        assert all(first[topic] is one[topic] for topic in Topic for one in others)
        assert other._newest[Topic.COUNTERS] is first[Topic.COUNTERS]
        assert other._newest[Topic.QUEUES] is not first[Topic.QUEUES]


async def test_one_that_comes_later_is_told_what_the_others_know() -> None:
    async with running() as world:
        feed = feed_of(world)
        early = feed.open(ANONYMOUS, ALL, [])
        await feed.tell_second()
        late = feed.open(ANONYMOUS, ALL, [])

        assert dict(read(late)) == dict(read(early))


def test_stream_slow_reader_is_skipped_not_buffered() -> None:
    ours, reader = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    ours.setblocking(False)
    reader.settimeout(10)

    async def check() -> None:
        lane = Lane()
        stream = FeedStream(15_000, lambda: NOW_MS, lambda _: None)
        connection = LaneConnection(lane, ours, None, Parser(1000, 1000), lambda: None)
        connection.streams(LaneStream(b"", stream, lambda: None))
        count = 10_000
        for number in range(count):
            stream.tell(Topic.COUNTERS, b"event: counters\ndata: {%d}%b\n\n" % (number, b" " * 999))
            stream.tell_change("a")
            lane.run_pass()
            # One event, and the ids; all others were dropped, and nothing of them is kept.
            assert sum(map(len, stream._newest.values())) < 2_000
            assert list(stream._changed) in ([], ["a"])

        received = b""
        while b"event: changed" not in received.partition(b"skipped")[2]:
            received += reader.recv(1 << 20)
            lane.run_pass()
            connection.on_event(4)  # EPOLLOUT
            lane.run_pass()
        told_count = received.count(b"event: counters")
        skipped = json.loads(received.partition(b"event: skipped\ndata: ")[2].partition(b"\n")[0])
        assert told_count + skipped["counters"] == count
        assert told_count < count / 100
        assert b"{%d}" % (count - 1) in received  # the newest
        assert stream.skipped_total_count == skipped["counters"]

    with ours, reader:
        trio.run(check)


async def test_a_watched_promise_is_told_when_it_has_changed() -> None:
    async with running() as world:
        feed = feed_of(world)
        stream = feed.open(ANONYMOUS, NO_TOPIC, ["a", "root", "never", "a"])
        other = feed.open(ANONYMOUS, NO_TOPIC, ["b"])
        read(stream)
        await world.create("a")
        await world.create("c", tags={"resonate:root": "root"})
        await feed.tell_changes()

        assert read(stream) == [("changed", {"at": NOW_MS, "ids": ["a", "root"]})]
        read(other)
        assert read(other) == []


async def test_changes_are_told_soon_but_not_more_often(autojump_clock: MockClock) -> None:
    async with running() as world:
        assert isinstance(world.api.feed, Feed)  # which runs
        stream = world.api.feed.open(ANONYMOUS, NO_TOPIC, ["a"])
        read(stream)
        began_s = trio.current_time()
        chunks = 0
        for number in range(20):
            state = {"timeout": FAR_MS, "id": "a" if not number else f"a{number}"}
            await world.send("POST", "/promises", {**state, "tags": {"resonate:root": "a"}})
            await trio.sleep(0.01)
            chunks += bool(stream.next_now(trio.current_time()))
        assert 2 <= chunks <= 3
        assert trio.current_time() - began_s < 0.5


async def test_a_silent_stream_says_that_it_is_there(autojump_clock: MockClock) -> None:
    async with running() as world:
        stream = feed_of(world).open(ANONYMOUS, NO_TOPIC, ["a"])

        assert await stream.next_chunk() == CONNECTED
        assert await stream.next_chunk() == KEEP_ALIVE
        stream.stop()
        assert await stream.next_chunk() is None


async def test_what_a_prefix_does_not_show_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(receiver: str) -> QueueRow:
        return QueueRow(receiver, 0, 1, 0, 0, None, None, None, "no-workers", None, None, None)

    async with running() as world:
        feed = feed_of(world)
        stream = feed.open(
            principal(Scope.METRICS_READ, Scope.PROMISES_READ, prefix="a/"), ALL, ["a/root"]
        )
        everything = feed.open(ANONYMOUS, ALL, ["a/root"])
        failures = world.api.shards.failures
        failures.note(FailureKind.PROMISE, 1, "a/1", "REJECTED")
        failures.note(FailureKind.PROMISE, 2, "b/1", "REJECTED")
        failures.note(FailureKind.LEASE, 3, "__invoke:a/2", "the lease ran out")
        failures.note(FailureKind.LOGIN, 4, "10.0.0.1", "wrong")

        async def longest(limit_count: int, prefixes: list[str]) -> list[QueuesPage]:
            rows = [row("poll://a/workers"), row("poll://b/workers")]
            shown = [
                [one for one in rows if one.receiver.startswith(f"poll://{prefix}")]
                for prefix in prefixes
            ]
            return [QueuesPage(some, len(some), True) for some in shown]

        monkeypatch.setattr(world.api.queues, "longest_of_each", longest)
        await feed.tell_second()
        failures.note(FailureKind.PROMISE, 5, "b/2", "REJECTED")
        failures.note(FailureKind.PROMISE, 6, "a/3", "REJECTED")
        await world.create("b/1", tags={"resonate:root": "a/root"})
        await feed.tell_second()
        await feed.tell_changes()

        told = dict(read(stream))
        assert [one["id"] for one in told["failures"]["failures"]] == ["a/3", "__invoke:a/2", "a/1"]
        assert [one["receiver"] for one in told["queues"]["queues"]] == ["poll://a/workers"]
        assert "changed" not in told
        all_told = dict(read(everything))
        assert len(all_told["failures"]["failures"]) == 6
        assert len(all_told["queues"]["queues"]) == 2
        assert all_told["changed"]["ids"] == ["a/root"]
        await world.create("a/1", tags={"resonate:root": "a/root"})
        await feed.tell_changes()
        assert dict(read(stream))["changed"]["ids"] == ["a/root"]


async def test_bulk_jobs_are_told_to_those_who_may_see_them() -> None:
    async with running() as world:
        feed = feed_of(world)
        limited = feed.open(principal(Scope.PROMISES_READ, prefix="a/"), BULK, [])
        everyone = feed.open(ANONYMOUS, BULK, [])
        body = {"action": "resolve", "filter": {"id": "*"}, "value": {"data": "aGk="}}
        ids = []
        for more in ({}, {"idPrefix": "a/"}):
            token = await secret_of(world, "promises:write", **more)
            made = await world.send("POST", "/bulk", body, token)
            assert made.status == 201, made.body
            ids.append(made.json["id"])
        await feed.tell_second()

        assert [one["id"] for one in dict(read(limited))["bulk"]["jobs"]] == ids[1:]
        told = dict(read(everyone))["bulk"]["jobs"]
        assert {one["id"] for one in told} == {*ids}
        assert not any("value" in one or "examples" in one for one in told)


async def test_with_promises_read_alone_only_promises_fail() -> None:
    async with running() as world:
        feed = feed_of(world)
        failures = world.api.shards.failures
        failures.note(FailureKind.PROMISE, 1, "a", "REJECTED")
        failures.note(FailureKind.LEASE, 2, "__invoke:b", "the lease ran out")
        stream = feed.open(principal(Scope.PROMISES_READ), frozenset({Topic.FAILURES}), [])
        await feed.tell_second()

        assert [one["id"] for one in dict(read(stream))["failures"]["failures"]] == ["a"]


async def test_a_next_try_that_is_about_the_same_is_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = [5_000, 5_002, 4_999, 9_000]

    async def longest(limit_count: int, prefixes: list[str]) -> list[QueuesPage]:
        row = QueueRow("r", 0, 1, 0, 0, None, None, None, "failing", 1, "refused", times.pop(0))
        return [QueuesPage([row], 1, True) for _ in prefixes]

    async with running() as world:
        feed = feed_of(world)
        monkeypatch.setattr(world.api.queues, "longest_of_each", longest)
        stream = feed.open(ANONYMOUS, frozenset({Topic.QUEUES}), [])
        told = []
        while times:
            feed._queues_due_s = 0
            await feed.tell_second()
            told.append([event["queues"][0]["nextTry"] for _, event in read(stream)])
        assert told == [[5_000], [], [], [9_000]]


async def test_a_stream_that_ends_leaves_nothing_behind() -> None:
    async with running() as world:
        feed = feed_of(world)
        rights = principal(Scope.METRICS_READ, Scope.PROMISES_READ, prefix="a")
        streams = [feed.open(rights, ALL, ["a", "ab"]), feed.open(ANONYMOUS, ALL, ["a"])]
        await feed.tell_second()
        assert feed.streams_count == 2
        assert feed.statistics().watched_count == 2
        for stream in streams:
            stream.close()

        statistics = feed.statistics()
        assert (feed.streams_count, statistics.watched_count) == (0, 0)
        assert (feed._channels, feed._failures, feed._watchers) == ({}, {}, {})
        assert world.api.shards.watch.ids == {}


async def test_too_many_streams_are_refused() -> None:
    async with running(Settings(event_streams_limit_count=2)) as world:
        feed = feed_of(world)
        streams = [feed.open(ANONYMOUS, ALL, []) for _ in range(2)]

        answer = await world.send("GET", "/events?topics=counters")
        assert (answer.status, answer.code) == (503, Code.OVERLOADED)
        assert answer.header("retry-after") == "1"
        streams[0].close()
        feed.open(ANONYMOUS, ALL, [])


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", Code.INVALID),
        ("topics=", Code.INVALID),
        ("topics=promises", Code.INVALID),
        ("watch=", Code.INVALID),
        ("&".join(f"watch=a{number}" for number in range(WATCHED_LIMIT_COUNT + 1)), Code.INVALID),
        ("watch=troth:task/1", Code.RESERVED_ID),
    ],
)
async def test_wrong_questions_are_refused(query: str, code: Code) -> None:
    async with running() as world:
        assert (await world.send("GET", f"/events?{query}")).code == code


async def test_head_opens_no_stream() -> None:
    async with running() as world:
        answer = await world.send("HEAD", "/events?topics=counters")

        assert (answer.status, answer.body) == (200, b"")
        assert answer.header("content-type") == "text/event-stream"
        assert isinstance(world.api.feed, Feed)
        assert world.api.feed.streams_count == 0
