"""Simulated clients: they make promises, wait for them, race to complete them, and use locks.

Clients never die; they insist on an answer, with idempotency keys. Each registers in `goals` what
must be true in the end.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, takewhile
from random import Random
from typing import ClassVar

import trio

from troth.core.catalog import EXECUTION_PREFIX
from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    CancelExecution,
    CompletePromise,
    CreateCallback,
    CreateExecution,
    CreatePromise,
    CreateSchedule,
    CreateSubscription,
    DeletePromise,
    PauseSchedule,
    ReadPromise,
    ReadSchedule,
    ReleaseLock,
    ResumeSchedule,
    UpdateSchedule,
)
from troth.core.model import PromiseState, Value
from troth.core.workflow_commands import (
    ContinueWorkflow,
    CreateWorkflow,
    EnsurePromise,
    HaltWorkflow,
    RegisterListener,
)
from troth.core.workflows import ACQUIRED
from troth.shards.delivery.polls import ConnectionClosed

from .accounts import administer
from .ledger import Hold, require
from .node_entries import PLANS
from .plan import CRONS
from .searches import run_searches
from .server import TRIM_TAG, Unreachable
from .sweepers import sweep
from .workers import FAR_MS, GROUP, PUSH_URL, TTL_MS
from .workflows import FLOWS, LISTENERS_COUNT, listener_address
from .workflows import PUSH_URL as FLOWS_URL
from .world import World

IN_USE_LIMIT_S = 5_000
"""For how long something unfinished may be about a promise that is to be deleted."""

ORIGIN_TAG = "resonate:origin"
SUBSCRIBERS = "subscribers"
PENDING = PromiseState.PENDING

Goal = tuple[str, Callable[[], bool]]


class Clients:
    """All clients of a run, and what they expect in the end."""

    def __init__(self, world: World) -> None:
        self.goals: list[Goal] = []
        self._world = world

    async def run(self) -> None:
        """Run all clients until their requests are made."""
        async with trio.open_nursery() as nursery:
            for kind, (client, clients_count) in self.KINDS.items():
                if f"client:{kind}" not in self._world.plan.without:
                    for number in range(clients_count):
                        nursery.start_soon(client, self, number)
        self._world.clients_have_left = True

    def _expect(self, name: str, holds: Callable[[], bool]) -> None:
        self.goals.append((name, holds))

    async def _invoke(self, number: int) -> None:
        """Have work done, and wait for it: by a subscription and by reading."""
        world, who = self._world, f"client{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 2)
            kind = random.choice((f"job/{who}/{round_number}", f"parent/{who}/{round_number}/2"))
            target = random.choice((f"poll://any@{GROUP}", PUSH_URL))
            await self.create(who, kind, FAR_MS, {"resonate:invoke": target}, random)
            self.expect_state(kind, (PromiseState.RESOLVED,))
            await self.subscribe(who, kind, random)
            deadline = trio.current_time() + random.uniform(1, 20) * world.plan.pace
            while trio.current_time() < deadline:
                reply = await world.insist(who, ReadPromise(kind), random)
                if reply.promise is not None and reply.promise.state is not PENDING:
                    break
                await trio.sleep(self._world.plan.pace)

    async def _function(self, number: int) -> None:
        """Have functions run, on nodes or by the server; cancel some."""
        world, who = self._world, f"caller{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 6)
            made = [
                await self._make_execution(who, f"{who}-{round_number}-{number}", random)
                for number in range(random.randint(1, 4))
            ]
            if random.random() < 0.3:
                await world.insist(who, CancelExecution(made[0]), random)
            with trio.move_on_after(random.uniform(1, 20)):
                await self._await_end(made[-1])

    async def _make_execution(self, who: str, name: str, random: Random) -> str:
        """Have one function run, now or within some seconds; the id of its promise."""
        identifier = EXECUTION_PREFIX + name
        ends_soon = random.random() < 0.3
        timeout_ms = self._world.clock.now_ms() + 20_000 if ends_soon else FAR_MS
        create = CreateExecution(identifier, timeout_ms, random.choice(PLANS), idempotency_key=who)
        reply = await self._world.insist(who, create, random)
        assert reply.code in (Code.OK, Code.CREATED), reply
        endings = set(PromiseState) - {PENDING}
        if not ends_soon:
            endings.discard(PromiseState.REJECTED_TIMEDOUT)
        self.expect_state(identifier, tuple(endings))
        return identifier

    async def _await_end(self, identifier: str) -> None:
        server = await self._world.first_process.serves()
        with server.endings.expect(identifier) as expectation:
            await expectation.wait(20)

    async def _let_go(self, number: int) -> None:
        """Promises that retention deletes: they are seen to end, and to be gone some time later.

        Some are awaited by a root, and some have it for their origin, which may be far away.
        """
        world, who = self._world, f"forgetful{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 4)
            identifier = f"gone/{who}/{round_number}"
            tags = dict([TRIM_TAG])
            ends_at_ms = world.clock.now_ms() + random.randrange(1_000, 10_000)
            root = None
            if random.random() < 0.5:
                root = await self._make_root(who, round_number, random)
                if random.random() < 0.5:
                    tags[ORIGIN_TAG] = root
            create = CreatePromise(identifier, ends_at_ms, tags=tags, idempotency_key=who)
            # Sent once: a retry after the promise is gone would make it anew.
            with suppress(Unreachable):
                await world.ask(who, create, random)
                world.ledger.created.add(identifier)
                self._expect(
                    f"{identifier} goes", partial(world.watch.deleted.__contains__, identifier)
                )
                if random.random() < 0.3:
                    await self.subscribe(who, identifier, random)
                if root is not None:
                    await world.ask(who, _callback(identifier, root), random)
                if random.random() < 0.5:
                    value = Value(data=who)
                    complete = CompletePromise(identifier, PromiseState.RESOLVED, value)
                    await world.ask(who, complete, random)
            if root is not None:
                await trio.sleep(random.expovariate(1 / 15))
                await self._end_root(who, root, random)

    async def _delete(self, number: int) -> None:
        """Promises that their client deletes, as soon as nothing unfinished is about them."""
        world, who = self._world, f"tidy{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 4)
            identifier = f"deleted/{who}/{round_number}"
            root, tags = None, {}
            if random.random() < 0.5:
                root = await self._make_root(who, round_number, random)
                if random.random() < 0.5:
                    tags[ORIGIN_TAG] = root
            await self.create(who, identifier, FAR_MS, tags, random)
            if random.random() < 0.3:
                await self.subscribe(who, identifier, random)
            if root is not None:
                await world.insist(who, _callback(identifier, root), random)
            # Another one, made by a late echo of the request to create it, goes in the same way.
            while not await self._complete_and_delete(who, identifier, root, random):
                world.trace.note(who, f"{identifier} was made again")
            if root is not None:
                await self._end_root(who, root, random)

    async def _make_root(self, who: str, round_number: int, random: Random) -> str:
        """Make a promise that waits for another one; its worker keeps its task for a while."""
        root = f"waits/{who}/{round_number}"
        tags = dict([TRIM_TAG]) | {"resonate:invoke": PUSH_URL}
        await self.create(who, root, FAR_MS, tags, random)
        return root

    async def _end_root(self, who: str, root: str, random: Random) -> None:
        complete = CompletePromise(root, PromiseState.RESOLVED, idempotency_key=who)
        await self._world.insist(who, complete, random)

    async def _complete_and_delete(
        self, who: str, identifier: str, root: str | None, random: Random
    ) -> bool:
        """Delete a promise as soon as it may go; whether it is gone then.

        If it has a root, that ends some time after the first attempt.
        """
        world = self._world
        value = Value(data=who)
        complete = CompletePromise(identifier, PromiseState.RESOLVED, value, idempotency_key=who)
        await world.insist(who, complete, random)
        code = Code.PROMISE_IN_USE
        ends = trio.current_time() + IN_USE_LIMIT_S
        while code in (Code.PROMISE_IN_USE, Code.ORIGIN_PENDING):
            require(trio.current_time() < ends, f"not done: {identifier} is in use for too long")
            await trio.sleep(random.uniform(0.01, 2))
            code = (await world.insist(who, DeletePromise(identifier), random)).code
            if root is not None and random.random() < 0.1:
                await self._end_root(who, root, random)
        # If the first answer was lost, it is gone when the client asks again.
        allowed = (Code.NO_CONTENT, Code.PROMISE_NOT_FOUND, Code.PROMISE_PENDING)
        require(code in allowed, f"{identifier} is not deleted: {code.name}")
        reply = await world.insist(who, ReadPromise(identifier), random)
        return reply.code is Code.PROMISE_NOT_FOUND

    async def create(
        self, who: str, identifier: str, ends_at_ms: int, tags: dict[str, str], random: Random
    ) -> None:
        """Have a promise made."""
        command = CreatePromise(identifier, ends_at_ms, tags=tags, idempotency_key=who)
        reply = await self._world.insist(who, command, random)
        assert reply.code in (Code.OK, Code.CREATED), reply

    def expect_state(self, identifier: str, states: tuple[PromiseState, ...]) -> None:
        """Expect that a promise ends in one of these states."""

        def ended_well() -> bool:
            final = self._world.ledger.finals.get(identifier)
            return final is not None and final.state in states

        self._expect(f"{identifier} ends as {' or '.join(states)}", ended_well)

    async def subscribe(self, who: str, identifier: str, random: Random) -> None:
        """Subscribe to a promise's end, and expect to be told."""
        receiver = f"poll://uni@{SUBSCRIBERS}/{random.randrange(2)}"
        command = CreateSubscription(identifier, who, FAR_MS, receiver)
        reply = await self._world.insist(who, command, random)
        if identifier in self._world.watch.deleted:
            return
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
        for round_number in self._rounds():
            await self.rest(random, 2)
            identifier = f"race/{round_number}"
            command = CreatePromise(identifier, FAR_MS, idempotency_key="race")
            await self._world.insist(who, command, random)
            await self.subscribe(who, identifier, random)
            state = random.choice((PromiseState.RESOLVED, PromiseState.REJECTED))
            key = f"{who}/{round_number}"
            complete = CompletePromise(identifier, state, Value(data=who), idempotency_key=key)
            reply = await self._world.insist(who, complete, random)
            if reply.code.status >= 400:
                reply = await self._world.insist(who, ReadPromise(identifier), random)
            assert reply.promise is not None
            assert reply.promise.state is not PENDING
            self.expect_state(identifier, (PromiseState.RESOLVED, PromiseState.REJECTED))

    async def _time_out(self, number: int) -> None:
        """Promises that nobody completes: they end by themselves."""
        who = f"patient{number}"
        random = self._world.random(who)
        for round_number in self._rounds():
            identifier = f"short/{who}/{round_number}"
            ends_at_ms = self._world.clock.now_ms() + random.randrange(100, 30_000)
            tags = {"resonate:timeout": "true"} if random.random() < 0.5 else {}
            await self.create(who, identifier, ends_at_ms, tags, random)
            await self.subscribe(who, identifier, random)
            timed_out = PromiseState.RESOLVED if tags else PromiseState.REJECTED_TIMEDOUT
            self.expect_state(identifier, (timed_out,))
            await self.rest(random, 5)

    async def _flow(self, number: int) -> None:
        """Have workflows run, made through either API or claimed at once; listen to their ends."""
        world, who = self._world, f"starter{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 3)
            last = random.choice(("leaf", "1", "2", "4"))
            identifier = f"flow/{who}/{round_number}/{last}"
            await self._begin_flow(who, identifier, random)
            self.expect_state(identifier, (PromiseState.RESOLVED,))
            await self._listen(who, identifier, random)
            if random.random() < 0.15:
                with suppress(Unreachable):
                    await world.ask(who, HaltWorkflow(identifier), random)
                await self.rest(random, 1)
                await world.insist(who, ContinueWorkflow(identifier), random)
                # The request to halt may have been on its way still.
                await trio.sleep(5)
                await world.insist(who, ContinueWorkflow(identifier), random)

    async def _begin_flow(self, who: str, identifier: str, random: Random) -> None:
        world = self._world
        tags = {"resonate:target": random.choice((f"poll://any@{FLOWS}", FLOWS_URL))}
        how = random.choice(("rest", "envelope", "run"))
        if how == "rest":
            await self.create(who, identifier, FAR_MS, tags, random)
        elif how == "envelope":
            reply = await world.insist(who, EnsurePromise(identifier, FAR_MS, tags=tags), random)
            assert reply.code is Code.OK, reply
        else:
            create = CreateWorkflow(identifier, FAR_MS, who, TTL_MS, tags=tags, claim_id=identifier)
            reply = await world.insist(who, create, random)
            assert reply.code in (Code.OK, Code.WORKFLOW_STATE), reply
            if reply.workflow is not None and reply.workflow.state is ACQUIRED:
                # Its process dies right here: the lease ends, and others go on.
                world.ledger.flow_claimed(identifier, reply.workflow.version, who)

    async def _listen(self, who: str, identifier: str, random: Random) -> None:
        address = listener_address(random.randrange(LISTENERS_COUNT))
        reply = await self._world.insist(who, RegisterListener(identifier, address), random)
        assert reply.promise is not None
        if reply.promise.state is PENDING:
            told, pair = self._world.ledger.unblocked, (identifier, address)
            self._world.ledger.listeners.add(pair)
            self._expect(f"{address} hears of {identifier}", lambda: pair in told)

    async def _lock(self, number: int) -> None:
        """Take a lock, keep it a while, give it back or forget to."""
        world, who = self._world, f"locker{number}"
        random = world.random(who)
        for round_number in self._rounds():
            await self.rest(random, 1)
            ttl_ms = random.randrange(500, 5_000)
            execution = f"{who}/{round_number}"
            lock = f"lock{round_number // 8}"
            command = AcquireLock(lock, execution, who, ttl_ms)
            try:
                reply = await world.ask(who, command, random)
            except Unreachable:
                continue
            if reply.lock is None or reply.code is not Code.CREATED:
                continue  # a refusal shows whose it is
            until_ms = reply.lock.expires_at
            hold = Hold(execution, until_ms - ttl_ms, until_ms)
            world.ledger.lock_granted(lock, hold)
            await trio.sleep(random.expovariate(1 / 2))
            if random.random() < 0.7:
                world.ledger.lock_let_go(lock, execution)
                await world.insist(who, ReleaseLock(lock, execution), random)

    async def _schedule(self, _: int) -> None:
        """A schedule that makes promises in all shards; it is paused, resumed and changed."""
        random = self._world.random("scheduler")
        command = CreateSchedule(
            "every", CRONS[self._world.plan.pace], "run/{{.timestamp}}", 10_000, idempotency_key="k"
        )
        await self._world.insist("scheduler", command, random)
        for round_number in self._rounds():
            await self.rest(random, 20)
            await self._world.insist("scheduler", PauseSchedule("every"), random)
            await self.rest(random, 5)
            # A request to pause whose answer was lost may have been on its way still.
            await trio.sleep(5)
            await self._world.insist("scheduler", ResumeSchedule("every"), random)
            words = f"round {round_number}"
            change = UpdateSchedule("every", description=words)
            await self._world.insist("scheduler", change, random)
            await trio.sleep(5)
            reply = await self._world.insist("scheduler", ReadSchedule("every"), random)
            schedule = reply.schedule
            require(schedule is not None, "the schedule is lost")
            assert schedule is not None
            require(schedule.description == words, f"not {words}, but {schedule.description}")
            require(schedule.paused_on is None, "the schedule was resumed and is paused")

    async def _bulk(self, number: int) -> None:
        """Act on many promises by bulk jobs; see `sweepers.py`."""
        await sweep(self._world, self, f"sweeper{number}", self._rounds())

    async def _search(self, number: int) -> None:
        """Search what was made; see `searches.py`."""
        await run_searches(self._world, f"searcher{number}", self._rounds(), self.rest)

    async def _administer(self, number: int) -> None:
        """Change accounts and tokens, where several processes have copies of them."""
        if self._world.plan.groups_count > 1:
            await administer(self._world, f"admin{number}", self._rounds(), self.rest)

    KINDS: ClassVar = {
        "work": (_invoke, 6),
        "race": (_race, 3),
        "timeout": (_time_out, 3),
        "lock": (_lock, 3),
        "schedule": (_schedule, 1),
        "function": (_function, 3),
        "retention": (_let_go, 2),
        "deletion": (_delete, 2),
        "flow": (_flow, 3),
        "bulk": (_bulk, 2),
        "search": (_search, 2),
        "account": (_administer, 2),
    }
    """What clients do, and how many do it; a plan may leave kinds out."""

    def _rounds(self) -> Iterator[int]:
        """Numbers, as long as the run goes on."""
        return takewhile(lambda _: self._world.goes_on, count())

    async def rest(self, random: Random, mean_s: float) -> None:
        """Do nothing for a while."""
        pause_s = random.expovariate(1 / mean_s) * self._world.plan.pace
        if self._world.plan.groups_count == 1:
            await trio.sleep(pause_s)
            return
        # Their links say something all the time, so nobody rests longer than the run goes on.
        with trio.move_on_after(pause_s):
            await self._world.steps_are_used_up.wait()

    # Reading back, at the end

    async def read_all(self) -> None:
        """Look at every promise that is known and not known to have ended."""
        random = self._world.random("reader")
        ledger = self._world.ledger
        unknown = ledger.created - ledger.finals.keys() - self._world.watch.deleted
        for identifier in sorted(unknown):
            await self._world.insist("reader", ReadPromise(identifier), random)


def _callback(identifier: str, root: str) -> CreateCallback:
    """The request to resume a root when a promise has ended."""
    return CreateCallback(identifier, root, FAR_MS, PUSH_URL)


async def run_subscriber(world: World, number: int) -> None:
    """A receiver of notifications: it notes what arrives, and always comes back."""
    random = world.random(f"subscriber {number}")
    while True:
        server = await world.home_of(SUBSCRIBERS)
        try:
            async with server.connection():
                with server.connect(SUBSCRIBERS, str(number)) as connection:
                    while True:
                        bodies = await connection.receive()
                        await trio.sleep(random.expovariate(1 / 0.002))
                        if world.faults.strikes("subscriber_hangs_up"):
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
