"""Tasks: claim, keep, complete and give back the work of a promise (rest.md 5).

Each has two forms: POST with a body, and GET with everything in the path, which is what the links
in messages point to. A task claimed by GET belongs to the process `<id>/<counter>`.
"""

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import ClaimTask, CompleteTask, DropTask
from troth.shards.errors import ShardsError

from .api import Api, shards_error
from .decoding import integer
from .endpoints import Call, Endpoint, Parameter, Success, answer, ask
from .rendering import claim_object, task_object
from .requests import Response
from .schemas import ClaimTaskBody, HeartbeatBody, TaskBody


async def claim_task(api: Api, call: Call) -> Response:
    """POST /tasks/claim."""
    body: ClaimTaskBody = call.body
    command = ClaimTask(body.id or "", body.counter or 0, body.process_id or "", body.ttl or 0)
    return await _claim(api, call, command)


async def claim_task_by_link(api: Api, call: Call) -> Response:
    """GET /tasks/claim/{id}/{counter}."""
    task_id, counter = _named(call)
    ttl_ms = api.settings.get_claim_ttl_ms
    return await _claim(
        api, call, ClaimTask(task_id, counter, _process_id(task_id, counter), ttl_ms)
    )


async def _claim(api: Api, call: Call, command: ClaimTask) -> Response:
    reply = await ask(api, call, command)
    assert reply.claimed is not None
    return answer(reply.code, claim_object(reply.claimed, api.url))


async def complete_task(api: Api, call: Call) -> Response:
    """POST /tasks/complete."""
    body: TaskBody = call.body
    return await _complete(api, call, body.id or "", body.counter or 0)


async def complete_task_by_link(api: Api, call: Call) -> Response:
    """GET /tasks/complete/{id}/{counter}."""
    return await _complete(api, call, *_named(call))


async def _complete(api: Api, call: Call, task_id: str, counter: int) -> Response:
    reply = await ask(api, call, CompleteTask(task_id, counter))
    assert reply.task is not None
    return answer(reply.code, task_object(reply.task))


async def drop_task(api: Api, call: Call) -> Response:
    """POST /tasks/drop."""
    body: TaskBody = call.body
    reply = await ask(api, call, DropTask(body.id or "", body.counter or 0))
    return Response(reply.code.status)


async def drop_task_by_link(api: Api, call: Call) -> Response:
    """GET /tasks/drop/{id}/{counter}."""
    reply = await ask(api, call, DropTask(*_named(call)))
    return Response(reply.code.status)


async def heartbeat_tasks(api: Api, call: Call) -> Response:
    """POST /tasks/heartbeat."""
    body: HeartbeatBody = call.body
    return await _heartbeat(api, body.process_id or "")


async def heartbeat_tasks_by_link(api: Api, call: Call) -> Response:
    """GET /tasks/heartbeat/{id}/{counter}."""
    return await _heartbeat(api, _process_id(*_named(call)))


async def _heartbeat(api: Api, process_id: str) -> Response:
    try:
        count = await api.shards.heartbeat_tasks(process_id)
    except ShardsError as error:
        raise shards_error(error) from error
    return answer(Code.OK, {"tasksAffected": count})


def _named(call: Call) -> tuple[str, int]:
    return call.path["id"], integer("path counter", call.path["counter"])


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
_CLAIM_ANSWERS = (Success(201, "Claimed; here is what the task is about.", "Claim"),)
_CLAIM_REFUSALS = (
    Code.TASK_CLAIMED,
    Code.TASK_COMPLETED,
    Code.TASK_COUNTER,
    Code.TASK_NOT_FOUND,
)
_COMPLETE_ANSWERS = (
    Success(201, "The task is completed by this request.", "Task"),
    Success(200, "It was finished before.", "Task"),
)
_COMPLETE_REFUSALS = (Code.TASK_COUNTER, Code.TASK_STATE, Code.TASK_NOT_FOUND)
_DROP_ANSWERS = (
    Success(201, "The task was given back and goes out again."),
    Success(200, "There was nothing to give back: the task is not claimed."),
)
_DROP_REFUSALS = (Code.TASK_COUNTER, Code.TASK_NOT_FOUND)
_HEARTBEAT_ANSWERS = (Success(200, "How many leases were renewed.", "TasksAffected"),)

_BY_LINK = "The same with everything in the path, as in a message's `href`."

ENDPOINTS = (
    Endpoint(
        name="claimTask",
        group="Tasks",
        method="POST",
        path="/tasks/claim",
        summary="Claim a task",
        description=(
            "Takes the lease of a task for `ttl` milliseconds. Whoever holds it works on the "
            "promise and "
            "keeps the lease with heartbeats; if it runs out, the task goes to somebody else, "
            "with a "
            "higher counter."
        ),
        handler=claim_task,
        scope=Scope.PROMISES_WRITE,
        body=ClaimTaskBody,
        successes=_CLAIM_ANSWERS,
        refusals=_CLAIM_REFUSALS,
    ),
    Endpoint(
        name="claimTaskByLink",
        group="Tasks",
        method="GET",
        path="/tasks/claim/{id...}/{counter}",
        summary="Claim a task by its link",
        description=_BY_LINK,
        handler=claim_task_by_link,
        scope=Scope.PROMISES_WRITE,
        path_parameters=_PATH,
        successes=_CLAIM_ANSWERS,
        refusals=_CLAIM_REFUSALS,
    ),
    Endpoint(
        name="completeTask",
        group="Tasks",
        method="POST",
        path="/tasks/complete",
        summary="Complete a task",
        description="Ends the lease. The promise is not touched: it is completed by itself.",
        handler=complete_task,
        scope=Scope.PROMISES_WRITE,
        body=TaskBody,
        successes=_COMPLETE_ANSWERS,
        refusals=_COMPLETE_REFUSALS,
    ),
    Endpoint(
        name="completeTaskByLink",
        group="Tasks",
        method="GET",
        path="/tasks/complete/{id...}/{counter}",
        summary="Complete a task by its link",
        description=_BY_LINK,
        handler=complete_task_by_link,
        scope=Scope.PROMISES_WRITE,
        path_parameters=_PATH,
        successes=_COMPLETE_ANSWERS,
        refusals=_COMPLETE_REFUSALS,
    ),
    Endpoint(
        name="dropTask",
        group="Tasks",
        method="POST",
        path="/tasks/drop",
        summary="Give a task back",
        description="The task goes out again at once, with a higher counter.",
        handler=drop_task,
        scope=Scope.PROMISES_WRITE,
        body=TaskBody,
        successes=_DROP_ANSWERS,
        refusals=_DROP_REFUSALS,
    ),
    Endpoint(
        name="dropTaskByLink",
        group="Tasks",
        method="GET",
        path="/tasks/drop/{id...}/{counter}",
        summary="Give a task back by its link",
        description=_BY_LINK,
        handler=drop_task_by_link,
        scope=Scope.PROMISES_WRITE,
        path_parameters=_PATH,
        successes=_DROP_ANSWERS,
        refusals=_DROP_REFUSALS,
    ),
    Endpoint(
        name="heartbeatTasks",
        group="Tasks",
        method="POST",
        path="/tasks/heartbeat",
        summary="Keep all tasks of a process",
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
        summary="Keep a task by its link",
        description="Only for a task that was claimed by its link.",
        handler=heartbeat_tasks_by_link,
        scope=Scope.PROMISES_WRITE,
        path_parameters=_PATH,
        successes=_HEARTBEAT_ANSWERS,
    ),
)
