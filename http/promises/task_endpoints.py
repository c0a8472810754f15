"""Tasks: claim, keep, complete and give back the work of a promise (rest.md 5).

Each has two forms: POST with a body, and GET with everything in the path, which is what the links
in messages point to. A task claimed by GET belongs to the process `<id>/<counter>`.
"""

from dataclasses import replace

from msgspec import UNSET

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import ClaimTask, Command, CompleteTask, DropTask
from troth.core.grammar import task_ids
from troth.core.leases import granted_ttl
from troth.core.model import TaskKind
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import Asking, Call, Endpoint, Parameter, Success, answer, nothing
from troth.http.api.shards_port import answered
from troth.http.wire.decoding import integer
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response
from troth.shards.delivery.dialects import REST

from .answers import ClaimObject, TaskObject, TasksAffectedObject, claim_object, task_object
from .rendering import trace_headers
from .schemas import ClaimTaskBody, HeartbeatBody, TaskBody


def _claim(_api: Api, call: Call) -> Command:
    body: ClaimTaskBody = call.body
    return ClaimTask(*_named(call), body.process_id or "", granted_ttl(body.ttl or 0))


def _claim_by_link(api: Api, call: Call) -> Command:
    task_id, counter = _named(call)
    ttl_ms = granted_ttl(api.settings.get_claim_ttl_ms)
    return ClaimTask(task_id, counter, _process_id(task_id, counter), ttl_ms)


def _claimed(api: Api, reply: Reply) -> bytes:
    claimed = reply.claimed
    assert claimed is not None
    if api.tracing is None:
        return dump(claim_object(claimed, api.url))
    task_id = task_ids.invoke_id(claimed.root_id)
    if claimed.kind is TaskKind.RESUME:
        task_id = task_ids.resume_id(claimed.root_id, claimed.leaf_id)
    context = api.tracing.context_of_task(task_id)
    head = UNSET if context is None else trace_headers(context.trace())
    return dump(claim_object(claimed, api.url, head))


def _note_worker(api: Api, call: Call) -> None:
    """Note that the stream of who claims a task through this API speaks it (envelope.md 11.7)."""
    body: ClaimTaskBody = call.body
    api.polls.decide(body.process_id or "", REST)


def _complete(_api: Api, call: Call) -> Command:
    return CompleteTask(*_named(call))


def _completed(_api: Api, reply: Reply) -> bytes:
    assert reply.task is not None
    return dump(task_object(reply.task))


def _drop(_api: Api, call: Call) -> Command:
    return DropTask(*_named(call))


claim_task = Asking(_claim, _claimed, _note_worker)
claim_task_by_link = Asking(_claim_by_link, _claimed)
complete_task = Asking(_complete, _completed)
drop_task = Asking(_drop, nothing)


async def heartbeat_tasks(api: Api, call: Call) -> Response:
    """POST /tasks/heartbeat."""
    body: HeartbeatBody = call.body
    return await _heartbeat(api, call, body.process_id or "")


async def heartbeat_tasks_by_link(api: Api, call: Call) -> Response:
    """GET /tasks/heartbeat/{id}/{counter}."""
    return await _heartbeat(api, call, _process_id(*_named(call)))


async def _heartbeat(api: Api, call: Call, process_id: str) -> Response:
    count = await answered(api.shards.heartbeat_tasks(process_id, call.request.principal.id_prefix))
    return answer(Code.OK, TasksAffectedObject(count))


def _named(call: Call) -> tuple[str, int]:
    """Return the id and counter of a task, from the body or, of a link, from the path."""
    if call.body is None:
        return call.path["id"], integer("path counter", call.path["counter"])
    body: TaskBody = call.body
    return body.id or "", body.counter or 0


def _process_id(task_id: str, counter: int) -> str:
    return f"{task_id}/{counter}"


_PATH = (
    Parameter(
        "id",
        "The task's id, percent-encoded; it may contain slashes.",
        {"type": "string", "minLength": 1},
        required=True,
        example="__invoke:order/42",
    ),
    Parameter(
        "counter",
        "The counter that came with the message.",
        {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
        required=True,
        example=1,
    ),
)
_HEARTBEAT_ANSWERS = (Success(200, "The number of leases renewed.", TasksAffectedObject),)


def _by_link(row: Endpoint, handler: Asking) -> Endpoint:
    """Return the row of the same with everything in the path."""
    return replace(
        row,
        name=f"{row.name}ByLink",
        method="GET",
        path=f"{row.path}/{{id...}}/{{counter}}",
        summary=f"{row.summary} by its link",
        description="The same, with everything in the path, as in a message's `href`.",
        handler=handler,
        changes_by_link=True,
        body=None,
        path_parameters=_PATH,
    )


_CLAIM = Endpoint(
    name="claimTask",
    group="Tasks",
    method="POST",
    path="/tasks/claim",
    summary="Claim a task",
    description=(
        "Takes the lease of a task for `ttl` milliseconds. Its holder works on the "
        "promise and renews the lease with heartbeats. If the lease runs out, the task "
        "goes to another worker, with a higher counter."
    ),
    handler=claim_task,
    scope=Scope.PROMISES_WRITE,
    body=ClaimTaskBody,
    successes=(Success(201, "The task is claimed; the answer has its promises.", ClaimObject),),
    refusals=(Code.TASK_CLAIMED, Code.TASK_COMPLETED, Code.TASK_COUNTER, Code.TASK_NOT_FOUND),
)
_COMPLETE = Endpoint(
    name="completeTask",
    group="Tasks",
    method="POST",
    path="/tasks/complete",
    summary="Complete a task",
    description="Ends the lease. The promise does not change: it is completed separately.",
    handler=complete_task,
    scope=Scope.PROMISES_WRITE,
    body=TaskBody,
    successes=(
        Success(201, "The task is completed by this request.", TaskObject),
        Success(200, "The task had already finished.", TaskObject),
    ),
    refusals=(Code.TASK_COUNTER, Code.TASK_STATE, Code.TASK_NOT_FOUND),
)
_DROP = Endpoint(
    name="dropTask",
    group="Tasks",
    method="POST",
    path="/tasks/drop",
    summary="Return a task",
    description="The task is sent out again immediately, with a higher counter.",
    handler=drop_task,
    scope=Scope.PROMISES_WRITE,
    body=TaskBody,
    successes=(
        Success(201, "The task was returned and is sent out again."),
        Success(200, "There was nothing to return: the task is not claimed."),
    ),
    refusals=(Code.TASK_COUNTER, Code.TASK_NOT_FOUND),
)

ENDPOINTS = (
    _CLAIM,
    _by_link(_CLAIM, claim_task_by_link),
    _COMPLETE,
    _by_link(_COMPLETE, complete_task),
    _DROP,
    _by_link(_DROP, drop_task),
    Endpoint(
        name="heartbeatTasks",
        group="Tasks",
        method="POST",
        path="/tasks/heartbeat",
        summary="Renew the leases of all tasks of a process",
        handler=heartbeat_tasks,
        scope=Scope.PROMISES_WRITE,
        body=HeartbeatBody,
        successes=_HEARTBEAT_ANSWERS,
    ),
    Endpoint(
        name="heartbeatTaskByLink",
        group="Tasks",
        method="GET",
        path="/tasks/heartbeat/{id...}/{counter}",
        summary="Renew the lease of a task by its link",
        description="Only for a task that was claimed by its link.",
        handler=heartbeat_tasks_by_link,
        changes_by_link=True,
        scope=Scope.PROMISES_WRITE,
        path_parameters=_PATH,
        successes=_HEARTBEAT_ANSWERS,
    ),
)
