"""Errands: commands that take more than one group to carry out.

Each runs in a task of its own: it asks other groups first, then has its own shard carry the command
out in the light of what they have said. If another group is away, nothing was done, so the caller
is told that (`OutOfReach`).

- A request on behalf of a task of another group takes a pass (`passes.py`).
- A resume task of this group is claimed after its leaf was read, which may live elsewhere. It has
  completed, so it never changes.
- A task that waits for promises of other groups asks what they are; then it is suspended, and
  registered there by messages.
- A promise that clients or retention delete must not be awaited by a task of any group, and its
  origin, wherever that is, may have to stay.
- A slice of a bulk job is carried out with the job at hand, whose entry may live elsewhere; one
  that deletes asks the same as a client's deletion, about all that it may find.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, final

import structlog
import trio

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.bulk import BulkAction, BulkJob, BulkSubject
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.decisions.retention import reached
from troth.core.grammar import task_ids
from troth.core.limits import (
    ERRANDS_LIMIT_COUNT,
    FENCE_PASSES_LIMIT_COUNT,
    LINEAGE_LIMIT_COUNT,
)
from troth.core.lineage import origin_of
from troth.core.machine import Machine
from troth.core.model import PENDING, RESUME, Fence, Promise, replace
from troth.core.replies import Reply
from troth.core.state.shard_state import ShardState
from troth.core.workflows import WorkflowFence
from troth.persistence.placement import ShardOf
from troth.shards.errors import (
    LinkBroken,
    OutOfReach,
    Overloaded,
    ShardsError,
    StorageFailed,
)
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker, Seat
from troth.shards.waiting import Waiter

from .passes import PASS_IS_OVER, PassedFence, PassedWorkflowFence
from .place import ProcessPlace

Errand = Callable[[int, Any, HeldMessages | None], Awaitable[Reply]]
"""Carries a command out in the shard with an index; raises ShardsError."""

_log = structlog.get_logger("troth.mesh")

_DEFECT: Final = Reply(Code.INTERNAL)
_INVOKE: Final = task_ids.invoke_id("")
ANY_PROMISE: Final = ""
"""No promise has this id: it is in use only while a completion, of any promise, is under way."""

NONE_KNOWN: Final[Mapping[str, Promise]] = MappingProxyType({})


@final
class Errands:
    """The errands of one group. `now_s` is a monotonic clock.

    `shard_of` gives the index of a promise's shard. `return_pass` says that a pass of a shard's
    group is over.
    """

    def __init__(
        self,
        place: ProcessPlace,
        now_s: Callable[[], float],
        return_pass: Callable[[int, str], None],
    ) -> None:
        self._place = place
        self._own_indexes = place.shards_of(place.process)
        self._now_s = now_s
        self._return_pass = return_pass
        self._shard_of: ShardOf = lambda _: 0
        self._states: Mapping[int, ShardState] = {}
        self._seats: Sequence[Seat] = ()
        self._nursery: trio.Nursery | None = None
        self._passes_count = 0
        self.running_count = 0
        self._free: Counter[str] = Counter()
        self._jobs: Counter[str] = Counter()
        self._far_origins: Counter[str] = Counter()
        self._now_ms: Callable[[], int] = lambda: 0
        self.far = Machine(0, lambda _: 0, lambda: 0)
        """Looks like a shard that has what is known just now of promises of other groups."""
        # By type of command: how one is carried out, or None if its shard can do that alone.
        self.needed: Final[dict[type[Command], Callable[[Any], Errand | None]]] = {
            c.CreatePromise: self._needs_fence,
            c.CompletePromise: self._needs_fence,
            c.CreateCallback: self._needs_fence,
            w.EnsurePromise: self._needs_workflow_fence,
            w.SettlePromise: self._needs_workflow_fence,
            c.ClaimTask: self._needs_leaf,
            w.RegisterAwait: self._needs_awaiter,
            w.SuspendWorkflow: self._needs_awaited,
            c.DeletePromise: lambda _: self._delete,
            c.CountBulk: lambda _: self._with_job,
            c.RunBulk: lambda _: self._with_job,
            c.Retain: lambda _: self._retain,
            c.CountRetained: lambda _: self._retain,
        }

    def attach(
        self,
        seats: Sequence[Seat],
        states: Sequence[ShardState],
        shard_of: ShardOf,
        now_ms: Callable[[], int],
    ) -> None:
        """Learn what to ask: the shards of this group themselves, and the ways to others."""
        self._now_ms = now_ms
        self._seats = seats
        self._states = {state.index: state for state in states}
        self._shard_of = shard_of

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run errands until canceled."""
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # what is asked from here on is refused

    def start(
        self,
        errand: Errand,
        index: int,
        command: Command,
        asker: Asker,
        place: int,
        held: HeldMessages | None,
    ) -> None:
        """Begin an errand. Raises Overloaded if there are too many."""
        if self._nursery is None or self.running_count >= ERRANDS_LIMIT_COUNT:
            raise Overloaded
        self.running_count += 1
        self._nursery.start_soon(self._run, errand, index, command, asker, place, held)

    def is_free(self, promise_id: str) -> bool:
        """Return whether it is known that no task of another group is about a promise."""
        return promise_id in self._free

    async def _run(
        self,
        errand: Errand,
        index: int,
        command: Command,
        asker: Asker,
        place: int,
        held: HeldMessages | None,
    ) -> None:
        try:
            reply = await errand(index, command, held)
        except ShardsError as error:
            asker.refuse(error)
        except trio.Cancelled:
            asker.refuse(LinkBroken())  # it may have been carried out
            raise
        except Exception as error:
            _log.error("an errand failed", command=type(command).__name__, exc_info=error)
            asker.answer(place, _DEFECT)
        else:
            asker.answer(place, reply)
        finally:
            self.running_count -= 1

    # What needs one

    def _is_far(self, promise_id: str) -> bool:
        return self._shard_of(promise_id) not in self._own_indexes

    def _needs_fence(self, command: Any) -> Errand | None:
        fence: Fence | None = command.fence
        if fence is None or not self._is_far(task_ids.home(fence.task_id)):
            return None
        return self._fenced

    def _needs_workflow_fence(self, command: Any) -> Errand | None:
        fence: WorkflowFence | None = command.fence
        return self._fenced if fence is not None and self._is_far(fence.id) else None

    def _needs_leaf(self, command: c.ClaimTask) -> Errand | None:
        if command.id.startswith(_INVOKE):
            return None  # as most are; they have no leaf
        name = task_ids.parse(command.id)
        is_resume = name is not None and name.kind is RESUME
        return self._claim if is_resume and self._is_far(name.leaf) else None  # type: ignore[union-attr]

    def _needs_awaiter(self, command: w.RegisterAwait) -> Errand | None:
        return self._register if self._is_far(command.awaiter) else None

    def _needs_awaited(self, command: w.SuspendWorkflow) -> Errand | None:
        return self._suspend if any(map(self._is_far, command.awaited)) else None

    # Asking

    async def _ask(self, index: int, command: Command, held: HeldMessages | None = None) -> Reply:
        (reply,) = await self._ask_all([(index, command)], held)
        return reply

    async def _ask_all(
        self, questions: Sequence[tuple[int, Command]], held: HeldMessages | None = None
    ) -> list[Reply]:
        waiter = Waiter(len(questions))
        try:
            for place, (index, command) in enumerate(questions):
                self._seats[index].ask(command, waiter, place, held)
        except Overloaded:
            waiter.abandon()
            raise
        return await waiter.wait()

    async def _ask_first(self, questions: Sequence[tuple[int, Command]]) -> list[Reply]:
        """Ask other groups what has to be known first. Raises OutOfReach if one is away."""
        if not questions:
            return []
        try:
            return await self._ask_all(questions)
        except (LinkBroken, StorageFailed):
            raise OutOfReach from None  # nothing was done

    # Errands

    async def _fenced(self, index: int, command: Any, held: HeldMessages | None) -> Reply:
        """Carry out a request on behalf of a task of another group."""
        fence: Fence | WorkflowFence = command.fence
        for _ in range(FENCE_PASSES_LIMIT_COUNT):
            self._passes_count += 1
            pass_id = f"{self._place.process}.{self._place.incarnation}.{self._passes_count}"
            asked_s = self._now_s()
            task_shard, check = self._check_of(fence, pass_id)
            (reply,) = await self._ask_first([(task_shard, check)])
            until_s = asked_s + reply.count / 1000
            give_back = _Once(lambda: self._return_pass(task_shard, pass_id))  # noqa: B023
            passed: PassedFence | PassedWorkflowFence
            is_held = reply.code is Code.OK
            is_over = give_back if is_held else None
            if isinstance(fence, Fence):
                passed = PassedFence(fence.task_id, fence.counter, is_held, until_s, is_over)
            else:
                passed = PassedWorkflowFence(fence.id, fence.version, reply.code, until_s, is_over)
            try:
                reply = await self._ask(index, replace(command, fence=passed), held)
            finally:
                if is_held:
                    give_back()
            if reply is not PASS_IS_OVER:
                return reply
        raise Overloaded

    def _check_of(self, fence: Fence | WorkflowFence, pass_id: str) -> tuple[int, Command]:
        if isinstance(fence, Fence):
            home_id = task_ids.home(fence.task_id)
            return self._shard_of(home_id), c.CheckFence(fence, pass_id)
        return self._shard_of(fence.id), w.CheckWorkflowFence(fence, pass_id)

    async def _claim(self, index: int, command: c.ClaimTask, held: HeldMessages | None) -> Reply:
        """Claim a resume task whose leaf lives elsewhere: the leaf is read first."""
        name = task_ids.parse(command.id)
        assert name is not None, "it was looked at before"
        read = (self._shard_of(name.leaf), c.ReadPromise(name.leaf))
        (found,) = await self._ask_first([read])
        leaf = found.promise
        if leaf is not None and leaf.state is PENDING:
            # There is no such task; or just now it has come to be, and the leaf is complete.
            reply = await self._ask(index, command, held)
            if reply.claimed is None:
                return reply
            leaf = (await self._ask(*read)).promise
        else:
            reply = await self._ask(index, command, held)
        if reply.claimed is None:
            return reply
        return replace(reply, claimed=replace(reply.claimed, leaf=leaf))

    async def _register(
        self, index: int, command: w.RegisterAwait, held: HeldMessages | None
    ) -> Reply:
        """Register a task of another group to be woken, if it can be."""
        home = self._shard_of(command.awaiter)
        (reply,) = await self._ask_first([(home, w.ReadWorkflow(command.awaiter))])
        state = None if reply.workflow is None else reply.workflow.state
        judged = replace(command, is_judged=True, awaiter_state=state)
        return await self._ask(index, judged, held)

    async def _suspend(
        self, index: int, command: w.SuspendWorkflow, held: HeldMessages | None
    ) -> Reply:
        """Suspend a task that waits for promises of other groups."""
        homes: dict[int, list[str]] = {}
        for promise_id in dict.fromkeys(command.awaited):
            home = self._shard_of(promise_id)
            if home not in self._own_indexes:
                homes.setdefault(home, []).append(promise_id)
        replies = await self._ask_first(
            [(home, w.JudgeAwaited(tuple(ids), command.id)) for home, ids in homes.items()]
        )
        judged: dict[str, Code] = {}
        for ids, reply in zip(homes.values(), replies, strict=True):
            judged.update(zip(ids, reply.codes, strict=True))
        return await self._ask(index, replace(command, judged=judged), held)

    async def _delete(
        self, index: int, command: c.DeletePromise, held: HeldMessages | None
    ) -> Reply:
        """Delete a promise, unless a task of any group is about it or its origin has to stay.

        A completed promise whose messages are acknowledged gets no new task: so what the other
        groups say stays true.
        """
        state = self._states[index]
        promise = state.find_promise(command.id)
        if promise is None or promise.state is PENDING or state.outbox.resumes_for(command.id):
            return await self._ask(index, command, held)
        replies = await self._ask_first(
            [(one, c.CountAwaiting(command.id)) for one in self._far_indexes()]
        )
        origins = await self._origins(promise)
        is_free = not any(reply.count for reply in replies)
        with self._knowing([command.id] if is_free else [], origins):
            return await self._ask(index, command, held)

    async def _retain(
        self, index: int, command: c.Retain | c.CountRetained, held: HeldMessages | None
    ) -> Reply:
        """Delete or count what retention reaches, once it is known what other groups still need.

        What comes to be reached in the meantime waits for a later sweep.
        """
        origins: dict[str, Promise] = {}
        ids: dict[str, None] = {}
        for promise in reached(self._states[index], command, self._now_ms()):
            ids[promise.id] = None
            origins |= await self._origins(promise, origins, ids)
        in_use = await self._in_use(ids) if ids else set()
        with self._knowing([one for one in ids if one not in in_use], origins):
            return await self._ask(index, command, held)

    def _far_indexes(self) -> list[int]:
        return [seat.index for seat in self._seats if seat.index not in self._own_indexes]

    @contextmanager
    def _knowing(self, free: Sequence[str], origins: Mapping[str, Promise]) -> Iterator[None]:
        """Keep what other groups have said for a block, so that the shards know it."""
        self._free.update(free)
        self._far_origins.update(origins.keys())
        self.far.state.promises.update(origins)
        try:
            yield
        finally:
            self._free -= Counter(free)  # without those whose count is zero
            self._far_origins -= Counter(origins.keys())
            for origin_id in origins:
                if origin_id not in self._far_origins:
                    self.far.state.promises.pop(origin_id, None)

    async def _with_job(
        self, index: int, command: c.CountBulk | c.RunBulk, held: HeldMessages | None
    ) -> Reply:
        """Carry out a slice of a bulk job, whose entry may live elsewhere."""
        job_id = command.id
        (read,) = await self._ask_first([(self._shard_of(job_id), c.ReadEntry(job_id))])
        job = read.entry
        known = self.far.state.entries.by_id
        if job is not None:
            known[job_id] = job
        self._jobs[job_id] += 1
        try:
            if (
                isinstance(job, BulkJob)
                and job.action is BulkAction.DELETE
                and job.subject is BulkSubject.PROMISES
            ):
                return await self._delete_in_bulk(index, command, held)
            return await self._ask(index, command, held)
        finally:
            self._jobs[job_id] -= 1
            if not self._jobs[job_id]:
                del self._jobs[job_id]
                known.pop(job_id, None)

    async def _delete_in_bulk(
        self, index: int, command: c.CountBulk | c.RunBulk, held: HeldMessages | None
    ) -> Reply:
        """Count or delete in a slice, once it is known what other groups still need.

        Raises Overloaded while a completion is under way in another group, whose tasks may be about
        any promise: that is soon over.
        """
        scan_count = command.scan_count
        if isinstance(command, c.CountBulk):
            finding = c.FindBulk(command.id, scan_count, scan_count, command.places)
        else:
            finding = c.FindBulk(command.id, command.limit_count, scan_count)
        found = (await self._ask(index, finding)).promises
        promises = () if found is None else found.promises
        origins: dict[str, Promise] = {}
        for promise in promises:
            origins |= await self._origins(promise, origins)
        in_use = await self._in_use([ANY_PROMISE, *(one.id for one in promises)])
        if ANY_PROMISE in in_use:
            raise Overloaded
        free = [one.id for one in promises if one.id not in in_use]
        with self._knowing([ANY_PROMISE, *free], origins):
            return await self._ask(index, command, held)

    async def _in_use(self, ids: Iterable[str]) -> set[str]:
        """Return which promises something unfinished of another group is about."""
        judged = c.JudgeInUse(tuple(ids))
        in_use: set[str] = set()
        for reply in await self._ask_first([(one, judged) for one in self._far_indexes()]):
            codes = zip(judged.ids, reply.codes, strict=True)
            in_use.update(one for one, code in codes if code is not Code.OK)
        return in_use

    async def _origins(
        self,
        promise: Promise,
        known: Mapping[str, Promise] = NONE_KNOWN,
        met: dict[str, None] | None = None,
    ) -> dict[str, Promise]:
        """Return the promises of other groups that a promise stems from, up to a pending one.

        Those that are `known` are not asked for again. The ids of all origins are added to `met`.
        """
        found: dict[str, Promise] = {}
        seen = {promise.id}
        current: Promise | None = promise
        while current is not None and len(seen) <= LINEAGE_LIMIT_COUNT:
            origin_id = origin_of(current.tags)
            if origin_id is None or origin_id in seen:
                break
            seen.add(origin_id)
            if met is not None:
                met[origin_id] = None
            home = self._shard_of(origin_id)
            if home in self._own_indexes:
                current = self._states[home].find_promise(origin_id)
                continue
            current = known.get(origin_id)
            if current is None:
                (reply,) = await self._ask_first([(home, c.ReadPromise(origin_id))])
                current = reply.promise
            if current is not None:
                found[origin_id] = current
                if current.state is PENDING:
                    break
        return found


@final
class _Once:
    """Calls something once, however often it is called itself."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()
