"""Watched promises over processes: a change anywhere is told where the client is."""

import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, world
from tests.shards.stage import FAR_MS, settle
from troth.core.commands import CompletePromise, CreatePromise
from troth.core.model import RESOLVED
from troth.shards.gathered.watches import OtherWatchers, Pair


def watchers(server: World) -> list[OtherWatchers]:
    return [OtherWatchers(one.mesh.calls, one.shards.watch) for one in server.processes]


async def test_a_change_in_another_group_is_told(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of = watchers(server)
        heard: list[Pair] = []
        all_of[0].heard = heard.extend
        name, child = server.id_of(1, "watched"), server.id_of(2, "child")
        pair = (name, "")
        all_of[0].add(pair)
        await settle()
        await server.call(0, CreatePromise(name, FAR_MS))
        await server.call(0, CreatePromise(child, FAR_MS, tags={"resonate:origin": name}))
        for one, process in zip(all_of, server.processes, strict=True):
            one.tell(process.shards.watch.take())
        await settle()
        assert heard == [pair, pair], "itself, and one that stems from it"
        all_of[0].remove(pair)
        await settle()
        assert [process.shards.watch.is_on for process in server.processes] == [False] * 3


async def test_what_is_watched_is_said_again_when_a_link_has_come_up(
    autojump_clock: MockClock,
) -> None:
    async with world(2) as server:
        all_of = watchers(server)
        heard: list[Pair] = []
        all_of[0].heard = heard.extend
        kept, gone, new = ((server.id_of(1, name), "") for name in ("kept", "gone", "new"))
        all_of[0].add(kept)
        all_of[0].add(gone)
        await settle()
        server.cut_off(1)
        await trio.sleep(1)
        all_of[0].remove(gone)
        all_of[0].add(new)
        server.mend_all()
        await server.until_linked()
        await settle()
        far = server.processes[1].shards
        assert set(far.watch.ids) == {kept[0], new[0]}
        await server.call(0, CreatePromise(kept[0], FAR_MS))
        await server.call(0, CompletePromise(kept[0], RESOLVED))
        all_of[1].tell(far.watch.take())
        await settle()
        assert heard == [kept]
