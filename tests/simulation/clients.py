"""Simulated clients: they make promises, wait for them, race to complete them, and use locks.

Clients never die; they insist on an answer, with idempotency keys. Each registers in `goals` what
must be true in the end.
"""

import json
from collections.abc import Callable
from random import Random

import trio

from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    CompletePromise,
    CreatePromise,
    CreateSchedule,
    CreateSubscription,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import PromiseState, Value
from troth.shards.polls import ConnectionClosed

from .ledger import Hold
from .server import Unreachable
from .workers import FAR_MS, GROUP, PUSH_URL
from .world import World

SUBSCRIBERS = "subscribers"
PENDING = PromiseState.PENDING

Goal = tuple[str, Callable[[], bool]]


class Clients:
    """All clients of a run, and what they expect in the end."""

    def __init__(self, world: World, minutes: int = 1) -> None:
        """With work for about so many minutes."""
        self.goals: list[Goal] = []
        self._world = world
        self._minutes = minutes

    async def run(self) -> None:
        """Run all clients until their requests are made."""
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(self._invoke, number)
            for number in range(3):
                nursery.start_soon(self._race, number)
                nursery.start_soon(self._time_out, number)
                nursery.start_soon(self._lock, number)
            nursery.start_soon(self._schedule)

    def _expect(self, name: str, holds: Callable[[], bool]) -> None:
        self.goals.append((name, holds))

    async def _invoke(self, number: int) -> None:
        """Have work done, and wait for it: by a subscription and by reading."""
        world, who = self._world, f"client{number}"
        random = world.random(who)
        for round_number in range(5 * self._minutes):
            await trio.sleep(random.expovariate(1 / 2))
            kind = random.choice((f"job/{who}/{round_number}", f"parent/{who}/{round_number}/2"))
            target = random.choice((f"poll://any@{GROUP}", PUSH_URL))
            await self._create(who, kind, FAR_MS, {"resonate:invoke": target}, random)
            self._expect_state(kind, (PromiseState.RESOLVED,))
            await self._subscribe(who, kind, random)
            deadline = trio.current_time() + random.uniform(1, 20)
            while trio.current_time() < deadline:
                reply = await world.insist(who, ReadPromise(kind), random)
                if reply.promise is not None and reply.promise.state is not PENDING:
                    break
                await trio.sleep(1)

    async def _create(
        self, who: str, identifier: str, ends_at_ms: int, tags: dict[str, str], random: Random
    ) -> None:
        command = CreatePromise(identifier, ends_at_ms, tags=tags, idempotency_key=who)
        reply = await self._world.insist(who, command, random)
        assert reply.code in (Code.OK, Code.CREATED), reply

    def _expect_state(self, identifier: str, states: tuple[PromiseState, ...]) -> None:
        def ended_well() -> bool:
            final = self._world.ledger.finals.get(identifier)
            return final is not None and final.state in states

        self._expect(f"{identifier} ends as {' or '.join(states)}", ended_well)

    async def _subscribe(self, who: str, identifier: str, random: Random) -> None:
        receiver = f"poll://uni@{SUBSCRIBERS}/{random.randrange(2)}"
        command = CreateSubscription(identifier, who, FAR_MS, receiver)
        reply = await self._world.insist(who, command, random)
        assert reply.code in (Code.OK, Code.CREATED), reply
        if reply.code is Code.CREATED or (
            reply.promise is not None and reply.promise.state is PENDING
        ):
            task_id = f"__notify:{identifier}:{who}"
            self._world.ledger.subscriptions[task_id] = identifier
            notified = self._world.ledger.notified
            self._expect(f"{task_id} arrives", lambda: task_id in notified)

    async def _race(self, number: int) -> None:
        """Several clients complete the same promises, each in its own way."""
        who = f"racer{number}"
        random = self._world.random(who)
        for round_number in range(8 * self._minutes):
            await trio.sleep(random.expovariate(1 / 2))
            identifier = f"race/{round_number}"
            command = CreatePromise(identifier, FAR_MS, idempotency_key="race")
            await self._world.insist(who, command, random)
            await self._subscribe(who, identifier, random)
            state = random.choice((PromiseState.RESOLVED, PromiseState.REJECTED))
            key = f"{who}/{round_number}"
            complete = CompletePromise(identifier, state, Value(data=who), idempotency_key=key)
            reply = await self._world.insist(who, complete, random)
            if reply.code.status >= 400:
                reply = await self._world.insist(who, ReadPromise(identifier), random)
            assert reply.promise is not None
            assert reply.promise.state is not PENDING
            self._expect_state(identifier, (PromiseState.RESOLVED, PromiseState.REJECTED))

    async def _time_out(self, number: int) -> None:
        """Promises that nobody completes: they end by themselves."""
        who = f"patient{number}"
        random = self._world.random(who)
        for round_number in range(5 * self._minutes):
            identifier = f"short/{who}/{round_number}"
            ends_at_ms = self._world.clock.now_ms() + random.randrange(100, 30_000)
            tags = {"resonate:timeout": "true"} if random.random() < 0.5 else {}
            await self._create(who, identifier, ends_at_ms, tags, random)
            await self._subscribe(who, identifier, random)
            timed_out = PromiseState.RESOLVED if tags else PromiseState.REJECTED_TIMEDOUT
            self._expect_state(identifier, (timed_out,))
            await trio.sleep(random.expovariate(1 / 5))

    async def _lock(self, number: int) -> None:
        """Take a lock, keep it a while, give it back or forget to."""
        world, who = self._world, f"locker{number}"
        random = world.random(who)
        for round_number in range(12 * self._minutes):
            await trio.sleep(random.expovariate(1))
            ttl_ms = random.randrange(500, 5_000)
            execution = f"{who}/{round_number}"
            command = AcquireLock("lock", execution, who, ttl_ms)
            try:
                reply = await world.ask(who, command, random)
            except Unreachable:
                continue
            if reply.lock is None:
                continue
            until_ms = reply.lock.expires_at
            hold = Hold(execution, until_ms - ttl_ms, until_ms)
            world.ledger.lock_granted("lock", hold)
            await trio.sleep(random.expovariate(1 / 2))
            if random.random() < 0.7:
                world.ledger.lock_let_go("lock", execution)
                await world.insist(who, ReleaseLock("lock", execution), random)

    async def _schedule(self) -> None:
        """A schedule that makes promises in all shards."""
        random = self._world.random("scheduler")
        command = CreateSchedule(
            "every", "*/5 * * * * *", "run/{{.timestamp}}", 10_000, idempotency_key="k"
        )
        await self._world.insist("scheduler", command, random)

    # Reading back, at the end

    async def read_all(self) -> None:
        """Look at every promise that is known and not known to have ended."""
        random = self._world.random("reader")
        ledger = self._world.ledger
        for identifier in sorted(ledger.created - ledger.finals.keys()):
            await self._world.insist("reader", ReadPromise(identifier), random)


async def run_subscriber(world: World, number: int) -> None:
    """A receiver of notifications: it notes what arrives, and always comes back."""
    random = world.random(f"subscriber {number}")
    while True:
        server = await world.server_is_up()
        try:
            async with server.connection():
                with server.connect(SUBSCRIBERS, str(number)) as connection:
                    while True:
                        bodies = await connection.receive()
                        await trio.sleep(random.expovariate(1 / 0.002))
                        if world.strikes(world.chances.subscriber_hangs_up, random):
                            world.trace.note(f"subscriber{number}", "hangs up")
                            break
                        for body in bodies:
                            task_id = json.loads(body)["task"]
                            world.ledger.notified.add(task_id)
                            world.trace.note(f"subscriber{number}", f"gets {task_id}")
                        connection.confirm()
        except (Unreachable, ConnectionClosed):
            world.trace.note(f"subscriber{number}", "lost its connection")
        await trio.sleep(random.uniform(0.1, 2))
