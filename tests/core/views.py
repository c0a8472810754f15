"""Replies, messages and usage as the model gives them, so that they compare."""

from collections.abc import Iterable

from troth.core import records as r
from troth.core.executions import Usage
from troth.core.replies import Reply

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
    assert isinstance(message, r.PromiseMessage)
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
