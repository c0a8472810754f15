"""What the lock commands do (rest.md 9). A lock whose lease has passed is free at once."""

from . import records as r
from .codes import Code
from .commands import (
    LOCK_TIMER,
    AcquireLock,
    HeartbeatLocks,
    ReleaseLock,
)
from .limits import saturating_add
from .machine import EXPIRIES, Machine, decides
from .model import Lock, replace
from .replies import Reply


def _lock(machine: Machine, resource_id: str, now_ms: int) -> Lock | None:
    """The lock as it is now, released if its lease has passed."""
    lock = machine.state.locks.get(resource_id)
    if lock is not None and lock.expires_at <= now_ms:
        machine.emit(r.LockReleased(resource_id))
        return None
    return lock


@decides(AcquireLock)
def acquire_lock(machine: Machine, command: AcquireLock, now_ms: int) -> Reply:
    """Take a free lock, or renew or take over that of the same execution."""
    held = _lock(machine, command.resource_id, now_ms)
    if held is not None and held.execution_id != command.execution_id:
        return Reply(Code.LOCK_HELD)
    lock = Lock(
        command.resource_id,
        command.execution_id,
        command.process_id,
        command.ttl,
        saturating_add(now_ms, command.ttl),
    )
    machine.emit(r.LockAcquired(lock))
    return Reply(Code.CREATED, lock=lock)


@decides(ReleaseLock)
def release_lock(machine: Machine, command: ReleaseLock, now_ms: int) -> Reply:
    """Give a lock back, if this execution holds it."""
    held = _lock(machine, command.resource_id, now_ms)
    if held is None or held.execution_id != command.execution_id:
        return Reply(Code.LOCK_NOT_FOUND)
    machine.emit(r.LockReleased(command.resource_id))
    return Reply(Code.NO_CONTENT)


@decides(HeartbeatLocks)
def heartbeat_locks(machine: Machine, command: HeartbeatLocks, now_ms: int) -> Reply:
    """Renew the locks of a process; those that have run out are not revived."""
    held = machine.state.locks_of.get(command.process_id)
    if held is None:
        return Reply(Code.OK)
    for resource_id in list(held):
        _lock(machine, resource_id, now_ms)
    held = machine.state.locks_of.get(command.process_id, {})
    if command.id_prefix:
        within = [machine.state.locks[one] for one in held if one.startswith(command.id_prefix)]
        for lock in within:
            expires_at = saturating_add(now_ms, lock.ttl)
            machine.emit(r.LockAcquired(replace(lock, expires_at=expires_at)))
        return Reply(Code.OK, count=len(within))
    if held:
        machine.emit(r.LocksRenewed(command.process_id, now_ms))
    return Reply(Code.OK, count=len(held))


def expire_lock(machine: Machine, resource_id: str, now_ms: int) -> None:
    """The lock's timer fired: looking at it does the rest."""
    _lock(machine, resource_id, now_ms)


EXPIRIES[LOCK_TIMER] = expire_lock
