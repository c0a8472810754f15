"""What an operator does about what is stuck: release a task, send it now, break a lock.

None of these needs to know a counter or a holder: they act on the task or lock as it is now. They
use the commands that workers use, with the counter that was just read, so they never undo what has
happened in between: then the act is refused, and may be repeated.
"""

from typing import Annotated

from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import Command, DropTask, ReleaseLock
from troth.core.workflow_commands import ReleaseWorkflow
from troth.core.workflows import execute_key
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.api.shards_port import answered, ask
from troth.http.wire.errors import ApiError
from troth.http.wire.fields import Text
from troth.http.wire.requests import Response
from troth.shards.surveys.rows import TaskFamily, TaskRow

from .answers import SeenTaskObject, seen_task
from .asked import surveys_of


class NamedTaskBody(Struct, rename="camel"):
    """The task that is meant, as it is now."""

    id: Annotated[
        str | None,
        Text(
            "The task's id; of an envelope task, its promise's.",
            "__invoke:order/42",
            required=True,
            limit_bytes=0,
        ),
    ] = None


class BreakLockBody(Struct, rename="camel", forbid_unknown_fields=True):
    """The lock to take away from its holder."""

    resource_id: Annotated[str | None, Text("The locked resource.", "printer", required=True)] = (
        None
    )


async def _found(api: Api, call: Call) -> TaskRow:
    """Return the task that a body names, if the sender may. Raises ApiError.

    Function tasks are not among them: their nodes hold them.
    """
    body: NamedTaskBody = call.body
    found = await answered(surveys_of(api).task(body.id or ""))
    if found is None or found.family is TaskFamily.FUNCTION:
        raise ApiError(Code.TASK_NOT_FOUND)
    if call.request.principal.id_prefix:
        refuse_unless_within(call.request.principal, (found.promise_id,))
    return found


async def release_task(api: Api, call: Call) -> Response:
    """POST /tasks/release."""
    found = await _found(api, call)
    if found.state not in ("claimed", "acquired"):
        raise ApiError(Code.TASK_STATE, message=f"The task is {found.state}: no worker holds it.")
    command: Command = (
        ReleaseWorkflow(found.id, found.counter)
        if found.family is TaskFamily.ENVELOPE
        else DropTask(found.id, found.counter)
    )
    await ask(api.shards, command, call.request)
    return await _shown(api, found)


async def retry_task(api: Api, call: Call) -> Response:
    """POST /tasks/retry."""
    found = await _found(api, call)
    key = execute_key(found.id) if found.family is TaskFamily.ENVELOPE else found.id
    sent: set[str] = set()
    await answered(surveys_of(api).retry_all([key], sent))
    if not sent:
        message = f"The task is {found.state}: no message of it waits to be sent again."
        raise ApiError(Code.TASK_STATE, message=message)
    return await _shown(api, found)


async def _shown(api: Api, row: TaskRow) -> Response:
    again = await answered(surveys_of(api).task(row.id))
    return answer(Code.OK, seen_task(row if again is None else again))


async def break_lock(api: Api, call: Call) -> Response:
    """POST /locks/break."""
    body: BreakLockBody = call.body
    resource_id = body.resource_id or ""
    found = await answered(surveys_of(api).lock(resource_id))
    if found is None:
        raise ApiError(Code.LOCK_NOT_FOUND)
    held = found.lock
    async with api.audit.act(
        call.request, "lock.break", resource=resource_id, execution=held.execution_id
    ):
        await ask(api.shards, ReleaseLock(resource_id, held.execution_id), call.request)
    return Response(Code.NO_CONTENT.status)


ENDPOINTS = (
    Endpoint(
        name="releaseTask",
        group="Questions",
        method="POST",
        path="/tasks/release",
        summary="Take a task from its holder",
        description=(
            "The task goes out again, to any worker: with the next counter, or at the same "
            "version if it is of the envelope protocol. Its old holder is refused from now on."
        ),
        handler=release_task,
        scope=Scope.PROMISES_WRITE,
        body=NamedTaskBody,
        successes=(Success(200, "The task goes out again.", SeenTaskObject),),
        refusals=(Code.TASK_NOT_FOUND, Code.TASK_STATE, Code.TASK_COUNTER, Code.WORKFLOW_STATE),
    ),
    Endpoint(
        name="retryTask",
        group="Questions",
        method="POST",
        path="/tasks/retry",
        summary="Send a stalled task now",
        description=(
            "Without waiting for its next try. A receiver that fails gets it as a probe; one that "
            "has no worker still has none."
        ),
        handler=retry_task,
        scope=Scope.PROMISES_WRITE,
        body=NamedTaskBody,
        successes=(Success(200, "It is tried again.", SeenTaskObject),),
        refusals=(Code.TASK_NOT_FOUND, Code.TASK_STATE),
    ),
    Endpoint(
        name="breakLock",
        group="Questions",
        method="POST",
        path="/locks/break",
        summary="Release a lock of any holder",
        description=(
            "Its holder is not told, and may go on as if it had the lock. The audit log has a line."
        ),
        handler=break_lock,
        scope=Scope.ADMIN,
        body=BreakLockBody,
        successes=(Success(204, "The lock is released."),),
        refusals=(Code.LOCK_NOT_FOUND,),
    ),
)
