"""Task ids: how the three kinds of task are named, and which promise's shard each lives in.

The forms are the reference server's (rest.md 4.1, 5.1):

    __invoke:<promise>         start the work of a promise
    __resume:<root>:<leaf>     go on with `root`, since `leaf` has completed
    __notify:<promise>:<name>  tell a subscriber that a promise has completed

Promise ids may hold any character, so plain concatenation is ambiguous. In the first part of the
two-part forms, `:` is written `%3A` and `%` is written `%25`; ids without these characters, that is
all that are in use, read as on the reference server. So an id names exactly one pair, and
`parse` is the inverse of the three makers.
"""

from typing import Final, NamedTuple

from troth.core.model import TaskKind

_INVOKE: Final = "__invoke:"


class TaskName(NamedTuple):
    """What a task id says: its kind, its root promise and, for resume, its leaf promise.

    For notify, `leaf` is the subscription's name.
    """

    kind: TaskKind
    root: str
    leaf: str


def _escape(part: str) -> str:
    if "%" in part or ":" in part:
        return part.replace("%", "%25").replace(":", "%3A")
    return part


def _unescape(part: str) -> str:
    if "%" in part:
        return part.replace("%3A", ":").replace("%25", "%")
    return part


def invoke_id(promise_id: str) -> str:
    """Name the task that starts the work of a promise."""
    return _INVOKE + promise_id


def resume_id(root_id: str, leaf_id: str) -> str:
    """Name the task that resumes `root_id` when `leaf_id` has completed."""
    return f"__resume:{_escape(root_id)}:{leaf_id}"


def notify_id(promise_id: str, name: str) -> str:
    """Name the task that tells the subscriber `name` about a promise."""
    return f"__notify:{_escape(promise_id)}:{name}"


def home(task_id: str) -> str:
    """Return the id whose shard a task lives in: its root; an unknown id may live anywhere."""
    if task_id.startswith(_INVOKE):
        return task_id[len(_INVOKE) :]
    name = parse(task_id)
    return task_id if name is None else name.root


def parse(task_id: str) -> TaskName | None:
    """Read a task id; None if it is not one of ours (then no such task exists)."""
    prefix, colon, rest = task_id.partition(":")
    if not colon:
        return None
    if prefix == "__invoke":
        return TaskName(TaskKind.INVOKE, rest, rest)
    if prefix not in ("__resume", "__notify"):
        return None
    first, colon, second = rest.partition(":")
    root = _unescape(first)
    if not colon or _escape(root) != first:
        return None
    kind = TaskKind.RESUME if prefix == "__resume" else TaskKind.NOTIFY
    return TaskName(kind, root, second)
