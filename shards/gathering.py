"""Questions that concern many shards: searches and lists, whose parts are merged, and heartbeats.

Each is sent to the shards that can hold something; see `gather.py` for how pages are made. What
shards of other groups hold is not known here, so those are asked all.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

import trio
from msgspec import Struct

from troth.core.catalog import Entry
from troth.core.commands import (
    Command,
    DeletePromises,
    HeartbeatLocks,
    HeartbeatTasks,
    ListEntries,
    ListUsage,
    SearchExecutions,
    SearchPromises,
    SearchSchedules,
    TimeRange,
)
from troth.core.executions import Execution, Usage, added
from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.limits import RENEWALS_SLICE_COUNT, SEARCH_SCAN_COUNT
from troth.core.model import Promise, PromiseState, Schedule, Task
from troth.core.replies import Reply
from troth.core.state.shard_state import ShardState
from troth.core.workflow_commands import RenewWorkflows, SearchWorkflows
from troth.core.workflows import WorkflowState, WorkflowView
from troth.persistence.placement import ShardOf

from . import gather
from .committer import BellListener, Committer
from .errors import Overloaded, StorageFailed
from .held import HeldMessages
from .passes import Pass
from .turns import Asker, Elsewhere, Seat
from .waiting import CountsWaiter

EntryKind = TypeVar("EntryKind", bound=Entry)

PARTIAL_LIMIT_S: Final = 0.045
"""What a page that may end early costs, in seconds of this thread's CPU, whatever is done in it; to
render it takes some more."""
PARTIAL_SCAN_COUNT: Final = 100
"""How many entries a shard looks at for such a page before it is seen what that has cost."""


class SearchBounds(Struct, frozen=True):
    """What bounds a search besides ids, states and tags: times, and what a page may cost.

    If it `may_end_early`, a page ends when it has cost what it may. With `oldest_first` the order
    is the other one, and a page continues above a serial.
    """

    created: TimeRange | None = None
    completed: TimeRange | None = None
    may_end_early: bool = False
    oldest_first: bool = False


UNBOUNDED: Final = SearchBounds()


class Gathering(ABC):
    """Questions to many shards together; a base of Shards."""

    committer: Committer
    _count: int
    _at: Sequence[Seat]
    _elsewhere: Elsewhere | None
    _pass: Pass
    _submitted: dict[int, Seat]
    shard_of: ShardOf
    """Finds the shard that a promise lives in."""
    shard_of_name: ShardOf
    """Finds the shard of a lock, a schedule or an entry."""

    @abstractmethod
    async def _ask_all(
        self, questions: list[tuple[int, Command]], held: HeldMessages | None = None
    ) -> list[Reply]:
        """Do as `Shards.ask` for several commands; return their replies in the same order."""

    @abstractmethod
    def _refuse_unless_open(self) -> None:
        """Raise StorageFailed or Stopping if nothing may be asked any more."""

    @abstractmethod
    def states(self) -> list[ShardState]:
        """Return the states of all shards of this group, to be looked at in this moment."""

    def look_at_log(self) -> None:
        """Release what has become durable by now, for who is awake anyway."""
        self.committer.look()

    def let_hear(self, listener: BellListener | None) -> bool:
        """Leave the log's bell to a listener, or none, as `Committer`; return whether it is so."""
        return self.committer.let_hear(listener)

    def end_pass(self) -> None:
        """End a pass of the loop: who calls this waits for what comes next itself."""
        self._pass.before_io_wait(0.0)

    def begin_pass(self) -> None:
        """Begin a pass of the loop: who calls this has waited for what comes itself."""
        self._pass.after_io_wait(0.0)

    @property
    def own_indexes(self) -> Sequence[int]:
        """The indexes of the shards of this group."""
        return range(self._count) if self._elsewhere is None else self._elsewhere.own

    def stretches(self, promise_ids: Sequence[str]) -> Iterator[range]:
        """Yield the places of ids that follow one another and live in one group: often all."""
        first = 0
        if self._elsewhere is not None:
            group_of = self._elsewhere.group_of
            groups = [group_of(self.shard_of(one)) for one in promise_ids]
            for place in range(1, len(groups)):
                if groups[place] != groups[place - 1]:
                    yield range(first, place)
                    first = place
        yield range(first, len(promise_ids))

    @property
    def oldest_serial(self) -> int:
        """The serial of the oldest promise that searches find, or of one near; 0 without any."""
        found = [
            serial
            for state in self.states()
            for serial in (state.promise_index.first(), state.cold.first_serial())
            if serial is not None
        ]
        return min(found, default=0)

    async def search_promises(
        self,
        pattern: str,
        states: tuple[PromiseState, ...],
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
        more: SearchBounds = UNBOUNDED,
    ) -> tuple[list[Promise], int | None]:
        """Return a page of promises, newest first, and the serial to continue below, or None.

        Only ids that begin with `id_prefix` are found. `more` bounds the times of promises, and
        what the page may cost.
        """
        began_s = time.thread_time()
        rounds_count = 0
        scan_count = PARTIAL_SCAN_COUNT if more.may_end_early else SEARCH_SCAN_COUNT

        def is_spent() -> bool:
            """Return whether one more round, as long as those before, would be too long."""
            used_s = time.thread_time() - began_s
            return used_s + used_s / rounds_count >= PARTIAL_LIMIT_S

        async def ask(wanted: dict[int, int], count: int) -> list[gather.ShardPart[Promise]]:
            nonlocal rounds_count
            rounds_count += 1
            replies = await self._ask_all(
                [
                    (
                        index,
                        SearchPromises(
                            pattern,
                            states,
                            dict(tags),
                            count,
                            before,
                            scan_count,
                            id_prefix,
                            more.created,
                            more.completed,
                            more.oldest_first,
                        ),
                    )
                    for index, before in wanted.items()
                ]
            )
            pages = [reply.promises for reply in replies if reply.promises is not None]
            return [gather.ShardPart(page.promises, page.next_before) for page in pages]

        return await gather.page(
            ask,
            self._where(pattern, self.shard_of),
            limit_count,
            before_serial,
            is_spent=is_spent if more.may_end_early else None,
            oldest_first=more.oldest_first,
        )

    async def search_schedules(
        self,
        pattern: str,
        tags: Mapping[str, str],
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
        promise_tags: Mapping[str, str] | None = None,
    ) -> tuple[list[Schedule], int | None]:
        """Return a page of schedules; see search_promises.

        `promise_tags`: those of their promises.
        """

        async def ask(wanted: dict[int, int], count: int) -> list[gather.ShardPart[Schedule]]:
            replies = await self._ask_all(
                [
                    (
                        index,
                        SearchSchedules(
                            pattern,
                            dict(tags),
                            count,
                            before,
                            SEARCH_SCAN_COUNT,
                            id_prefix,
                            dict(promise_tags or {}),
                        ),
                    )
                    for index, before in wanted.items()
                ]
            )
            pages = [reply.schedules for reply in replies if reply.schedules is not None]
            return [gather.ShardPart(page.schedules, page.next_before) for page in pages]

        where = self._where(pattern, self.shard_of_name)
        return await gather.page(ask, where, limit_count, before_serial)

    def _where(self, pattern: str, shard_of: ShardOf) -> list[int]:
        """Return the shards that can hold matches: one for an exact id, else all."""
        exact = Pattern(pattern).exact
        return [shard_of(exact)] if exact is not None else list(range(self._count))

    async def list_entries(self, kind: type[EntryKind], account_id: str | None) -> list[EntryKind]:
        """Return the entries of a type, of one account or all (None), oldest first."""
        command = ListEntries(cast(type[Entry], kind), account_id)
        replies = await self._ask_all([(index, command) for index in range(self._count)])
        found: list[EntryKind] = []
        for reply in replies:
            found.extend(one for one in reply.entries if isinstance(one, kind))
        found.sort(key=lambda one: (one.created_on, one.id))
        return found

    async def search_executions(
        self,
        account_id: str,
        function_id: str | None,
        limit_count: int,
        before_serial: int | None,
    ) -> tuple[list[tuple[Promise, Execution | None]], int | None]:
        """Return a page of an account's executions, without data; see search_promises."""
        executions: dict[int, Execution | None] = {}

        async def ask(wanted: dict[int, int], count: int) -> list[gather.ShardPart[Promise]]:
            replies = await self._ask_all(
                [
                    (
                        index,
                        SearchExecutions(account_id, function_id, count, before, SEARCH_SCAN_COUNT),
                    )
                    for index, before in wanted.items()
                ]
            )
            parts = []
            for page in [reply.executions for reply in replies if reply.executions is not None]:
                executions.update({one.serial: execution for one, execution in page.executions})
                rows = tuple(promise for promise, _ in page.executions)
                parts.append(gather.ShardPart(rows, page.next_before))
            return parts

        shards = list(range(self._count))
        promises, following = await gather.page(ask, shards, limit_count, before_serial)
        return [(one, executions[one.serial]) for one in promises], following

    async def usage(self, account_id: str | None) -> dict[str, Usage]:
        """Return the run counts of an account's functions, or of all (None), by function id."""
        command = ListUsage(account_id)
        replies = await self._ask_all([(index, command) for index in range(self._count)])
        found: dict[str, Usage] = {}
        for reply in replies:
            for one in reply.usage:
                before = found.get(one.function_id)
                found[one.function_id] = one if before is None else added(before, one)
        return found

    async def delete_packages(self, promise_ids: Iterable[str]) -> int:
        """Delete builds' packages for good; how many there were."""
        homes: dict[int, list[str]] = {}
        for promise_id in promise_ids:
            homes.setdefault(self.shard_of(promise_id), []).append(promise_id)
        if not homes:
            return 0
        replies = await self._ask_all(
            [(index, DeletePromises(tuple(ids))) for index, ids in homes.items()]
        )
        return sum(reply.count for reply in replies)

    async def search_workflows(
        self,
        state: WorkflowState | None,
        limit_count: int,
        before_serial: int | None,
        id_prefix: str = "",
    ) -> tuple[list[WorkflowView], int | None]:
        """Return a page of workflow tasks in a state, or in any (None); see search_promises."""

        async def ask(wanted: dict[int, int], count: int) -> list[gather.ShardPart[WorkflowView]]:
            replies = await self._ask_all(
                [
                    (index, SearchWorkflows(state, count, before, SEARCH_SCAN_COUNT, id_prefix))
                    for index, before in wanted.items()
                ]
            )
            pages = [reply.workflows for reply in replies if reply.workflows is not None]
            return [gather.ShardPart(page.workflows, page.next_before) for page in pages]

        return await gather.page(ask, list(range(self._count)), limit_count, before_serial)

    def assigned_executions(self) -> list[tuple[Execution, Task]]:
        """Return the executions that nodes have, each with its task. For placement, at the start.

        What is told here may not be durable while the shards run.
        """
        return [
            (execution, state.tasks[task_ids.invoke_id(promise_id)].copy())
            for state in self.states()
            for promise_id, execution in state.executions.items()
            if execution.assigned_on is not None
        ]

    def unfinished_executions(self) -> Iterator[Execution]:
        """Yield the executions that are not finished; what they show may not be durable yet."""
        for state in self.states():
            yield from state.executions.values()

    # Heartbeats

    async def heartbeat_tasks(self, process_id: str, id_prefix: str = "") -> int:
        """Renew the leases of a process on tasks of ids that begin so; how many there are."""
        holders = [state.index for state in self.states() if process_id in state.claimed]
        return await self._count_of(holders, HeartbeatTasks(process_id, id_prefix))

    async def heartbeat_locks(self, process_id: str, id_prefix: str = "") -> int:
        """Renew the locks of a process on ids that begin so; how many there are."""
        holders = [state.index for state in self.states() if process_id in state.locks_of]
        return await self._count_of(holders, HeartbeatLocks(process_id, id_prefix))

    async def renew_workflows(self, pid: str, tasks: Sequence[tuple[str, int]]) -> int:
        """Renew a process's leases of workflow tasks, given as (id, version); how many it has.

        Very many are asked for in several passes. Raises as `ask`; then some may be renewed.
        """
        counts = CountsWaiter()
        for first in range(0, len(tasks), RENEWALS_SLICE_COUNT):
            self._refuse_unless_open()
            some = tasks[first : first + RENEWALS_SLICE_COUNT]
            for index, command in self._renewals(pid, some).items():
                counts.expect()
                self._at[index].ask(command, counts, 0, None)
            await trio.lowlevel.checkpoint()  # others' commands come in between
        return await counts.wait()

    def submit_renewals(
        self, pid: str, tasks: Sequence[tuple[str, int]], held: HeldMessages | None, asker: Asker
    ) -> int:
        """Do as `renew_workflows`, without a waiting task; return the number of replies to come.

        As `Shards.submit`, for few of them. Raises Overloaded, Stopping or StorageFailed.
        """
        self._refuse_unless_open()
        renewals = self._renewals(pid, tasks)
        if any(self._at[index].is_full for index in renewals):
            raise Overloaded
        for place, (index, command) in enumerate(renewals.items()):
            shard = self._at[index]
            shard.put(command, asker, place, held)
            self._submitted[index] = shard
        return len(renewals)

    def _renewals(self, pid: str, tasks: Sequence[tuple[str, int]]) -> dict[int, Command]:
        """Return what each shard is asked about the tasks that live there."""
        homes: dict[int, list[tuple[str, int]]] = {}
        for task in tasks:
            homes.setdefault(self.shard_of(task[0]), []).append(task)
        return {index: RenewWorkflows(pid, tuple(held)) for index, held in homes.items()}

    async def _count_of(self, indexes: list[int], command: Command) -> int:
        if self._elsewhere is not None:
            indexes += [index for index in range(self._count) if self._elsewhere.has(index)]
        if not indexes:
            # That it holds nothing any more may be news that is not durable yet.
            await self.committer.wait_durable()
            await trio.lowlevel.checkpoint()
            if self.committer.failure is not None:
                raise StorageFailed
            return 0
        replies = await self._ask_all([(index, command) for index in indexes])
        return sum(reply.count for reply in replies)
