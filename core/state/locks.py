"""What records do to a shard's locks."""

from troth.core import records as r
from troth.core.commands import LOCK_TIMER
from troth.core.limits import saturating_add
from troth.core.model import replace

from .shard_state import ShardState


def lock_acquired(state: ShardState, record: r.LockAcquired) -> None:
    """Apply the record: the lock is held, and by no earlier holder."""
    lock = record.lock
    # Tokens are serials: a restart must not give one out again.
    state.largest_serial = max(state.largest_serial, lock.fencing_token)
    _drop_lock(state, lock.resource_id)
    state.locks[lock.resource_id] = lock
    state.locks_of.setdefault(lock.process_id, {})[lock.resource_id] = None
    state.timers.append(((LOCK_TIMER, lock.resource_id), lock.expires_at))


def lock_released(state: ShardState, record: r.LockReleased) -> None:
    """Apply the record: the lock is free."""
    _drop_lock(state, record.resource_id)
    state.timers.append(((LOCK_TIMER, record.resource_id), None))


def _drop_lock(state: ShardState, resource_id: str) -> None:
    if state.tracks_changes:
        state.changes.locks.add(resource_id)
    lock = state.locks.pop(resource_id, None)
    if lock is None:
        return
    held = state.locks_of[lock.process_id]
    del held[resource_id]
    if not held:
        del state.locks_of[lock.process_id]


def locks_renewed(state: ShardState, record: r.LocksRenewed) -> None:
    """Apply the record: all locks of the process are held for their time again."""
    for resource_id in state.locks_of.get(record.process_id, {}):
        lock = state.locks[resource_id]
        if state.tracks_changes:
            state.changes.locks.add(resource_id)
        expires_at = saturating_add(record.at, lock.ttl)
        state.locks[resource_id] = replace(lock, expires_at=expires_at)
        state.timers.append(((LOCK_TIMER, resource_id), expires_at))
