"""Changes to a shard's leases after an absence of the server, or a clock that was set back."""

from troth.core import records as r
from troth.core.commands import LOCK_TIMER
from troth.core.leases import LeaseFloor
from troth.core.limits import lease_end, saturating_add
from troth.core.model import ENQUEUED, Task, replace
from troth.core.workflows import ACQUIRED

from . import executions
from .shard_state import ShardState


def leases_restarted(state: ShardState, record: r.LeasesRestarted) -> None:
    """Apply the record: raise the floor; after a step back, bring down what lies too far ahead."""
    claims_end_on = saturating_add(record.at, record.claim_timeout_ms)
    state.lease_floor = LeaseFloor(record.at, claims_end_on)
    if record.was_set_back:
        _shorten_task_leases(state, record.at, claims_end_on)
        _shorten_locks(state, record.at)
        _shorten_workflow_leases(state, record.at)
        executions.count_from(state, record.at)


def _shorten_task_leases(state: ShardState, at: int, claims_end_on: int) -> None:
    for held in state.claimed.values():
        for task in held.values():
            _shorten(state, task, saturating_add(at, task.ttl))
    for root in state.roots.values():
        if root.active_count:
            for task in root.tasks:
                if task.state is ENQUEUED:
                    _shorten(state, task, claims_end_on)


def _shorten(state: ShardState, task: Task, end: int) -> None:
    if task.expires_at > end:
        task.expires_at = end
        state.arm(task)


def _shorten_workflow_leases(state: ShardState, at: int) -> None:
    for task in state.workflows.values():
        end = lease_end(at, task.ttl)
        if task.state is ACQUIRED and task.expires_at > end:
            task.expires_at = end
            state.arm_workflow(task.id, end)
            if state.tracks_changes:
                state.changes.workflows.add(task.id)


def _shorten_locks(state: ShardState, at: int) -> None:
    for lock in list(state.locks.values()):
        end = saturating_add(at, lock.ttl)
        if lock.expires_at > end:
            state.locks[lock.resource_id] = replace(lock, expires_at=end)
            if state.tracks_changes:
                state.changes.locks.add(lock.resource_id)
            state.timers.append(((LOCK_TIMER, lock.resource_id), end))
