"""Surveys: what waits in the whole server, and why, looked at without disturbing it.

A survey reads the shards' state between their turns, in slices, and changes nothing. Before it
answers, everything that it has seen is durable. What is asked of a single promise is settled first,
so that a timeout that has passed is never shown as pending.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, Protocol, TypeVar, final

from troth.core.commands import ReadPromise
from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.model import PENDING, Promise, replace
from troth.core.state.shard_state import ShardState
from troth.core.workflows import execute_key
from troth.shards.delivery.polls import Polls
from troth.shards.shards import Shards

from . import locks, shown_tasks, tasks, waiters
from .causes import Causes, Messages, Placing, Streams
from .id_texts import IdTexts
from .locks import LockPage, LockPlace
from .pace import Pace
from .rows import (
    Due,
    FarBelow,
    FarPromise,
    FarPromises,
    LockRow,
    SeenWaiter,
    TaskFamily,
    TaskRow,
    Tree,
    Why,
)
from .tasks import TaskPage, TaskPart, TaskQuery
from .timers import DueTimers, Place
from .tree import CANDIDATES_LIMIT_COUNT, Trees, tasks_of_promise
from .why import WhyPending

ROUNDS_COUNT: Final = 4
"""How often an answer is made, at most: with each, more is known of messages and streams."""

Answered = TypeVar("Answered")


class SentMessages(Messages, Protocol):
    """What surveys ask of delivery; see `Delivery`."""

    def retry(self, key: str) -> bool: ...


class Looks(Messages, Streams, Protocol):
    """What is known for one answer of messages and streams, here and elsewhere."""

    async def fetch(self) -> bool:
        """Ask for what was missing; return whether there was anything."""
        ...  # pragma: no cover


class LooksElsewhere(Protocol):
    """What other processes know of this group's messages and their receivers."""

    def new(self) -> Looks:
        """Return what one answer is made with."""
        ...  # pragma: no cover


@final
class Surveys:
    """Answers about one server. Only what begins with an `id_prefix` is ever shown.

    Function tasks are only shown to the account that they belong to. Each method raises Stopping
    or StorageFailed where the shards do.
    """

    def __init__(
        self,
        shards: Shards,
        messages: SentMessages,
        polls: Polls,
        placing: Placing,
        now_ms: Callable[[], int],
        elsewhere: LooksElsewhere | None = None,
    ) -> None:
        self._shards = shards
        self._messages = messages
        self._now_ms = now_ms
        self._causes = Causes(shards, messages, polls, placing)
        self._placing = placing
        self._elsewhere = elsewhere
        self._texts = [IdTexts() for _ in shards.states()]

    async def _made(self, make: Callable[[Causes], Awaitable[Answered]]) -> Answered:
        """Return an answer, when all that it has looked at elsewhere is known."""
        if self._elsewhere is None:
            return await make(self._causes)
        looks = self._elsewhere.new()
        causes = Causes(self._shards, looks, looks, self._placing)
        for _ in range(ROUNDS_COUNT):
            answer = await make(causes)
            if not await looks.fetch():
                break
        return answer

    async def promise(self, promise_id: str) -> Promise | None:
        """Return a promise as it is now, a timeout that has passed included."""
        return (await self._shards.ask(ReadPromise(promise_id))).promise

    async def why(self, promise_id: str, id_prefix: str = "") -> Why | None:
        """Return why a promise has not completed; None if there is none."""
        promise = await self.promise(promise_id)
        if promise is None:
            return None
        return await self.explained(promise, id_prefix)

    async def explained(
        self, promise: Promise, id_prefix: str, far: FarPromises | None = None
    ) -> Why:
        """Return why a promise of any group has not completed, as far as is known of others."""
        why = await self._made(
            lambda causes: WhyPending(self._shards, causes, id_prefix, self._now_ms(), far).explain(
                promise
            )
        )
        await self._shards.wait_shown()
        return why

    async def account_of(self, promise_id: str) -> str | None:
        """Return the account that a function task belongs to; None if it has finished or never
        was."""
        execution = self._state(promise_id).executions.get(promise_id)
        await self._shards.wait_shown()
        return None if execution is None else execution.plan.account_id

    async def tree(
        self, promise_id: str, limit_count: int, depth_count: int | None, id_prefix: str = ""
    ) -> Tree | None:
        """Return the tree of calls below a promise; None if there is no such promise."""
        promise = await self.promise(promise_id)
        if promise is None:
            return None
        return await self.tree_of(promise, limit_count, depth_count, id_prefix)

    async def tree_of(
        self,
        promise: Promise,
        limit_count: int,
        depth_count: int | None,
        id_prefix: str,
        far: FarPromises | None = None,
    ) -> Tree:
        """Return the tree below a promise of any group, as far as is known of others."""

        async def make(causes: Causes) -> Tree:
            trees = Trees(self._shards, self._texts, causes, id_prefix, self._now_ms(), far)
            return await trees.tree(promise, limit_count, depth_count)

        tree = await self._made(make)
        await self._shards.wait_shown()
        return tree

    # What other groups ask, for their answers

    async def found(self, promise_ids: Sequence[str]) -> list[FarPromise | None]:
        """Return those promises of this group that are in memory."""

        async def make(causes: Causes) -> list[FarPromise | None]:
            pace = Pace(math.inf)
            answer: list[FarPromise | None] = []
            for promise_id in promise_ids:
                state = self._state(promise_id)
                promise = state.promises.get(promise_id)
                if promise is None:
                    answer.append(None)
                elif promise.state is not PENDING:
                    answer.append(FarPromise(promise))
                else:
                    local = causes.look(state, promise, self._now_ms())
                    rows = tasks_of_promise(state, promise)
                    answer.append(FarPromise(promise, rows, local.cause, local.awaited))
                await pace.rest()
            return answer

        found = await self._made(make)
        await self._shards.wait_shown()
        return found

    async def resumed_by(self, root_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Return for each root the promises of this group whose completion resumes it."""
        states = self._shards.states()
        found = [
            tuple(name for state in states for name in state.resuming.waiters_of(root_id))
            for root_id in root_ids
        ]
        await self._shards.wait_shown()
        return found

    async def existing(self, promise_ids: Sequence[str]) -> list[bool]:
        """Return which of some promises of this group there are, in memory or not."""
        found = [self._state(name).find_promise(name) is not None for name in promise_ids]
        await self._shards.wait_shown()
        return found

    async def below(self, root: Promise, id_prefix: str) -> FarBelow:
        """Return the promises of this group that may be below a root, as many as are looked at."""
        trees = Trees(self._shards, self._texts, self._causes, id_prefix, self._now_ms())
        found: dict[str, Promise] = {}
        is_cut = False
        pace = Pace()
        async with aclosing(trees.near_candidates(root)) as candidates:
            async for promise in candidates:
                found.setdefault(promise.id, promise)
                if len(found) > CANDIDATES_LIMIT_COUNT or pace.is_spent:
                    is_cut = True
                    break
        await self._shards.wait_shown()
        return FarBelow(tuple(found.values()), is_cut)

    async def waiters(self, promise_id: str) -> list[SeenWaiter] | None:
        """Return who waits for a promise; None if there is no such promise."""
        if await self.promise(promise_id) is None:
            return None
        found = waiters.waiters_of(self._state(promise_id), promise_id)
        await self._shards.wait_shown()
        return found

    @property
    def task_streams_count(self) -> int:
        """Return how many positions a page of tasks has."""
        return tasks.STREAMS_PER_SHARD_COUNT * len(self._shards.states())

    async def newest_tasks(self) -> tuple[int, ...]:
        """Return the place of the newest task in each stream; see `tasks.py`."""
        return tasks.newest(self._shards.states())

    async def tasks(
        self, query: TaskQuery, limit_count: int, positions: Sequence[int] | None
    ) -> TaskPage:
        """Return a page of unfinished tasks; see `tasks.py`."""
        page = await tasks.page(self._shards.states(), query, limit_count, positions)
        await self._shards.wait_shown()
        return TaskPage(await self._with_sending(page.rows), page.positions)

    async def tasks_part(
        self, query: TaskQuery, limit_count: int, positions: Sequence[int] | None
    ) -> TaskPart:
        """Do as `tasks` for a page of all groups."""
        part = await tasks.part(self._shards.states(), query, limit_count, positions)
        await self._shards.wait_shown()
        return replace(part, rows=await self._with_sending(part.rows))

    async def tasks_of(
        self, promise_id: str, query: TaskQuery, limit_count: int, position: int
    ) -> TaskPage:
        """Return a page of the tasks of one promise, finished ones too."""
        await self.promise(promise_id)
        state = self._state(promise_id)
        page = await tasks.page_of(state, promise_id, query, limit_count, position)
        await self._shards.wait_shown()
        return TaskPage(await self._with_sending(page.rows), page.positions)

    async def task(self, task_id: str) -> TaskRow | None:
        """Return a task by its id, or by its promise's if it is of the envelope protocol."""
        name = task_ids.parse(task_id)
        row = None
        if name is not None:
            await self.promise(name.root)
            state = self._state(name.root)
            task = state.find_task(task_id)
            row = None if task is None else shown_tasks.of_task(state, task)
        if row is None:  # a promise may have an id that looks like a task's
            await self.promise(task_id)
            row = tasks.workflow_row(self._state(task_id), task_id)
        await self._shards.wait_shown()
        return None if row is None else (await self._with_sending([row]))[0]

    def _state(self, promise_id: str) -> ShardState:
        return self._shards.state_of(promise_id)

    def retry(self, key: str) -> bool:
        """Send a stalled message again now, if it is here; see `Delivery.retry`."""
        return self._messages.retry(key)

    async def retry_all(self, keys: Sequence[str], sent: set[str]) -> None:
        """Do as `retry` with several, and add those that are sent again to `sent`."""
        sent.update(key for key in keys if self.retry(key))

    async def _with_sending(self, rows: Sequence[TaskRow]) -> list[TaskRow]:
        """Return rows with what is known of their messages."""

        async def make(causes: Causes) -> list[TaskRow]:
            now_ms = self._now_ms()
            return [replace(row, sending=causes.sending_of(_key_of(row), now_ms)) for row in rows]

        return await self._made(make)

    async def lock(self, resource_id: str) -> LockRow | None:
        """Return the lock on a resource; None if it is free."""
        state = self._state(resource_id)
        lock = state.locks.get(resource_id)
        await self._shards.wait_shown()
        return None if lock is None else LockRow(lock, state.end_of_lock(lock))

    def locks_count(self, process_id: str | None) -> int:
        """Return how many locks there are, or how many a process renews."""
        return locks.count(self._shards, process_id)

    async def locks(
        self,
        pattern: str,
        id_prefix: str,
        process_id: str | None,
        limit_count: int,
        place: LockPlace,
    ) -> LockPage:
        """Return the next locks; see `locks.py`."""
        wanted = Pattern(pattern, id_prefix)
        found = await locks.page(self._shards, wanted, process_id, limit_count, place)
        await self._shards.wait_shown()
        return found

    async def timers(
        self,
        until_ms: int,
        limit_count: int,
        after: Place | None,
        id_prefix: str = "",
        account_id: str = "",
    ) -> tuple[list[Due], bool]:
        """Return what comes due next, and whether there is more up to the time."""
        timers = DueTimers(self._shards, id_prefix, account_id)
        found = await timers.page(until_ms, limit_count, after)
        await self._shards.wait_shown()
        return found


def _key_of(row: TaskRow) -> str:
    """Return the key of a task's message (`key_of`)."""
    return execute_key(row.id) if row.family is TaskFamily.ENVELOPE else row.id
