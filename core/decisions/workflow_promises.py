"""What the envelope protocol does with promises: create, settle, wait for them (envelope.md 5).

An id is the idempotency key: creating or settling a promise again changes nothing and answers it
as it is.
"""

from functools import lru_cache
from itertools import islice
from typing import Final, TypeVar

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.catalog import is_reserved
from troth.core.codes import Code
from troth.core.commands import UNBLOCK_TIMER, Expire
from troth.core.deciding import DONE, DecisionContext
from troth.core.grammar.templates import expand
from troth.core.model import EMPTY_VALUE, PENDING, Promise, PromiseState, Schedule, Value
from troth.core.replies import Reply
from troth.core.seeds import seed_of, workflow_seed_of
from troth.core.workflow_commands import (
    CreateWorkflow,
    EnsurePromise,
    EnsureSchedule,
    RegisterAwait,
    RegisterListener,
    RetryUnblock,
    SettlePromise,
    UnblockSent,
)
from troth.core.workflows import FULFILLED, WorkflowLease, WorkflowSeed, WorkflowState

from .workflow_views import find, is_full, judge_fence

# See PENDING in model.py.
_OK: Final = Code.OK


Shared = TypeVar("Shared", str, int)


@lru_cache(maxsize=2_048)
def shared(content: Shared) -> Shared:
    """Return one and the same object for texts, or numbers, that are equal and came recently."""
    return content


def ensure_promise(context: DecisionContext, command: EnsurePromise, now_ms: int) -> Reply:
    """Create a promise unless it exists."""
    fence = command.fence
    if fence is not None:
        code = judge_fence(context, fence, now_ms)
        if code is not _OK:
            return _refused(context, command, code, now_ms)
    promise = context.promise(command.id, now_ms)
    if promise is None:
        promise = create(context, command, now_ms)
    return Reply(_OK, promise=promise)


def create(
    context: DecisionContext,
    command: EnsurePromise | CreateWorkflow,
    now_ms: int,
    lease: WorkflowLease | None = None,
) -> Promise:
    """Create a promise, with the task that its tags ask for.

    Past its timeout it is created and settled as of that time, and its task is not acquired.
    """
    timeout = shared(command.timeout)
    is_late = timeout <= now_ms
    created_on = timeout if is_late else now_ms
    tags = command.tags or None
    if tags is not None:
        # Lineage and targets repeat in all of a workflow's promises, which may be many.
        tags = dict(zip(tags, map(shared, tags.values()), strict=True))
    promise_id = shared(command.id)
    seed = workflow_seed_of(tags, timeout)
    if seed is None:
        context.emit(
            r.PromiseCreated(
                promise_id,
                context.next_serial(),
                timeout,
                created_on,
                command.param,
                tags,
                None,
                command.trace,
                seed_of(tags),
            )
        )
    else:
        if lease is not None and not is_late:
            seed = WorkflowSeed(None, lease)
        context.emit(
            w.WorkflowCreated(
                promise_id,
                context.next_serial(),
                timeout,
                created_on,
                command.param,
                tags or {},
                None,
                command.trace,
                seed,
            )
        )
    promise = context.state.promises[promise_id]
    if is_late:
        state = promise.timed_out_state
        context.failures.note_completion(promise, state, EMPTY_VALUE, now_ms)
        context.state.activity.promise_timed_out(promise, state)
        context.emit(r.PromiseCompleted(promise_id, state, EMPTY_VALUE, None, timeout, now_ms))
        promise = context.state.promises[promise_id]
    return promise


def settle_promise(context: DecisionContext, command: SettlePromise, now_ms: int) -> Reply:
    """Settle a promise unless it is settled."""
    fence = command.fence
    if fence is not None:
        code = judge_fence(context, fence, now_ms)
        if code is not _OK:
            return _refused(context, command, code, now_ms)
    promise = context.promise(command.id, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    if promise.state is PENDING:
        promise = settle(context, command.id, command.state, command.value, now_ms)
    return Reply(_OK, promise=promise)


def _refused(
    context: DecisionContext, command: EnsurePromise | SettlePromise, code: Code, now_ms: int
) -> Reply:
    """Refuse what its fence does not allow.

    What is asked again may have been carried out while the fence held. To say that nothing was done
    would be wrong then, and the stored promise is what the first answer had.
    """
    promise = context.promise(command.id, now_ms) if command.is_again else None
    is_done = promise is not None and (
        isinstance(command, EnsurePromise) or promise.state is not PENDING
    )
    return Reply(_OK, promise=promise) if is_done else Reply(code)


def settle(
    context: DecisionContext, promise_id: str, state: PromiseState, value: Value, now_ms: int
) -> Promise:
    """Settle a pending promise now."""
    return context.complete(r.PromiseCompleted(promise_id, state, value, None, now_ms, now_ms))


def register_await(context: DecisionContext, command: RegisterAwait, now_ms: int) -> Reply:
    """Register a task to be woken when a promise settles; wake it now if it is settled."""
    promise = context.promise(command.awaited, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    state = _state_of_awaiter(context, command, now_ms)
    if state is None:
        return Reply(Code.AWAITER_UNUSABLE)
    if state is FULFILLED:
        return Reply(_OK, promise=promise)
    if promise.state is not PENDING:
        context.emit(w.WorkflowWoken(command.awaiter, command.awaited, now_ms))
    elif is_full(context, command.awaited, command.awaiter, context.options.waiting_limit_count):
        return Reply(Code.TOO_MANY_WAITING)
    elif not context.state.awaits.has(command.awaited, command.awaiter):
        context.emit(w.AwaitRegistered(command.awaited, command.awaiter, now_ms))
    return Reply(_OK, promise=promise)


def _state_of_awaiter(
    context: DecisionContext, command: RegisterAwait, now_ms: int
) -> WorkflowState | None:
    """Return the state of the task that is to wait; only whether it has ended is sure. None: no."""
    if command.is_judged:
        return command.awaiter_state
    neighbor = context.neighbor(command.awaiter)
    if neighbor is context:
        find(context, command.awaiter, now_ms)
    awaiter = neighbor.state.find_promise(command.awaiter)
    task = neighbor.state.workflows.get(command.awaiter)
    if awaiter is None or (task is None and awaiter.task_version is None):
        return None
    return FULFILLED if task is None or awaiter.timeout <= now_ms else task.state


def register_listener(context: DecisionContext, command: RegisterListener, now_ms: int) -> Reply:
    """Register an address to be told when a promise settles, unless it is settled already."""
    promise = context.promise(command.awaited, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    listeners = context.state.listeners
    if promise.state is PENDING and not listeners.has(promise.id, command.address):
        if listeners.count_of(promise.id) >= context.options.waiting_limit_count:
            return Reply(Code.TOO_MANY_WAITING)
        context.emit(w.ListenerRegistered(promise.id, command.address, now_ms))
    return Reply(_OK, promise=promise)


def ensure_schedule(context: DecisionContext, command: EnsureSchedule, now_ms: int) -> Reply:
    """Create a schedule unless it exists."""
    if is_reserved(expand(command.promise_id, command.id, 0)):
        return Reply(Code.RESERVED_ID)
    schedule = context.state.schedules.get(command.id)
    if schedule is None:
        schedule = Schedule(
            command.id,
            context.next_serial(),
            command.cron,
            command.promise_id,
            command.promise_timeout,
            now_ms,
            context.cron(command.cron).next_after_ms(now_ms),
            promise_param=command.promise_param,
            promise_tags=command.promise_tags or None,
        )
        context.emit(r.ScheduleCreated(schedule))
    return Reply(_OK, schedule=schedule)


# What delivery and timers do


def unblock_sent(context: DecisionContext, command: UnblockSent, now_ms: int) -> Reply:
    """Note that a listener was told."""
    if command.address in context.state.unblocks.get(command.id, ()):
        context.emit(w.ListenerTold(command.id, command.address, now_ms))
    return DONE


def retry_unblock(context: DecisionContext, command: RetryUnblock, now_ms: int) -> Reply:
    """Queue a listener's message, to be sent again."""
    if command.address in context.state.unblocks.get(command.id, ()):
        context.state.new_unblocks.append((command.id, command.address))
    return DONE


def expire_unblocks(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    """Give up a promise's listeners, which could not be reached for a long time."""
    addresses = context.state.unblocks.get(promise_id, {})
    for address in list(islice(addresses, context.options.completion_slice_count)):
        context.emit(w.ListenerTold(promise_id, address, now_ms, was_given_up=True))
    if addresses:
        context.again = Expire(UNBLOCK_TIMER, promise_id)
