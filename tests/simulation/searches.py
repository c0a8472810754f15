"""Searches: they show all that was acknowledged before they began, and nothing that is not there.

Each asks all shards of all groups, some of which may be dying; then there is no answer, and nothing
is left out silently.
"""

from collections.abc import Awaitable, Callable, Iterator
from random import Random

import trio

from troth.core.codes import Code
from troth.core.commands import CompletePromise, CreatePromise
from troth.core.model import PromiseState, Value
from troth.core.replies import Reply

from .ledger import require
from .server import Unreachable
from .workers import FAR_MS
from .world import World

PROMISES_COUNT = 6


async def run_searches(
    world: World, who: str, rounds: Iterator[int], rest: Callable[[Random, float], Awaitable[None]]
) -> None:
    """Make promises, end some, and search them, as long as there are rounds."""
    random = world.random(who)
    for round_number in rounds:
        await rest(random, 8)
        prefix = f"found/{who}/{round_number}/"
        made: list[str] = []
        for number in range(random.randint(2, PROMISES_COUNT)):
            made.append(f"{prefix}{number}")
            create = CreatePromise(made[-1], FAR_MS, idempotency_key=who)
            await world.insist(who, create, random)
            if random.random() < 0.4:
                await _search(world, who, prefix, made, random)
        for identifier in made:
            value = Value(data=who)
            complete = CompletePromise(
                identifier, PromiseState.RESOLVED, value, idempotency_key=who
            )
            await world.insist(who, complete, random)
        await _search(world, who, prefix, made, random)


async def _search(world: World, who: str, prefix: str, made: list[str], random: Random) -> None:
    """Search until there is an answer: page by page, newest first."""
    finals = world.ledger.finals
    ended = {one for one in made if one in finals}
    while True:
        server = await world.server_is_up()
        found: list[str] = []
        serials: list[int] = []
        before: int | None = None
        try:
            async with server.connection():
                while True:
                    page, before = await server.shards.search_promises(
                        f"{prefix}*", tuple(PromiseState), {}, random.randint(1, 4), before
                    )
                    for promise in page:
                        world.watch.answered(Reply(Code.OK, promise=promise))
                        found.append(promise.id)
                        serials.append(promise.serial)
                        require(
                            promise.id not in ended or promise.state is not PromiseState.PENDING,
                            f"{promise.id} has ended and is found as pending",
                        )
                    if before is None:
                        break
                break
        except Unreachable:
            await trio.sleep(random.uniform(0.1, 1))
    world.trace.note(who, f"finds {len(found)} of {len(made)} in {prefix}")
    require(serials == sorted(serials, reverse=True), f"{prefix}: not newest first: {serials}")
    require(sorted(found) == sorted(made), f"{prefix}: found {found}, made were {made}")
    world.ledger.searches_count += 1
