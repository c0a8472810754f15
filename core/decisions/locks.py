"""What the lock commands do (rest.md 9). A lock whose lease has passed is free immediately."""

from troth.core import records as r
from troth.core.codes import Code
from troth.core.commands import (
    LOCK_TIMER,
    AcquireLock,
    HeartbeatLocks,
    ReleaseLock,
)
from troth.core.continuations import ContinueLocksHeartbeat
from troth.core.deciding import DecisionContext
from troth.core.limits import saturating_add
from troth.core.model import Lock, replace
from troth.core.replies import Reply
from troth.core.state.beats import Beat


def _lock(context: DecisionContext, resource_id: str, now_ms: int) -> Lock | None:
    """Return the lock as it is now, released if its lease has passed."""
    lock = context.state.locks.get(resource_id)
    if lock is None or lock.expires_at > now_ms:
        return lock
    end = context.state.end_of_lock(lock)
    if end > now_ms:
        return lock
    at = context.state.lock_beats.last(lock.process_id, resource_id, end, lock.ttl)
    if at is not None and saturating_add(at, lock.ttl) > now_ms:
        return _renew(context, lock, at)
    context.emit(r.LockReleased(resource_id))
    return None


def _renew(context: DecisionContext, lock: Lock, at: int) -> Lock:
    """Renew a lock as of that time, unless it runs longer already."""
    expires_at = saturating_add(at, lock.ttl)
    if expires_at > lock.expires_at:
        context.emit(r.LockAcquired(replace(lock, expires_at=expires_at)))
    return context.state.locks[lock.resource_id]


def acquire_lock(context: DecisionContext, command: AcquireLock, now_ms: int) -> Reply:
    """Take a free lock, or renew or take over that of the same execution.

    A refusal shows who holds it.
    """
    held = _lock(context, command.resource_id, now_ms)
    if held is not None and held.execution_id != command.execution_id:
        end = context.state.end_of_lock(held)
        return Reply(Code.LOCK_HELD, lock=replace(held, expires_at=end))
    token = held.fencing_token if held is not None else 0
    lock = Lock(
        command.resource_id,
        command.execution_id,
        command.process_id,
        command.ttl,
        saturating_add(now_ms, command.ttl),
        token or context.next_serial(),
    )
    context.emit(r.LockAcquired(lock))
    asked = lock if command.asked_ttl is None else replace(lock, ttl=command.asked_ttl)
    return Reply(Code.CREATED, lock=asked)


def release_lock(context: DecisionContext, command: ReleaseLock, now_ms: int) -> Reply:
    """Give a lock back, if this execution holds it."""
    held = _lock(context, command.resource_id, now_ms)
    if held is None or held.execution_id != command.execution_id:
        return Reply(Code.LOCK_NOT_FOUND)
    context.emit(r.LockReleased(command.resource_id))
    return Reply(Code.NO_CONTENT)


def heartbeat_locks(context: DecisionContext, command: HeartbeatLocks, now_ms: int) -> Reply:
    """Renew the locks of a process; those that have run out are not revived."""
    held = context.state.locks_of.get(command.process_id)
    if held is None:
        return Reply(Code.OK)
    if len(held) > context.options.heartbeat_slice_count:
        return _begin_heartbeat(context, command, now_ms)
    for resource_id in list(held):
        _lock(context, resource_id, now_ms)
    held = context.state.locks_of.get(command.process_id, {})
    if command.id_prefix:
        within = [context.state.locks[one] for one in held if one.startswith(command.id_prefix)]
        for lock in within:
            expires_at = saturating_add(now_ms, lock.ttl)
            context.emit(r.LockAcquired(replace(lock, expires_at=expires_at)))
        return Reply(Code.OK, count=len(within))
    if held:
        context.emit(r.LocksRenewed(command.process_id, now_ms))
    return Reply(Code.OK, count=len(held))


def _begin_heartbeat(context: DecisionContext, command: HeartbeatLocks, now_ms: int) -> Reply:
    ids = tuple(context.state.locks_of[command.process_id])
    context.state.lock_beats.begin(command.process_id, Beat(now_ms, command.id_prefix))
    slices = ContinueLocksHeartbeat(command.process_id, command.id_prefix, now_ms, ids)
    return continue_heartbeat(context, slices, now_ms)


def continue_heartbeat(
    context: DecisionContext, command: ContinueLocksHeartbeat, now_ms: int
) -> Reply:
    """Renew a slice of the locks, as of the time of the heartbeat."""
    at = min(command.at, now_ms)  # the clock may have been set back
    end_count = command.done_count + context.options.heartbeat_slice_count
    count = command.renewed_count
    for resource_id in command.ids[command.done_count : end_count]:
        lock = _lock(context, resource_id, now_ms)
        if lock is None or lock.process_id != command.process_id:
            continue
        if resource_id.startswith(command.id_prefix):
            _renew(context, lock, at)
            count += 1
    if end_count < len(command.ids):
        context.again = replace(command, done_count=end_count, renewed_count=count)
    else:
        context.state.lock_beats.end(command.process_id, Beat(command.at, command.id_prefix))
    return Reply(Code.OK, count=count)


def expire_lock(context: DecisionContext, resource_id: str, now_ms: int) -> None:
    """Handle the lock's timer: look at the lock, which does the rest.

    If its lease runs longer after an absence of the server, it needs another timer.
    """
    lock = _lock(context, resource_id, now_ms)
    if lock is not None and (end := context.state.end_of_lock(lock)) > now_ms:
        context.state.timers.append(((LOCK_TIMER, resource_id), end))
