"""Which ids a command names, and whether its sender may name them.

Two rules, the same for every way in, since all handlers ask through `shards_port.ask`:

- Ids that begin with `troth:` are the server's own; no client may name one (403).
- A token with an id prefix may not name any other id (403), whether it exists or not.

`NAMED` says for each command of the promise API what it names. A command that is in neither table
is refused as a defect, so that no new one passes unjudged.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.catalog import RESERVED_PREFIX
from troth.core.codes import Code
from troth.core.grammar import task_ids, templates
from troth.core.workflows import WorkflowFence
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal

Named = str | tuple[str, ...]
"""One id, as most commands name, or several."""


def _fenced(command: c.CreatePromise | c.CompletePromise) -> Named:
    fence = command.fence
    return command.id if fence is None else (command.id, task_ids.home(fence.task_id))


def _of_callback(command: c.CreateCallback) -> Named:
    ids, fence = (command.promise_id, command.root_id), command.fence
    return ids if fence is None else (*ids, task_ids.home(fence.task_id))


def _within(promise_id: str, fence: WorkflowFence | None) -> Named:
    return promise_id if fence is None else (promise_id, fence.id)


def _of_schedule(command: c.CreateSchedule | w.EnsureSchedule) -> Named:
    return command.id, templates.beginning(command.promise_id, command.id)


def _of_change(command: c.UpdateSchedule) -> Named:
    template = command.promise_id
    if template is None:
        return command.id
    return command.id, templates.beginning(template, command.id)


_by_id: Final[Callable[[Any], str]] = attrgetter("id")


def _by_task(command: Any) -> Named:
    return task_ids.home(command.id)


_by_resource: Final[Callable[[Any], Named]] = attrgetter("resource_id")


NAMED: Final[Mapping[type[c.Command], Callable[[Any], Named]]] = {
    c.CreatePromise: _fenced,
    c.ReadPromise: _by_id,
    c.CompletePromise: _fenced,
    c.DeletePromise: _by_id,
    c.ImportPromise: lambda command: command.promise.id,
    c.CreateCallback: _of_callback,
    c.CreateSubscription: lambda command: command.promise_id,
    c.ClaimTask: _by_task,
    c.CompleteTask: _by_task,
    c.DropTask: _by_task,
    c.CreateSchedule: _of_schedule,
    c.ReadSchedule: _by_id,
    c.UpdateSchedule: _of_change,
    c.PauseSchedule: _by_id,
    c.ResumeSchedule: _by_id,
    c.DeleteSchedule: _by_id,
    w.EnsurePromise: lambda command: _within(command.id, command.fence),
    w.SettlePromise: lambda command: _within(command.id, command.fence),
    w.RegisterAwait: lambda command: (command.awaited, command.awaiter),
    w.RegisterListener: lambda command: command.awaited,
    w.ReadWorkflow: _by_id,
    w.CreateWorkflow: _by_id,
    w.AcquireWorkflow: _by_id,
    w.SuspendWorkflow: lambda command: (command.id, *command.awaited),
    w.FulfillWorkflow: _by_id,
    w.ReleaseWorkflow: _by_id,
    w.HaltWorkflow: _by_id,
    w.ContinueWorkflow: _by_id,
    w.EnsureSchedule: _of_schedule,
}
"""Commands of both promise APIs and the ids that they name, of promises and of schedules."""

ONE_ID: Final = frozenset(kind for kind, names in NAMED.items() if names is _by_id)
"""Commands that name one thing, by its id."""

ONE_ID_UNLESS_FENCED: Final = frozenset(kind for kind, names in NAMED.items() if names is _fenced)
"""Those that do so, too, but with a fence."""

LOCKS: Final[Mapping[type[c.Command], Callable[[Any], Named]]] = {
    c.AcquireLock: _by_resource,
    c.ReleaseLock: _by_resource,
}
"""Commands that name locks: none of these is reserved for the server."""

OWN: Final[frozenset[type[c.Command]]] = frozenset(
    {
        c.CreateEntry,
        c.ReadEntry,
        c.ReplaceEntry,
        c.DeleteEntry,
        c.StorePackage,
        c.DeletePromises,
        c.CreateExecution,
        c.ReadExecution,
        c.AssignExecution,
        c.ReportExecution,
        c.ReturnExecution,
        c.FinishExecution,
        c.CancelExecution,
    }
)
"""Commands for what belongs to accounts. Their ids are made here; handlers judge whose they are."""


def refuse_unless_permitted(principal: Principal, command: c.Command) -> None:
    """Raise ApiError (403) if a command names an id that its sender may not name."""
    kind = type(command)
    names = NAMED.get(kind)
    named: Named
    if names is not None:
        named = names(command)
        if type(named) is str:
            if named.startswith(RESERVED_PREFIX):
                raise ApiError(Code.RESERVED_ID)
        elif any(one.startswith(RESERVED_PREFIX) for one in named):
            raise ApiError(Code.RESERVED_ID)
    elif kind in LOCKS:
        named = LOCKS[kind](command)
    else:
        assert kind in OWN, f"{kind.__name__} is not a command of clients"
        return
    if principal.id_prefix:
        refuse_unless_within(principal, (named,) if isinstance(named, str) else named)


def refuse_unless_within(principal: Principal, named: Iterable[str]) -> None:
    """Raise ApiError (403) unless all ids begin as the sender's token demands."""
    prefix = principal.id_prefix
    if not all(one.startswith(prefix) for one in named):
        message = f"The token is only for ids that begin with `{prefix}`."
        raise ApiError(Code.FORBIDDEN_PREFIX, message=message)
