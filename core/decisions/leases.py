"""Restarting leases after an absence of the server, or after a clock was set."""

from troth.core import records as r
from troth.core.commands import ResumeTime
from troth.core.deciding import DONE, DecisionContext
from troth.core.limits import lease_end, saturating_add
from troth.core.model import ENQUEUED
from troth.core.replies import Reply
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED, WAITING

from . import schedules


def resume_time(context: DecisionContext, command: ResumeTime, now_ms: int) -> Reply:
    """Restart every lease with its full time, counted from now.

    After a step back, leases that lie too far ahead are brought down in slices (`rearming.py`).
    """
    _restart(context, now_ms, was_set_back=False)
    if command.was_set_back:
        context.state.task_beats.clear()
        context.state.lock_beats.clear()
        context.state.workflow_beats.clear()
    return DONE


def start(context: DecisionContext, now_ms: int) -> None:
    """Do the same at the server's start, when it is unknown whether the clock was set back since.

    Then leases are brought down and schedules looked at in one step, since no client waits yet.
    """
    _restart(context, now_ms, was_set_back=_is_behind_leases(context, now_ms))
    for schedule in list(context.state.schedules.values()):
        if schedule.due_on is not None and schedule.due_on > now_ms:
            schedules.follow_clock(context, schedule, now_ms)


def _restart(context: DecisionContext, now_ms: int, *, was_set_back: bool) -> None:
    # A floor of a time that has not come yet would hold every lease until then.
    if _has_leases(context.state) or now_ms < context.state.lease_floor.resumed_on:
        timeout_ms = context.options.task_claim_timeout_ms
        context.emit(r.LeasesRestarted(now_ms, timeout_ms, was_set_back))


def _has_leases(state: ShardState) -> bool:
    """Return whether there may be leases or claim times, at the same cost with any number."""
    counts = state.counts
    return bool(
        state.claimed
        or state.locks
        or counts.tasks[ENQUEUED]
        or counts.function_leases[ENQUEUED]
        or counts.workflows[ACQUIRED]
        or counts.workflows[WAITING]
    )


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
        for task in root.tasks
    )
