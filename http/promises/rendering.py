"""Messages to workers as JSON text (rest.md 7.2)."""

from msgspec import UNSET, Struct, UnsetType

from troth.core.model import NOTIFY, Promise, TaskKind, Trace
from troth.core.replies import TaskMessage
from troth.http.wire.json_text import dump

from .answers import PromiseObject, TaskObject, path_of, promise_object, task_object


class HrefObject(Struct, gc=False):
    """Links that a worker can follow without knowing the API."""

    base: str
    claim: str
    complete: str
    heartbeat: str


class MessageObject(Struct, gc=False):
    """An order to claim a task, which has `href` and `task`, or news of a promise."""

    head: dict[str, str] | UnsetType
    promise: PromiseObject | UnsetType | None
    href: HrefObject | UnsetType
    task: TaskObject | UnsetType
    type: TaskKind


def render_message(message: TaskMessage, url: str) -> bytes:
    """Return the text of a message.

    `url` is what links begin with, without a slash at the end.
    """
    task = message.task
    head = trace_headers(task.trace) or UNSET
    if task.kind is NOTIFY:
        return dump(MessageObject(head, _news(message.promise), UNSET, UNSET, task.kind))
    place = f"{path_of(task.id)}/{task.counter}"
    href = HrefObject(
        url,
        f"{url}/tasks/claim/{place}",
        f"{url}/tasks/complete/{place}",
        f"{url}/tasks/heartbeat/{place}",
    )
    return dump(MessageObject(head, UNSET, href, task_object(task), task.kind))


def _news(promise: Promise | None) -> PromiseObject | None:
    return None if promise is None else promise_object(promise)


def trace_headers(trace: Trace | None) -> dict[str, str]:
    """Return a trace context as headers; empty without one."""
    if trace is None:
        return {}
    made = {"traceparent": trace.traceparent}
    if trace.tracestate:
        made["tracestate"] = trace.tracestate
    return made
