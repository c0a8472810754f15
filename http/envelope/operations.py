"""The operations of the envelope protocol, as a table: what each takes, does and answers.

An operation asks one shard one thing (`Question`) or is a coroutine (`searches.py`). What it
refuses and the order of its checks are in `core/`; here are its fields (envelope.md 5).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.codes import MESSAGES, Code
from troth.core.commands import Command, DeleteSchedule, ReadPromise, ReadSchedule
from troth.core.grammar import cron, templates
from troth.core.grammar.targets import target_problem
from troth.core.limits import AWAITED_LIMIT_COUNT, INTEGER_MAX
from troth.core.model import PromiseState, Trace, Value
from troth.core.replies import Reply
from troth.core.workflow_commands import (
    AcquireWorkflow,
    ContinueWorkflow,
    CreateWorkflow,
    EnsurePromise,
    EnsureSchedule,
    FulfillWorkflow,
    HaltWorkflow,
    ReadWorkflow,
    RegisterAwait,
    RegisterListener,
    ReleaseWorkflow,
    SettlePromise,
    SuspendWorkflow,
)
from troth.core.workflows import WorkflowFence
from troth.http.api.context import Api
from troth.http.api.rows import Renewals
from troth.http.wire.fields import RequestLimits
from troth.shards.delivery.dialects import ENVELOPE

from . import fields as f
from .records import promise_object, schedule_object, task_object
from .wire import RequestEnvelope, envelope_text, refused

EMPTY: Final = b"{}"
_AWAITED_SETTLED: Final = Code.AWAITED_SETTLED  # see PENDING in model.py


class Question(Struct, frozen=True):
    """An operation that asks one thing, nearly always of one shard.

    `command` makes the question of the decoded data (raises ApiError, 400), `shown` the JSON text
    of a good reply. `acted` is told of a good one, with the data, before it is answered.
    """

    scope: Scope
    decoder: msgspec.json.Decoder[Any]
    command: Callable[["OperationCall"], Command | Renewals]
    shown: Callable[["OperationCall", Reply], bytes]
    acted: Callable[[Api, Any], None] | None = None


class OperationCall(Struct):
    """One request of an operation: its envelope, its decoded data, the limits that hold for it.

    `command` is what it asks for, once that is known. `is_again` says that it was asked before, and
    perhaps carried out (`asked_again.py`).
    """

    operation: Question
    envelope: RequestEnvelope
    data: Any
    limits: RequestLimits
    trace: Trace | None = None
    command: Command | Renewals | None = None
    is_again: bool = False

    @property
    def corr_id(self) -> str:
        """The id that the answer repeats."""
        return self.envelope.corr_id


# Promises


def _read_promise(asked: OperationCall) -> Command:
    return ReadPromise(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _promise(_asked: OperationCall, reply: Reply) -> bytes:
    assert reply.promise is not None, "a good reply shows the promise"
    return orjson.dumps({"promise": promise_object(reply.promise)})


def _new_promise(
    data: f.PromiseCreateData, limits: RequestLimits, place: str
) -> tuple[str, int, Value, f.Tags | None]:
    return (
        f.checked_id(data.id, limits, f"{place}.id"),
        data.timeout_at,
        f.checked_value(data.param, limits, f"{place}.param"),
        f.checked_tags(data.tags, limits, data.timeout_at, f"{place}.tags"),
    )


def _create_promise(asked: OperationCall) -> Command:
    made = _new_promise(asked.data, asked.limits, "data")
    return EnsurePromise(*made, trace=asked.trace)


def _end(
    data: f.PromiseSettleData, limits: RequestLimits, place: str
) -> tuple[PromiseState, Value]:
    state = f.settled_state(data.state, f"{place}.state")
    return state, f.checked_value(data.value, limits, f"{place}.value")


def _settle_promise(asked: OperationCall) -> Command:
    promise_id = f.checked_id(asked.data.id, asked.limits, "data.id")
    return SettlePromise(promise_id, *_end(asked.data, asked.limits, "data"))


def _register_callback(asked: OperationCall) -> Command:
    data: f.RegisterCallbackData = asked.data
    awaited = f.checked_id(data.awaited, asked.limits, "data.awaited")
    awaiter = f.checked_id(data.awaiter, asked.limits, "data.awaiter")
    if awaited == awaiter:
        raise refused("data.awaiter: must not be what it awaits")
    return RegisterAwait(awaited, awaiter)


def _register_listener(asked: OperationCall) -> Command:
    data: f.RegisterListenerData = asked.data
    problem = target_problem(data.address)
    if problem is not None:
        raise refused(f"data.address: {problem}")
    return RegisterListener(f.checked_id(data.awaited, asked.limits, "data.awaited"), data.address)


def _listener_acted(api: Api, data: f.RegisterListenerData) -> None:
    """Note that a stream that is told of a promise's end speaks this protocol (11.7)."""
    if data.address.startswith("poll://"):
        group, _, connection_id = data.address.partition("@")[2].partition("/")
        if connection_id:
            api.polls.decide(connection_id, ENVELOPE, group)


# Tasks

_promise_create: Final = msgspec.json.Decoder(f.PromiseCreateData)
_promise_settle: Final = msgspec.json.Decoder(f.PromiseSettleData)
_awaiting: Final = msgspec.json.Decoder(f.RegisterCallbackData)


def _read_task(asked: OperationCall) -> Command:
    return ReadWorkflow(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _task(_asked: OperationCall, reply: Reply) -> bytes:
    assert reply.workflow is not None, "a good reply shows the task"
    return orjson.dumps({"task": task_object(reply.workflow)})


def _create_task(asked: OperationCall) -> Command:
    data: f.TaskCreateData = asked.data
    place = "data.action.data"
    action = f.decoded(_promise_create, data.action.data, place)
    promise_id, timeout_at, param, tags = _new_promise(action, asked.limits, place)
    if tags is None or f.TARGET_TAG not in tags:
        raise refused(f"{place}.tags: must hold {f.TARGET_TAG}, the address of a worker")
    if f.DELAY_TAG in tags:
        raise refused(f"{place}.tags: {f.DELAY_TAG} does not go with a task that is taken now")
    return CreateWorkflow(
        *(promise_id, timeout_at, data.pid, data.ttl, param, tags),
        claim_id=asked.corr_id or None,
        trace=asked.trace,
    )


def _acquire_task(asked: OperationCall) -> Command:
    data: f.TaskAcquireData = asked.data
    task_id = f.checked_id(data.id, asked.limits, "data.id")
    return AcquireWorkflow(task_id, data.version, data.pid, data.ttl, asked.corr_id or None)


def _claimed(_asked: OperationCall, reply: Reply) -> bytes:
    assert reply.workflow is not None, "a good reply shows the task"
    assert reply.promise is not None, "a good reply shows the promise"
    return orjson.dumps(
        {
            "task": task_object(reply.workflow),
            "promise": promise_object(reply.promise),
            "preload": _preload(reply),
        }
    )


def _preload(reply: Reply) -> list[dict[str, Any]]:
    return [promise_object(promise) for promise in reply.preload]


def _claim_acted(api: Api, data: f.TaskCreateData | f.TaskAcquireData) -> None:
    """Note that the stream of who claims a task speaks this protocol (11.7)."""
    api.polls.decide(data.pid, ENVELOPE)


def _fence_task(asked: OperationCall) -> Command:
    data: f.TaskActionData = asked.data
    fence = WorkflowFence(f.checked_id(data.id, asked.limits, "data.id"), data.version)
    place = "data.action.data"
    command: Command
    if data.action.kind == "promise.create":
        creation = f.decoded(_promise_create, data.action.data, place)
        made = _new_promise(creation, asked.limits, place)
        command = EnsurePromise(*made, fence=fence, trace=asked.trace, is_again=asked.is_again)
    elif data.action.kind == "promise.settle":
        end = f.decoded(_promise_settle, data.action.data, place)
        promise_id = f.checked_id(end.id, asked.limits, f"{place}.id")
        ended = _end(end, asked.limits, place)
        command = SettlePromise(promise_id, *ended, fence=fence, is_again=asked.is_again)
    else:
        raise refused("data.action.kind: must be promise.create or promise.settle")
    if command.id == data.id:
        raise refused(f"{place}.id: must not be the task's own promise")
    return command


FENCE_REFUSALS: Final = frozenset({Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION})
"""What refuses a fenced request itself; anything else is the answer of its action."""


def _suspend_task(asked: OperationCall) -> Command:
    data: f.TaskSuspendData = asked.data
    task_id = f.checked_id(data.id, asked.limits, "data.id")
    awaited = []
    if len(data.actions) > AWAITED_LIMIT_COUNT:
        problem = f"must be at most {AWAITED_LIMIT_COUNT} (got {len(data.actions)})"
        raise refused(f"data.actions: {problem}", Code.TOO_MANY_WAITING)
    for number, action in enumerate(data.actions):
        place = f"data.actions[{number}].data"
        one = f.decoded(_awaiting, action.data, place)
        if one.awaiter != task_id:
            raise refused(f"{place}.awaiter: must be the task's own id")
        if one.awaited == task_id:
            raise refused(f"{place}.awaited: must not be the task's own promise")
        awaited.append(f.checked_id(one.awaited, asked.limits, f"{place}.awaited"))
    return SuspendWorkflow(task_id, data.version, tuple(awaited))


def _suspended(_asked: OperationCall, reply: Reply) -> bytes:
    if reply.code is _AWAITED_SETTLED:
        return orjson.dumps({"preload": _preload(reply)})
    return EMPTY


def _fulfill_task(asked: OperationCall) -> Command:
    data: f.TaskActionData = asked.data
    task_id = f.checked_id(data.id, asked.limits, "data.id")
    place = "data.action.data"
    end = f.decoded(_promise_settle, data.action.data, place)
    if end.id != task_id:
        raise refused(f"{place}.id: must be the task's own id")
    return FulfillWorkflow(task_id, data.version, *_end(end, asked.limits, place))


def _release_task(asked: OperationCall) -> Command:
    task_id = f.checked_id(asked.data.id, asked.limits, "data.id")
    return ReleaseWorkflow(task_id, asked.data.version)


def _renew_tasks(asked: OperationCall) -> Renewals:
    data: f.TaskHeartbeatData = asked.data
    return Renewals(data.pid, tuple([(task.id, task.version) for task in data.tasks]))


def _halt_task(asked: OperationCall) -> Command:
    return HaltWorkflow(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _continue_task(asked: OperationCall) -> Command:
    return ContinueWorkflow(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _empty(_asked: OperationCall, _reply: Reply) -> bytes:
    return EMPTY


# Schedules


def _create_schedule(asked: OperationCall) -> Command:
    data: f.ScheduleCreateData = asked.data
    schedule_id = f.checked_id(data.id, asked.limits, "data.id")
    try:
        cron.parse(data.cron)
    except cron.CronRefused as error:
        raise refused(f"data.cron: is not a cron expression: {error}") from error
    problem = templates.check(data.promise_id)
    if problem is not None:
        raise refused(f"data.promiseId: {problem}")
    f.checked_id(data.promise_id, asked.limits, "data.promiseId")
    # A delay is a moment, the timeout a duration: nothing says yet which is less.
    tags = f.checked_tags(data.promise_tags, asked.limits, INTEGER_MAX, "data.promiseTags")
    if tags is None or f.TARGET_TAG not in tags:
        raise refused(f"data.promiseTags: must hold {f.TARGET_TAG}, the address of a worker")
    return EnsureSchedule(
        *(schedule_id, data.cron, data.promise_id, data.promise_timeout),
        promise_param=f.checked_value(data.promise_param, asked.limits, "data.promiseParam"),
        promise_tags=tags,
    )


def _read_schedule(asked: OperationCall) -> Command:
    return ReadSchedule(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _delete_schedule(asked: OperationCall) -> Command:
    return DeleteSchedule(f.checked_id(asked.data.id, asked.limits, "data.id"))


def _schedule(_asked: OperationCall, reply: Reply) -> bytes:
    assert reply.schedule is not None, "a good reply shows the schedule"
    return orjson.dumps({"schedule": schedule_object(reply.schedule)})


def _fenced(asked: OperationCall, reply: Reply) -> bytes:
    """Return the answer of the action within, in an envelope of its own."""
    kind = asked.data.action.kind
    if reply.promise is None:
        status, inner = reply.code.status, orjson.dumps(MESSAGES[reply.code])
    else:
        status, inner = 200, _promise(asked, reply)
    action = envelope_text(kind, asked.corr_id, status, inner)
    return b'{"action":%b,"preload":%b}' % (action, orjson.dumps(_preload(reply)))


_READ, _WRITE = Scope.PROMISES_READ, Scope.PROMISES_WRITE


def _of(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


QUESTIONS: Final[Mapping[str, Question]] = {
    "promise.get": Question(_READ, _of(f.ById), _read_promise, _promise),
    "promise.create": Question(_WRITE, _promise_create, _create_promise, _promise),
    "promise.settle": Question(_WRITE, _promise_settle, _settle_promise, _promise),
    "promise.register_callback": Question(_WRITE, _awaiting, _register_callback, _promise),
    "promise.register_listener": Question(
        _WRITE, _of(f.RegisterListenerData), _register_listener, _promise, _listener_acted
    ),
    "task.get": Question(_READ, _of(f.ById), _read_task, _task),
    "task.create": Question(_WRITE, _of(f.TaskCreateData), _create_task, _claimed, _claim_acted),
    "task.acquire": Question(_WRITE, _of(f.TaskAcquireData), _acquire_task, _claimed, _claim_acted),
    "task.fence": Question(_WRITE, _of(f.TaskActionData), _fence_task, _fenced),
    "task.suspend": Question(_WRITE, _of(f.TaskSuspendData), _suspend_task, _suspended),
    "task.fulfill": Question(_WRITE, _of(f.TaskActionData), _fulfill_task, _promise),
    "task.release": Question(_WRITE, _of(f.TaskVersionData), _release_task, _empty),
    "task.heartbeat": Question(_WRITE, _of(f.TaskHeartbeatData), _renew_tasks, _empty),
    "task.halt": Question(_WRITE, _of(f.ById), _halt_task, _empty),
    "task.continue": Question(_WRITE, _of(f.ById), _continue_task, _empty),
    "schedule.create": Question(_WRITE, _of(f.ScheduleCreateData), _create_schedule, _schedule),
    "schedule.get": Question(_READ, _of(f.ById), _read_schedule, _schedule),
    "schedule.delete": Question(_WRITE, _of(f.ById), _delete_schedule, _empty),
}
"""The operations that ask one thing, by kind."""
