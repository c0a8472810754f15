"""The live feed of one of several processes: it gathers what all of them have."""

import trio
from trio.testing import MockClock

from tests.http.web.test_feed import read
from tests.shards.mesh.world import World, until, world
from tests.shards.stage import FAR_MS, settle
from troth.core.commands import CompletePromise, CreatePromise
from troth.core.failures import Failures
from troth.core.model import PromiseState
from troth.http.api.context import Api
from troth.http.settings.settings import Settings
from troth.http.web.feed import Feed
from troth.http.web.feed_stream import Topic
from troth.http.wire.principals import ANONYMOUS
from troth.shards.delivery.polls import Polls
from troth.shards.gathered.watches import OtherWatchers
from troth.shards.gathered.whole import AllProcesses

TOPICS = frozenset({Topic.COUNTERS, Topic.FAILURES})


def feeds(server: World) -> list[Feed]:
    """Give each process an API and its feed."""
    found = []
    for process in server.processes:
        shards, calls = process.shards, process.mesh.calls
        shards.failures = Failures(group=process.place.process)
        for shard in shards.each():
            shard.machine.failures = shards.failures
        polls = Polls(connections_limit_count=10, buffer_limit_count=10)
        api = Api(Settings(), "http://test", shards, polls, shards.hold)
        api.whole = AllProcesses(calls, shards, api.series)
        api.other_watchers = OtherWatchers(calls, shards.watch)
        api.feed = Feed(api)
        found.append(api.feed)
    return found


async def test_the_feed_gathers(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of = feeds(server)
        feed = all_of[0]
        watched = server.id_of(2, "watched")
        stream = feed.open(ANONYMOUS, TOPICS, [watched])
        await settle()
        ids = [server.id_of(group, "made") for group in range(3)]
        for name in ids:
            await server.call(1, CreatePromise(name, FAR_MS))
            await server.call(1, CompletePromise(name, PromiseState.REJECTED))
            await trio.sleep(0.002)
        await server.call(1, CreatePromise(watched, FAR_MS))
        for one in all_of:
            await one.tell_changes()
        await settle()
        await feed.tell_second()
        told = dict(read(stream))
        assert told["counters"]["counts"]["promises"]["pending"] == 1
        assert told["counters"]["counts"]["promises"]["rejected"] == 3
        assert [one["id"] for one in told["failures"]["failures"]] == ids[::-1]
        assert told["changed"]["ids"] == [watched]
        await server.call(1, CreatePromise("late", FAR_MS))
        await server.call(1, CompletePromise("late", PromiseState.REJECTED))
        await feed.tell_second()
        failures = dict(read(stream))["failures"]["failures"]
        assert [one["id"] for one in failures] == ["late", *ids[::-1]]


async def test_a_second_is_left_out_while_a_process_is_away(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        feed = feeds(server)[0]
        stream = feed.open(ANONYMOUS, TOPICS, [])
        server.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not server.processes[0].mesh.calls.linked)
        await feed.tell_second()
        assert read(stream) == []
        server.mend_all()
        await server.until_linked()
        await feed.tell_second()
        assert set(dict(read(stream))) == {"counters", "failures"}
