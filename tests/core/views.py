"""Replies, messages and usage as the model gives them, so that they compare."""

from collections.abc import Iterable

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.executions import Usage
from troth.core.model import Promise, Task, TaskState
from troth.core.replies import Reply
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED

from .model import (
    CALLBACK_FIELDS,
    EXECUTION_FIELDS,
    LOCK_FIELDS,
    PROMISE_FIELDS,
    SCHEDULE_FIELDS,
    TASK_FIELDS,
    View,
    view,
)

WORKFLOW_FIELDS = ("id", "state", "version", "resumes", "pid", "ttl")


def envelope_view(states: list[ShardState], promises: list[Promise]) -> View:
    """Workflow tasks, fulfilled ones too, and who waits."""
    workflows: View = {
        one.id: {
            **view(one, WORKFLOW_FIELDS),
            "ttl": one.ttl if one.state is ACQUIRED else None,
            "expires_at": state.end_of_workflow_lease(one) if one.state is ACQUIRED else 0,
            "awaited": sorted(one.awaited or ()),
        }
        for state in states
        for one in state.workflows.values()
    }
    for promise in promises:
        if promise.task_version is not None:
            assert promise.id not in workflows, "a fulfilled task is not kept"
            named = dict.fromkeys(WORKFLOW_FIELDS)
            named |= {"id": promise.id, "state": "fulfilled", "version": promise.task_version}
            workflows[promise.id] = {**named, "resumes": 0, "expires_at": 0, "awaited": []}
    return {
        "workflows": workflows,
        "awaits": sorted(pair for state in states for pair in state.awaits.pairs()),
        "listeners": sorted(pair for state in states for pair in state.listeners.pairs()),
        "unblocks": sorted(
            (promise_id, address)
            for state in states
            for promise_id, addresses in state.unblocks.items()
            for address in addresses
        ),
    }


def usage_view(usage: Iterable[Usage]) -> View:
    """How often each function was run, over all shards: created, finished, by day."""
    shown: View = {}
    for one in usage:
        created, finished, days = shown.get(one.function_id, (0, 0, {}))
        days = {day: days.get(day, 0) + one.days.get(day, 0) for day in {*days, *one.days}}
        counts = (created + one.created_count, finished + one.finished_count)
        shown[one.function_id] = (*counts, days)
    return shown


def message_key(message: r.ShardMessage) -> tuple[str, ...]:
    """What the model calls a message between shards."""
    if isinstance(message, r.ResumeMessage):
        return "resume", message.callback.id
    if isinstance(message, w.AwaitMessage):
        return "await", message.awaited, message.awaiter
    if isinstance(message, w.AwaitDroppedMessage):
        return "dropped", message.awaited, message.awaiter
    if isinstance(message, w.WakeMessage):
        return "wake", message.awaiter, message.awaited
    return "promise", message.id, message.tags["resonate:schedule"]


def reply_view(reply: Reply) -> View:
    """A reply as the model gives it."""
    shown: View = {"code": reply.code}
    for name, fields in (
        ("promise", PROMISE_FIELDS),
        ("task", TASK_FIELDS),
        ("callback", CALLBACK_FIELDS),
        ("schedule", SCHEDULE_FIELDS),
        ("lock", LOCK_FIELDS),
    ):
        entity = getattr(reply, name)
        if entity is not None:
            shown[name] = view(entity, fields)
    if reply.workflow is not None:
        shown["workflow"] = view(reply.workflow, WORKFLOW_FIELDS)
    if reply.entry is not None:
        shown["entry"] = reply.entry
    if reply.execution is not None:
        shown["execution"] = view(reply.execution, EXECUTION_FIELDS)
    claimed = reply.claimed
    if claimed is not None:
        shown |= view(claimed, ("kind", "root_id", "leaf_id"))
        shown["root"] = claimed.root and view(claimed.root, PROMISE_FIELDS)
        shown["leaf"] = claimed.leaf and view(claimed.leaf, PROMISE_FIELDS)
    return shown


def lease_of(state: ShardState, task: Task) -> tuple[int, int | None]:
    """Until when a task is somebody's, and the ttl of its holder, if it has one."""
    if task.state is TaskState.CLAIMED:
        return state.lease_floor.end_of_lease(task.expires_at, task.ttl), task.ttl
    return state.lease_floor.end_of_claim(task.expires_at), None


def transit_view(states: list[ShardState]) -> list[tuple[str, ...]]:
    """The messages between shards that have not arrived."""
    return sorted(
        message_key(message)
        for index, state in enumerate(states)
        for target, number, message in state.outbox
        if number > states[target].inbox.get(index, 0)
    )
