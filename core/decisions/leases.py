"""Restarting leases after an absence of the server, or after a clock was set."""

from troth.core import records as r
from troth.core.commands import ResumeTime
from troth.core.deciding import DONE, DecisionContext
from troth.core.limits import lease_end, saturating_add
from troth.core.model import ENQUEUED
from troth.core.replies import Reply
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED

from . import schedules


def resume_time(context: DecisionContext, command: ResumeTime, now_ms: int) -> Reply:
    """Restart every lease with its full time, counted from now."""
    # A floor of a time that has not come yet would hold every lease until then.
    if _has_leases(context.state) or now_ms < context.state.lease_floor.resumed_on:
        timeout_ms = context.options.task_claim_timeout_ms
        context.emit(r.LeasesRestarted(now_ms, timeout_ms, command.was_set_back))
    if command.was_set_back:
        context.state.task_beats.clear()
        context.state.lock_beats.clear()
        context.state.workflow_beats.clear()
    return DONE


def start(context: DecisionContext, now_ms: int) -> None:
    """Do the same at the server's start, when it is unknown whether the clock was set back since.

    Then schedules are looked at, too; while the server runs, their timers do that.
    """
    resume_time(context, ResumeTime(_is_behind_leases(context, now_ms)), now_ms)
    for schedule in list(context.state.schedules.values()):
        if schedule.due_on is not None and schedule.due_on > now_ms:
            schedules.follow_clock(context, schedule, now_ms)


def _has_leases(state: ShardState) -> bool:
    if state.claimed or state.locks:
        return True
    if any(one.state is ACQUIRED or one.unclaimed for one in state.workflows.values()):
        return True
    return any(root.active_count for root in state.roots.values())


def _is_behind_leases(context: DecisionContext, now_ms: int) -> bool:
    """Return whether a lease would last longer than any that begins now."""
    state = context.state
    if now_ms < state.lease_floor.resumed_on:
        return True
    if any(lock.expires_at > saturating_add(now_ms, lock.ttl) for lock in state.locks.values()):
        return True
    for held in state.claimed.values():
        if any(task.expires_at > saturating_add(now_ms, task.ttl) for task in held.values()):
            return True
    if any(
        task.state is ACQUIRED and task.expires_at > lease_end(now_ms, task.ttl)
        for task in state.workflows.values()
    ):
        return True
    claims_end_on = saturating_add(now_ms, context.options.task_claim_timeout_ms)
    return any(
        task.state is ENQUEUED and task.expires_at > claims_end_on
        for root in state.roots.values()
        if root.active_count
        for task in root.tasks.values()
    )
