"""What records of the envelope protocol do to a shard's state: workflow tasks, awaits, listeners.

As in `shard_state.py`, nothing here decides anything or knows the time. Which tasks the dispatcher
is to look at, timers and messages are notes.
"""

from collections.abc import Collection, Iterable

from troth.core import workflow_records as w
from troth.core.commands import UNBLOCK_TIMER
from troth.core.limits import UNBLOCK_LIMIT_MS, lease_end, saturating_add
from troth.core.model import PENDING, TAG_TARGET, Promise
from troth.core.workflows import (
    ACQUIRED,
    FULFILLED,
    HALTED,
    SUSPENDED,
    WAITING,
    WorkflowLease,
    WorkflowSeed,
    WorkflowState,
    WorkflowTask,
    execute_key,
    unblock_key,
)

from .activity import AttemptOutcome, first_ready_on
from .shard_state import ShardState


def workflow_created(state: ShardState, record: w.WorkflowCreated) -> None:
    """Apply the record: the promise exists, and its task."""
    promise = Promise(
        record.id,
        record.serial,
        PENDING,
        record.timeout,
        record.created_on,
        record.param,
        record.tags,
        record.key_for_create,
        trace=record.trace,
    )
    state.add_promise(promise, None)
    add_workflow(state, promise.id, record.seed)


def workflow_imported(state: ShardState, record: w.WorkflowImported) -> None:
    """Apply the record: the promise has a task."""
    add_workflow(state, state.promises[record.id].id, record.seed)


def add_workflow(state: ShardState, promise_id: str, seed: WorkflowSeed) -> None:
    """Take up the task of a promise that is new."""
    assert promise_id not in state.workflows, "a promise has one task"
    task = WorkflowTask(promise_id, WAITING, state.workflow_floor, not_before=seed.not_before)
    state.workflows[promise_id] = task
    state.workflow_index.append(state.promises[promise_id].serial, promise_id)
    state.counts.workflows[WAITING] += 1
    state.has_workflows = True
    if seed.lease is None:
        _changed(state, task)
        state.touched_workflows[promise_id] = None
    else:
        state.activity.born_count += 1
        _acquire(state, task, seed.lease)


def _changed(state: ShardState, task: WorkflowTask) -> None:
    if state.tracks_changes:
        state.changes.workflows.add(task.id)


def _move(state: ShardState, task: WorkflowTask, to: WorkflowState) -> None:
    state.counts.workflow_moved(task.state, to)
    task.state = to


def _acquire(state: ShardState, task: WorkflowTask, lease: WorkflowLease) -> None:
    _recall(state, task)
    _move(state, task, ACQUIRED)
    task.version += 1
    task.resumes = 0
    task.pid = lease.pid
    task.ttl = lease.ttl
    task.expires_at = lease.expires_at
    task.claim_id = lease.claim_id
    task.since = lease.expires_at - lease.ttl
    state.arm_workflow(task.id, lease.expires_at)
    _changed(state, task)


def _recall(state: ShardState, task: WorkflowTask) -> None:
    """Withdraw the task's message: it is no longer pending."""
    if task.sending or task.stalled or task.unclaimed:
        state.withdrawals.append(execute_key(task.id))
        task.sending = task.stalled = task.unclaimed = False
    task.backs_off = False


def _give_up(state: ShardState, task: WorkflowTask) -> None:
    """Forget who holds the task, and its timer."""
    task.pid = task.claim_id = None
    task.ttl = task.expires_at = 0
    state.arm_workflow(task.id, None)
    _changed(state, task)


def _offer(state: ShardState, task: WorkflowTask) -> None:
    _move(state, task, WAITING)
    state.touched_workflows[task.id] = None


def workflow_acquired(state: ShardState, record: w.WorkflowAcquired) -> None:
    """Apply the record: the task is held."""
    task = state.workflows[record.id]
    promise = state.promises[record.id]
    assert promise.tags is not None, "it has a target"
    ready_on = task.since
    if ready_on is None:
        ready_on = first_ready_on(promise.created_on, task.not_before)
    waited_ms = record.lease.expires_at - record.lease.ttl - ready_on
    state.activity.count_wait(promise.tags[TAG_TARGET], waited_ms, promise.trace)
    _acquire(state, task, record.lease)


def workflows_renewed(state: ShardState, record: w.WorkflowsRenewed) -> None:
    """Apply the record: these leases run again."""
    for workflow_id in record.ids:
        task = state.workflows[workflow_id]
        task.expires_at = lease_end(record.at, task.ttl)
        state.arm_workflow(workflow_id, task.expires_at)
        _changed(state, task)


def workflow_released(state: ShardState, record: w.WorkflowReleased) -> None:
    """Apply the record: the task goes out again, after a delay if it has failed often."""
    task = state.workflows[record.id]
    outcome = AttemptOutcome.EXPIRED if record.has_expired else AttemptOutcome.RELEASED
    state.activity.end_attempt(task, outcome, record.at)
    _give_up(state, task)
    task.idle_count += 1
    task.backs_off = True
    _offer(state, task)


def workflow_suspended(state: ShardState, record: w.WorkflowSuspended) -> None:
    """Apply the record: the task waits, and the awaited promises know it or get a message."""
    task = state.workflows[record.id]
    state.activity.end_attempt(task, AttemptOutcome.COMPLETED, record.at)
    _give_up(state, task)
    _move(state, task, SUSPENDED)
    task.resumes = 0
    task.idle_count = 0
    known = dict.fromkeys(task.awaited or ())
    for awaited in record.awaited:
        if awaited in known:
            continue
        known[awaited] = None
        target = state.shard_of(awaited)
        if target == state.index:
            _add_await(state, awaited, task.id)
        else:
            state.post(target, w.AwaitMessage(awaited, task.id))
    task.awaited = tuple(known)


def _add_await(state: ShardState, awaited: str, awaiter: str) -> None:
    if state.awaits.add(awaited, awaiter) and state.tracks_changes:
        state.changes.awaits[awaited, awaiter] = None


def _drop_await(state: ShardState, awaited: str, awaiter: str) -> None:
    if state.awaits.discard(awaited, awaiter) and state.tracks_changes:
        state.changes.awaits[awaited, awaiter] = None


def workflow_resumes_cleared(state: ShardState, record: w.WorkflowResumesCleared) -> None:
    """Apply the record: nothing has settled since the holder looked."""
    task = state.workflows[record.id]
    task.resumes = 0
    _changed(state, task)


def workflow_halted(state: ShardState, record: w.WorkflowHalted) -> None:
    """Apply the record: no worker holds the task, and it is not sent."""
    task = state.workflows[record.id]
    state.activity.end_attempt(task, AttemptOutcome.RELEASED, record.at)
    _recall(state, task)
    _give_up(state, task)
    _move(state, task, HALTED)


def workflow_continued(state: ShardState, record: w.WorkflowContinued) -> None:
    """Apply the record: the task goes out again."""
    task = state.workflows[record.id]
    task.idle_count = 0
    task.since = record.at
    _changed(state, task)
    _offer(state, task)


def workflow_woken(state: ShardState, record: w.WorkflowWoken) -> None:
    """Apply the record: the awaited promise has settled, in this shard."""
    _tell_awaiter(state, record.id, record.awaited, record.at)


def _tell_awaiter(state: ShardState, awaiter: str, awaited: str, at: int) -> None:
    target = state.shard_of(awaiter)
    if target == state.index:
        wake(state, awaiter, awaited, at)
    else:
        state.post(target, w.WakeMessage(awaiter, awaited))


def wake(state: ShardState, awaiter: str, awaited: str, at: int) -> None:
    """Count that an awaited promise has settled; a suspended task goes out again.

    A task whose own promise is past its deadline is not woken: the deadline wins.
    """
    task = state.workflows.get(awaiter)
    if task is None:
        return
    _changed(state, task)
    if task.awaited and awaited in task.awaited:
        task.awaited = tuple(one for one in task.awaited if one != awaited)
    if state.promises[awaiter].timeout <= at:
        return
    if task.state is SUSPENDED:
        task.resumes = 1
        task.since = at
        _offer(state, task)
    else:
        task.resumes += 1


def await_registered(state: ShardState, record: w.AwaitRegistered) -> None:
    """Apply the record: the awaited promise knows who waits."""
    _add_await(state, record.awaited, record.awaiter)
    task = state.workflows.get(record.awaiter)
    if task is not None and record.awaited not in (task.awaited or ()):
        task.awaited = (*(task.awaited or ()), record.awaited)
        _changed(state, task)


def await_received(state: ShardState, message: w.AwaitMessage, at: int) -> None:
    """Apply a message: note the awaiter; if the promise has settled in the meantime, tell it so."""
    promise = state.promises.get(message.awaited)
    if promise is not None and promise.state is PENDING:
        _add_await(state, message.awaited, message.awaiter)
    else:
        _tell_awaiter(state, message.awaiter, message.awaited, at)


def await_dropped(state: ShardState, message: w.AwaitDroppedMessage) -> None:
    """Apply a message: the awaiter has ended."""
    _drop_await(state, message.awaited, message.awaiter)


def listener_registered(state: ShardState, record: w.ListenerRegistered) -> None:
    """Apply the record: the address is told when the promise settles."""
    if state.listeners.add(record.id, record.address) and state.tracks_changes:
        state.changes.listeners[record.id, record.address] = None


def listener_told(state: ShardState, record: w.ListenerTold) -> None:
    """Apply the record: the message is done with."""
    unblocks = state.unblocks[record.id]
    del unblocks[record.address]
    state.unblocks_count -= 1
    if record.was_given_up:
        state.withdrawals.append(unblock_key(record.id, record.address))
    if not unblocks:
        del state.unblocks[record.id]
        state.timers.append(((UNBLOCK_TIMER, record.id), None))
    if state.tracks_changes:
        state.changes.listeners[record.id, record.address] = None


def end_workflow(state: ShardState, task: WorkflowTask, outcome: AttemptOutcome, at: int) -> None:
    """Forget the task of a promise that settles, and what it awaited."""
    state.activity.end_attempt(task, outcome, at)
    state.counts.workflow_moved(task.state, FULFILLED)
    del state.workflows[task.id]
    state.workflow_index.discard(state.promises[task.id].serial)
    _recall(state, task)
    state.arm_workflow(task.id, None)
    _changed(state, task)
    for awaited in task.awaited or ():
        target = state.shard_of(awaited)
        if target == state.index:
            _drop_await(state, awaited, task.id)
        else:
            state.post(target, w.AwaitDroppedMessage(awaited, task.id))


def wake_awaiters(state: ShardState, promise_id: str, awaiters: Iterable[str], at: int) -> None:
    """Wake those that have awaited a promise that has settled."""
    for awaiter in awaiters:
        if state.tracks_changes:
            state.changes.awaits[promise_id, awaiter] = None
        _tell_awaiter(state, awaiter, promise_id, at)


def unblock_listeners(
    state: ShardState, promise_id: str, addresses: Collection[str], at: int
) -> None:
    """Turn what were listeners of a promise that has settled into messages."""
    if not addresses:
        return
    unblocks = state.unblocks.setdefault(promise_id, {})
    state.unblocks_count -= len(unblocks)
    unblocks.update(dict.fromkeys(addresses, at))
    state.unblocks_count += len(unblocks)
    state.new_unblocks.extend((promise_id, address) for address in addresses)
    state.timers.append(((UNBLOCK_TIMER, promise_id), saturating_add(at, UNBLOCK_LIMIT_MS)))
    if state.tracks_changes:
        for address in addresses:
            state.changes.listeners[promise_id, address] = None


def forget_unblocks(state: ShardState, promise_id: str) -> None:
    """Drop the messages about a promise that is deleted."""
    addresses = state.unblocks.pop(promise_id, None)
    if addresses is None:
        return
    state.unblocks_count -= len(addresses)
    for address in addresses:
        state.withdrawals.append(unblock_key(promise_id, address))
        if state.tracks_changes:
            state.changes.listeners[promise_id, address] = None
    state.timers.append(((UNBLOCK_TIMER, promise_id), None))


def workflow_received(state: ShardState, message: w.WorkflowMessage, serial: int) -> None:
    """Apply a message: a schedule's run creates a promise with a task, unless the id is taken."""
    if state.find_promise(message.id) is not None:
        return
    promise = Promise(
        message.id,
        serial,
        PENDING,
        message.timeout,
        message.created_on,
        message.param,
        message.tags,
        trace=message.trace,
    )
    state.add_promise(promise, None)
    state.activity.scheduled_count += 1
    add_workflow(state, message.id, message.seed)
