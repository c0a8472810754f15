"""Surveys of a server of several processes: what is about one promise is asked of its process, and
lists are put together of all processes' parts. See `surveys.Surveys` for what each method does.

If a process is away that is needed for an answer, there is none. Each method raises ShardsError.
"""

from collections.abc import Sequence
from typing import Final, TypeVar, final

from msgspec import Struct

from troth.core.grammar import task_ids
from troth.persistence.placement import groups_by_shard
from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.shards import Shards
from troth.shards.surveys import tasks as task_lists
from troth.shards.surveys.locks import ORDERED_LIMIT_COUNT, LockPage, LockPlace
from troth.shards.surveys.rows import Due, LockRow, SeenWaiter, TaskRow, Tree, Why
from troth.shards.surveys.surveys import Surveys
from troth.shards.surveys.tasks import TaskPage, TaskPart, TaskQuery
from troth.shards.surveys.timers import Place

from .asking import all_of, ask_all, ask_each, ask_one
from .far_promises import AllPromises

Row = TypeVar("Row")


class TasksAsked(Struct, frozen=True, array_like=True):
    """A page of tasks; see `Surveys.tasks` and `tasks_of`."""

    query: TaskQuery
    limit_count: int
    positions: list[int] | None
    promise_id: str = ""


class LocksAsked(Struct, frozen=True, array_like=True):
    """A page of locks; see `Surveys.locks`."""

    pattern: str
    id_prefix: str
    process_id: str | None
    limit_count: int
    place: LockPlace


class TimersAsked(Struct, frozen=True, array_like=True):
    """A page of what comes due; see `Surveys.timers`."""

    until_ms: int
    limit_count: int
    after: Place | None
    id_prefix: str
    account_id: str


TASKS: Final = ProcessCall("tasks", TasksAsked, TaskPart)
TASKS_OF: Final = ProcessCall("tasks.of", TasksAsked, TaskPage)
TASK: Final = ProcessCall("tasks.one", str, list[TaskRow])
NEWEST_TASKS: Final = ProcessCall("tasks.newest", type(None), tuple[int, ...])
WAITERS: Final = ProcessCall("waiters", str, list[list[SeenWaiter]])
ACCOUNT: Final = ProcessCall("tasks.account", str, list[str])
LOCK: Final = ProcessCall("locks.one", str, list[LockRow])
LOCKS: Final = ProcessCall("locks", LocksAsked, LockPage)
LOCKS_COUNT: Final = ProcessCall("locks.count", list[str], int)
RETRY: Final = ProcessCall("tasks.retry", list[str], list[str])
"""Which of these messages are sent again."""
TIMERS: Final = ProcessCall("timers", TimersAsked, tuple[list[Due], bool])


@final
class AllSurveys:
    """Answers about a server of several processes; `own` are those of this one."""

    def __init__(
        self, calls: ProcessCalls, group_shards: Sequence[int], shards: Shards, own: Surveys
    ) -> None:
        self._calls = calls
        self._group_shards = group_shards
        self._shards = shards
        self._own = own
        self._groups = groups = groups_by_shard(group_shards)
        self._promises = AllPromises(calls, groups, shards.shard_of, own)
        self._handle(calls)

    def _handle(self, calls: ProcessCalls) -> None:
        own = self._own

        async def tasks(_: int, asked: TasksAsked) -> TaskPart:
            return await own.tasks_part(asked.query, asked.limit_count, asked.positions)

        async def tasks_of(_: int, asked: TasksAsked) -> TaskPage:
            position = (asked.positions or [0])[0]
            return await own.tasks_of(asked.promise_id, asked.query, asked.limit_count, position)

        async def newest(_process: int, _asked: None) -> tuple[int, ...]:
            return await own.newest_tasks()

        async def locks(_: int, asked: LocksAsked) -> LockPage:
            return await own.locks(
                asked.pattern, asked.id_prefix, asked.process_id, asked.limit_count, asked.place
            )

        async def timers(_: int, asked: TimersAsked) -> tuple[list[Due], bool]:
            return await own.timers(
                asked.until_ms, asked.limit_count, asked.after, asked.id_prefix, asked.account_id
            )

        async def locks_count(_: int, process_ids: list[str]) -> int:
            return own.locks_count(_first(process_ids))

        async def task(_: int, task_id: str) -> list[TaskRow]:
            return _at_most_one(await own.task(task_id))

        async def waiters(_: int, promise_id: str) -> list[list[SeenWaiter]]:
            return _at_most_one(await own.waiters(promise_id))

        async def account_of(_: int, promise_id: str) -> list[str]:
            return _at_most_one(await own.account_of(promise_id))

        async def retry(_: int, keys: list[str]) -> list[str]:
            return [key for key in keys if own.retry(key)]

        async def lock(_: int, resource_id: str) -> list[LockRow]:
            return _at_most_one(await own.lock(resource_id))

        calls.handle(TASKS, tasks)
        calls.handle(TASKS_OF, tasks_of)
        calls.handle(TASK, task)
        calls.handle(NEWEST_TASKS, newest)
        calls.handle(WAITERS, waiters)
        calls.handle(ACCOUNT, account_of)
        calls.handle(RETRY, retry)
        calls.handle(LOCK, lock)
        calls.handle(LOCKS, locks)
        calls.handle(LOCKS_COUNT, locks_count)
        calls.handle(TIMERS, timers)

    def _home(self, promise_id: str) -> int:
        return self._groups[self._shards.shard_of(promise_id)]

    # About one promise

    async def why(self, promise_id: str, id_prefix: str = "") -> Why | None:
        """See `Surveys`."""
        promise = await self._own.promise(promise_id)
        if promise is None:
            return None
        return await self._promises.made(
            id_prefix, lambda far: self._own.explained(promise, id_prefix, far)
        )

    async def tree(
        self, promise_id: str, limit_count: int, depth_count: int | None, id_prefix: str = ""
    ) -> Tree | None:
        """See `Surveys`."""
        promise = await self._own.promise(promise_id)
        if promise is None:
            return None
        return await self._promises.made(
            id_prefix,
            lambda far: self._own.tree_of(promise, limit_count, depth_count, id_prefix, far),
        )

    async def waiters(self, promise_id: str) -> list[SeenWaiter] | None:
        """See `Surveys`."""
        return _first(await ask_one(self._calls, self._home(promise_id), WAITERS, promise_id))

    async def account_of(self, promise_id: str) -> str | None:
        """See `Surveys`."""
        return _first(await ask_one(self._calls, self._home(promise_id), ACCOUNT, promise_id))

    async def task(self, task_id: str) -> TaskRow | None:
        """See `Surveys`."""
        name = task_ids.parse(task_id)
        found: list[TaskRow] = []
        if name is not None:
            found = await ask_one(self._calls, self._home(name.root), TASK, task_id)
        return _first(found or await ask_one(self._calls, self._home(task_id), TASK, task_id))

    async def tasks_of(
        self, promise_id: str, query: TaskQuery, limit_count: int, position: int
    ) -> TaskPage:
        """See `Surveys`."""
        asked = TasksAsked(query, limit_count, [position], promise_id)
        return await ask_one(self._calls, self._home(promise_id), TASKS_OF, asked)

    async def lock(self, resource_id: str) -> LockRow | None:
        """See `Surveys`."""
        home = self._groups[self._shards.shard_of_name(resource_id)]
        return _first(await ask_one(self._calls, home, LOCK, resource_id))

    async def retry_all(self, keys: Sequence[str], sent: set[str]) -> None:
        """See `Surveys`. Each message is in one process, its home, whatever group it is of.

        It is raised that a process is away only if not all have been found.
        """
        found = await self._calls.call_all(RETRY, list(keys))
        for answer in found.values():
            if not isinstance(answer, ShardsError):
                sent.update(answer)
        if not sent.issuperset(keys):
            all_of(found, self._calls.own)

    # Lists

    @property
    def task_streams_count(self) -> int:
        """See `Surveys`."""
        return task_lists.STREAMS_PER_SHARD_COUNT * len(self._groups)

    async def newest_tasks(self) -> tuple[int, ...]:
        """See `Surveys`."""
        found = await ask_all(self._calls, NEWEST_TASKS, None)
        return tuple(place for part in found for place in part)

    async def tasks(
        self, query: TaskQuery, limit_count: int, positions: Sequence[int] | None
    ) -> TaskPage:
        """See `Surveys`."""
        begun = self._by_group(positions)
        asked = {
            process: TasksAsked(query, limit_count, None if positions is None else places)
            for process, places in enumerate(begun)
        }
        parts = await ask_each(self._calls, TASKS, asked)
        return joined_tasks([parts[one] for one in sorted(parts)], begun, query, limit_count)

    def _by_group(self, positions: Sequence[int] | None) -> list[list[int]]:
        """Return the positions in the streams of each group."""
        found = []
        first = 0
        for count in self._group_shards:
            length = task_lists.STREAMS_PER_SHARD_COUNT * count
            if positions is None:
                found.append([task_lists.BEGINNING] * length)
            else:
                found.append([*positions[first : first + length]])
            first += length
        return found

    async def locks(
        self,
        pattern: str,
        id_prefix: str,
        process_id: str | None,
        limit_count: int,
        place: LockPlace,
    ) -> LockPage:
        """See `Surveys`."""
        asked = LocksAsked(pattern, id_prefix, process_id, limit_count, place)
        if place.shard is None:
            counts = await ask_all(self._calls, LOCKS_COUNT, _at_most_one(process_id))
            if sum(counts) <= ORDERED_LIMIT_COUNT:
                pages = await ask_all(self._calls, LOCKS, asked)
                if all(page.following is None or page.following.shard is None for page in pages):
                    return joined_locks(pages, limit_count)
        return await self._locks_by_shard(asked)

    async def _locks_by_shard(self, asked: LocksAsked) -> LockPage:
        """Return the next of very many locks: a group after the other, each by its shards."""
        place = asked.place if asked.place.shard is not None else LockPlace(None, 0)
        first = 0
        rows: list[LockRow] = []
        for process, count in enumerate(self._group_shards):
            here = (place.shard or 0) - first
            if here < count:
                left_count = asked.limit_count - len(rows)
                of_one = LocksAsked(
                    asked.pattern,
                    asked.id_prefix,
                    asked.process_id,
                    left_count,
                    LockPlace(place.after, max(here, 0)),
                )
                page = await ask_one(self._calls, process, LOCKS, of_one)
                rows += page.rows
                if page.following is not None:
                    shard = first + (page.following.shard or 0)
                    return LockPage(rows, LockPlace(page.following.after, shard))
                place = LockPlace(None, first + count)
                if len(rows) >= asked.limit_count and process + 1 < len(self._group_shards):
                    return LockPage(rows, place)
            first += count
        return LockPage(rows, None)

    async def timers(
        self,
        until_ms: int,
        limit_count: int,
        after: Place | None,
        id_prefix: str = "",
        account_id: str = "",
    ) -> tuple[list[Due], bool]:
        """See `Surveys`."""
        asked = TimersAsked(until_ms, limit_count, after, id_prefix, account_id)
        parts = await ask_all(self._calls, TIMERS, asked)
        dues = sorted((due for part, _ in parts for due in part), key=lambda due: due.place)
        has_more = len(dues) > limit_count or any(more for _, more in parts)
        return dues[:limit_count], has_more


def joined_tasks(
    parts: Sequence[TaskPart], begun: Sequence[list[int]], query: TaskQuery, limit_count: int
) -> TaskPage:
    """Return a page of the parts of all groups, which began at these positions.

    It ends where a group may have more that comes before the others' next.
    """
    sign = -1 if query.newest_first else 1
    rows: list[TaskRow] = []
    taken = [0] * len(parts)
    while len(rows) < limit_count:
        heads = [
            (sign * (part.rows[count].created_on or 0), group)
            for group, (part, count) in enumerate(zip(parts, taken, strict=True))
            if count < len(part.rows)
        ]
        is_cut = any(
            count == len(part.rows) and not part.is_end
            for part, count in zip(parts, taken, strict=True)
        )
        if is_cut or not heads:
            break
        _, group = min(heads)
        rows.append(parts[group].rows[taken[group]])
        taken[group] += 1
    places: list[int] = []
    is_end = True
    for part, count, first in zip(parts, taken, begun, strict=True):
        if count == len(part.rows):
            places += part.positions
            is_end &= part.is_end
            continue
        is_end = False
        reached = [*first]
        for stream, position in part.marks[:count]:
            reached[stream] = position
        places += reached
    return TaskPage(rows, None if is_end else places)


def joined_locks(pages: Sequence[LockPage], limit_count: int) -> LockPage:
    """Return the first locks of all groups, in the order of their resources."""
    rows = sorted(
        (row for page in pages for row in page.rows), key=lambda row: row.lock.resource_id
    )
    # Beyond where a page ends, its group has more.
    ends = [page.following.after or "" for page in pages if page.following is not None]
    end = min(ends, default=None)
    if end is not None:
        rows = [row for row in rows if row.lock.resource_id <= end]
    if len(rows) > limit_count:
        del rows[limit_count:]
        end = rows[-1].lock.resource_id
    return LockPage(rows, None if end is None else LockPlace(end))


def _at_most_one(found: Row | None) -> list[Row]:
    """Return something as a list: calls carry no bare `None`s of a kind."""
    return [] if found is None else [found]


def _first(found: list[Row]) -> Row | None:
    return found[0] if found else None
