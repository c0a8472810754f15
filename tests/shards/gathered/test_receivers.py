"""Workers and receivers of all processes: each has its home, and what has none is added up."""

import pytest
from trio.testing import MockClock

from tests.shards.mesh.home_world import HomeWorld, homes
from tests.shards.mesh.test_homes import rest_task
from troth.core.commands import ClaimTask
from troth.shards.delivery.shipments import UNDELIVERABLE
from troth.shards.errors import OutOfReach
from troth.shards.gathered.receivers import AllQueues
from troth.shards.surveys.queues import Queues


def queues(server: HomeWorld) -> list[AllQueues]:
    """Return what each process says of all receivers."""
    return [
        AllQueues(
            one.process.mesh.calls,
            one.process.shards,
            one.polls,
            Queues(one.process.shards, one.polls, one.delivery),
        )
        for one in server.alive
    ]


async def test_each_process_knows_what_waits_for_all_receivers(autojump_clock: MockClock) -> None:
    async with homes(3) as server:
        known = queues(server)
        groups = [server.group_at(home) for home in range(3)]
        for number, group in enumerate(groups):
            for task in range(number + 1):
                await rest_task(server, (number + 1) % 3, f"poll://any@{group}", f"{group}-{task}")
        for owner in range(3):
            await rest_task(server, owner, "poll://nowhere at all", f"bad-{owner}")
        for one in known:
            page = await one.longest(10)
            assert page.total_count == 4
            assert page.is_complete
            rows = {row.receiver: row for row in page.rows}
            assert rows[UNDELIVERABLE].stalled_count == 3
            for number, group in enumerate(groups):
                row = rows[f"poll://{group}"]
                assert (row.stalled_count, row.health) == (number + 1, "no-workers")
                assert row.oldest_on is not None, "its group was asked"
            assert [row.receiver for row in (await one.longest(1)).rows] in (
                [f"poll://{groups[2]}"],
                [UNDELIVERABLE],
            )
            # Each measures what it is the home of.
            assert len(await one.sample(10)) == 2
        assert await known[0].retry(f"poll://{groups[2]}") == 3
        assert await known[0].retry(UNDELIVERABLE) == 3


async def test_pages_of_workers_have_the_leases_of_all_groups(autojump_clock: MockClock) -> None:
    async with homes(3) as server:
        known = queues(server)
        names = sorted(server.group_at(number % 3, f"team{number}") for number in range(5))
        for name in names:
            home = server.alive[0].homes.finder.of_group(name)
            server.connect(home, name, "one")
        for owner in range(3):
            task_id = await rest_task(server, owner, f"poll://any@{names[0]}", f"held-{owner}")
            await server.server.call(0, ClaimTask(task_id, 1, "one", 60_000))
        for one in known:
            found = []
            after: tuple[str, str] | None = None
            has_more = True
            while has_more:
                rows, has_more = await one.workers(2, after)
                found += rows
                after = rows[-1].group, rows[-1].id
            assert [row.group for row in found] == names
            assert {row.leases_count for row in found} == {3}


async def test_there_is_no_answer_while_a_process_is_away(autojump_clock: MockClock) -> None:
    async with homes(2) as server:
        known = queues(server)
        server.server.cut_off(1)
        with pytest.raises(OutOfReach):
            await known[0].longest(10)
        with pytest.raises(OutOfReach):
            await known[0].workers(10, None)
