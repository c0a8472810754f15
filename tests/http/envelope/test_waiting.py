"""No passing error where one can wait: while shards are overloaded, requests of `POST /` do."""

import trio
from trio.testing import MockClock

from tests.http.client import FAR_MS, World, running
from tests.http.envelope.conversation import Conversation
from troth.core.codes import Code
from troth.http.envelope.endpoints import WAIT_LIMIT_S
from troth.shards.errors import Overloaded

CROWD_COUNT = 100


async def crowd(world: World) -> list[int]:
    """Have many create promises at once, half through each API; the statuses of the second."""
    statuses: list[int] = []

    async def create(number: int) -> None:
        await Conversation(world).create(f"e{number}")

    async def create_by_rest(number: int) -> None:
        statuses.append((await world.create(f"r{number}")).status)

    async with trio.open_nursery() as nursery:
        for number in range(CROWD_COUNT):
            nursery.start_soon(create, number)
            nursery.start_soon(create_by_rest, number)
    return statuses


async def test_requests_wait_where_those_of_the_rest_api_are_refused(
    autojump_clock: MockClock,
) -> None:
    async with running(mailbox_limit_count=1) as world:
        statuses = await crowd(world)
        found = await Conversation(world).good("promise.search", limit=1000)

        assert set(statuses) <= {201, 503}
        assert 503 in statuses, "nobody was refused, so nobody had to wait"
        made = {promise["id"] for promise in found["promises"]}
        assert {f"e{number}" for number in range(CROWD_COUNT)} <= made


async def test_a_search_waits_too(autojump_clock: MockClock) -> None:
    async with running() as world:
        refusals = iter([Overloaded(), Overloaded()])
        search = world.api.shards.search_workflows

        async def hesitating(*given: object) -> object:
            for refusal in refusals:
                raise refusal
            return await search(*given)  # type: ignore[arg-type]

        world.api.shards.search_workflows = hesitating  # type: ignore[method-assign, assignment]
        found = await Conversation(world).good("task.search")

        assert found == {"tasks": []}
        assert next(refusals, None) is None


async def test_waiting_ends_after_a_while(autojump_clock: MockClock) -> None:
    async with running() as world:

        async def refuse(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise Overloaded

        world.api.shards.ask = refuse  # type: ignore[method-assign, assignment]
        began = trio.current_time()
        spoken = await Conversation(world).say("promise.create", {"id": "p", "timeoutAt": FAR_MS})

        assert spoken.status == Code.OVERLOADED.status == 503
        assert WAIT_LIMIT_S <= trio.current_time() - began < WAIT_LIMIT_S + 1
