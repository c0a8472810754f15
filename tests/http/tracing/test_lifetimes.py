"""What spans there are, how long they take and how they hang together, on a simulated clock."""

from typing import Any

import pytest

from troth.core.catalog import Capabilities, FunctionKind, Language
from troth.core.codes import Code
from troth.core.commands import (
    PROMISE_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    AssignExecution,
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateExecution,
    CreatePromise,
    CreateSchedule,
    DropTask,
    Expire,
    FinishExecution,
    HeartbeatTasks,
)
from troth.core.executions import STATUS_KEY, ExecutionPlan
from troth.core.model import EMPTY_VALUE, ClaimRequest, PromiseState, Trace, Value
from troth.core.replies import TaskMessage
from troth.core.workflow_commands import AcquireWorkflow, ReleaseWorkflow, SuspendWorkflow
from troth.http.executions.calls import SERVER_NODE_ID
from troth.http.tracing.contexts import parse
from troth.http.tracing.spans import FinishedSpan, SpanKind

from .world import START_MS, TracedWorld

STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
TRACE = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", STATE)
CREATION = parse(TRACE.traceparent, STATE)
UNSAMPLED = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", STATE)
INVOKE = "__invoke:p"
FUNCTION = Value(None, "eyJmdW5jIjoicGF5IiwiYXJncyI6WyJzZWNyZXQiXX0=")


def create(world: TracedWorld, trace: Trace | None = TRACE, **more: Any) -> None:
    """Create the promise `p`, with an invoke task."""
    asked = {
        "id": "p",
        "timeout": START_MS + 1_000_000,
        "param": FUNCTION,
        "tags": {"resonate:invoke": "poll://g", "shop": "north", "card": "1234"},
        "trace": trace,
    }
    world.step(CreatePromise(**{**asked, **more}))


def complete(world: TracedWorld, state: PromiseState = PromiseState.RESOLVED) -> None:
    """Complete the promise `p`."""
    world.step(CompletePromise("p", state, Value(None, "c2VjcmV0"), None, strict=False))


def duration_ms(span: FinishedSpan) -> float:
    return (span.end_ns - span.start_ns) / 1e6


def test_durations_on_simulated_clock() -> None:
    """Each span takes exactly as long as what it describes, and hangs where it belongs."""
    world = TracedWorld(tags=("shop",))
    create(world)
    world.after(3)
    world.report()
    world.after(20)
    world.step(ClaimTask(INVOKE, 1, "w1", 1_000))
    world.after(900)
    world.step(HeartbeatTasks("w1"))
    world.after(600)
    world.step(CompleteTask(INVOKE, 1))
    world.after(5_000)
    complete(world)

    (sent, sending, said_of_sending), (attempt, tried, said), (promise, life, told) = world.spans()

    assert (sent, sending.kind) == ("send poll://g", SpanKind.PRODUCER)
    assert (duration_ms(sending), said_of_sending["troth.result"]) == (3, "sent")
    assert (attempt, tried.kind) == ("attempt", SpanKind.CONSUMER)
    assert (duration_ms(tried), said["troth.outcome"], said["troth.attempt"]) == (
        1_500,
        "completed",
        1,
    )
    assert (promise, life.kind, duration_ms(life)) == ("promise pay", SpanKind.INTERNAL, 6_523)
    assert life.start_ns == START_MS * 1_000_000
    assert told["troth.tag.shop"] == "north"
    assert CREATION is not None
    assert sending.parent_id == life.parent_id == CREATION.span_id
    assert tried.parent_id == sending.context.span_id
    assert world.trace_of_last() == sending.context.trace(), "workers' spans hang below it"
    assert {one.context.trace_id for one in (sending, tried, life)} == {CREATION.trace_id}


@pytest.mark.parametrize(
    ("end", "outcome", "is_error"),
    [
        (lambda world: world.step(CompleteTask(INVOKE, 1)), "completed", False),
        (lambda world: world.step(DropTask(INVOKE, 1)), "dropped", False),
        (complete, "completed", False),
        (
            lambda world: (world.after(1_000), world.step(Expire(TASK_TIMER, INVOKE))),
            "expired",
            True,
        ),
    ],
)
def test_an_attempt_says_how_it_ended(end: Any, outcome: str, is_error: bool) -> None:
    world = TracedWorld()
    create(world)
    world.report()
    world.step(ClaimTask(INVOKE, 1, "w1", 1_000))
    end(world)

    attempts = [(span, said) for name, span, said in world.spans() if name == "attempt"]

    assert [said["troth.outcome"] for _, said in attempts] == [outcome]
    assert [span.error is not None for span, _ in attempts] == [is_error]


def test_a_promise_says_how_it_ended() -> None:
    for state in (PromiseState.RESOLVED, PromiseState.REJECTED, PromiseState.REJECTED_CANCELED):
        world = TracedWorld()
        create(world, tags=None)
        complete(world, state)
        ((_, span, said),) = world.spans()
        assert said["troth.promise.state"] == state
        assert (span.error is None) == (state is PromiseState.RESOLVED)

    world = TracedWorld()
    create(world, tags=None, timeout=START_MS + 50)
    world.after(70)
    world.step(Expire(PROMISE_TIMER, "p"))
    ((_, span, said),) = world.spans()
    assert (said["troth.completed_by"], span.error) == ("timeout", "REJECTED_TIMEDOUT")
    assert duration_ms(span) == 50


def test_a_message_that_cannot_be_sent_is_tried_in_spans_of_their_own() -> None:
    world = TracedWorld(targets={"hook": "https://user:secret@example.com/in?key=secret"})
    create(world, tags={"resonate:invoke": "hook"})
    world.report(was_sent=False)

    ((name, span, said),) = world.spans()

    assert name == "send https://example.com:443/in"
    assert (span.kind, span.error, said["troth.result"]) == (
        SpanKind.CLIENT,
        "not sent",
        "failed",
    )


def test_a_task_that_is_born_claimed_hangs_below_its_creation() -> None:
    world = TracedWorld()
    create(world, claim=ClaimRequest("w1", 1_000))
    world.after(10)
    world.step(CompleteTask(INVOKE, 1))

    ((name, span, _),) = world.spans()

    assert CREATION is not None
    assert (name, span.parent_id, duration_ms(span)) == ("attempt", CREATION.span_id, 10)


def test_workflow_tasks_have_attempts_too() -> None:
    world = TracedWorld()
    create(world, tags={"resonate:target": "poll://any@g"})
    world.report()
    world.step(AcquireWorkflow("p", 0, "w1", 1_000, None))
    world.after(30)
    world.step(ReleaseWorkflow("p", 1))
    create(world, id="q", tags=None)
    world.report()
    world.step(AcquireWorkflow("p", 1, "w2", 1_000, None))
    world.after(40)
    world.step(SuspendWorkflow("p", 2, ("q",)))

    spans = world.spans()
    attempts = [(span, said) for name, span, said in spans if name == "attempt"]
    sendings = [span for name, span, _ in spans if name.startswith("send")]

    assert [said["troth.outcome"] for _, said in attempts] == ["released", "suspended"]
    assert [duration_ms(span) for span, _ in attempts] == [30, 40]
    assert [span.parent_id for span, _ in attempts] == [one.context.span_id for one in sendings]


@pytest.mark.parametrize(("status", "error"), [(201, None), (404, "HTTP 404"), (502, "HTTP 502")])
@pytest.mark.parametrize("is_call", [True, False])
def test_function_tasks_say_what_http_clients_say(
    *, is_call: bool, status: int, error: str | None
) -> None:
    """Names and values of OpenTelemetry's conventions; neither user, query nor body."""
    world = TracedWorld()
    http, code = FunctionKind.HTTP, FunctionKind.CODE
    url = "https://user:secret@pay.example:8443/charge?key=secret"
    plan = ExecutionPlan("a1", "f1", http if is_call else code, Capabilities(), url=url)
    if not is_call:
        plan = ExecutionPlan("a1", "f1", code, Capabilities(), Language.PYTHON, "b1")
    task, lease_id, node = (
        "troth:task/1",
        "__invoke:troth:task/1",
        "1f5a" if not is_call else SERVER_NODE_ID,
    )
    asked = Value({"method": "PUT", "query": "secret=1", "headers": "[]"}, "c2VjcmV0")
    world.step(CreateExecution(task, START_MS + 1_000_000, plan, asked, trace=TRACE))
    world.after(5)
    assert world.step(AssignExecution(lease_id, 1, node, 10_000)).code is Code.CREATED
    world.after(25)
    result = Value({STATUS_KEY: str(status)}, "c2VjcmV0")
    state = PromiseState.RESOLVED if status < 500 else PromiseState.REJECTED
    assert world.step(FinishExecution(lease_id, 1, node, state, result)).code is Code.CREATED

    (name, span, said), *_ = [one for one in world.spans() if "function" in one[0]]
    assert name == ("call function" if is_call else "run function task")
    assert (span.kind, span.error) == (SpanKind.CLIENT, error)
    assert duration_ms(span) == 25
    assert CREATION is not None
    assert span.parent_id == CREATION.span_id
    expected = {
        "http.request.method": "PUT",
        "http.response.status_code": status,
        "error.type": None if error is None else str(status),
        "troth.function": "f1",
        "server.address": "pay.example" if is_call else None,
        "server.port": 8443 if is_call else None,
        "url.full": "https://pay.example:8443/charge" if is_call else None,
    }
    assert {key: said.get(key) for key in expected} == expected
    assert "secret" not in str(said)


def test_a_schedule_begins_a_trace_whose_ids_come_from_the_slot() -> None:
    """A run that a crash repeats is the same span again, and what it makes hangs below it."""
    seen = []
    for _ in range(2):
        world = TracedWorld()
        world.step(CreateSchedule("s", "* * * * *", "run.{{.timestamp}}", 10_000))
        due = world.machine.state.schedules["s"].next_run_time
        assert due is not None
        world.now_ms = due + 40
        world.step(Expire(SCHEDULE_TIMER, "s"))
        ((name, span, said),) = world.spans()
        assert (name, span.kind, span.parent_id) == ("schedule fire", SpanKind.INTERNAL, None)
        assert said["troth.lateness_ms"] == duration_ms(span) == 40
        assert said["troth.schedule.slot"] == due
        made = world.machine.state.promises[f"run.{due}"]
        assert made.trace == span.context.trace()
        seen.append(span.context)

    assert seen[0] == seen[1]


def test_tracestate_untouched() -> None:
    """It goes through to the worker and into every span, whatever is in it."""
    world = TracedWorld()
    strange = "a=" + "x" * 200 + ",,b=1 ,c==="
    create(world, trace=Trace(TRACE.traceparent, strange))
    world.report()
    complete(world)

    assert world.trace_of_last().tracestate == strange
    assert {span.context.tracestate for _, span, _ in world.spans()} == {strange}


@pytest.mark.parametrize("trace", [None, UNSAMPLED, Trace("nonsense")])
def test_what_is_not_sampled_passes_untouched(trace: Trace | None) -> None:
    world = TracedWorld()
    create(world, trace=trace)
    world.report()
    world.step(ClaimTask(INVOKE, 1, "w1", 1_000))
    complete(world)

    assert world.spans() == []
    (message,) = world.messages
    assert isinstance(message, TaskMessage)
    assert message.task.trace == trace


def test_ids_can_be_left_out() -> None:
    world = TracedWorld(shows_ids=False)
    create(world, id="confidential", param=EMPTY_VALUE)
    world.report()
    world.step(ClaimTask("__invoke:confidential", 1, "w1", 1_000))
    world.step(CompletePromise("confidential", PromiseState.RESOLVED, EMPTY_VALUE, None, False))

    shown = [(name, said) for name, _, said in world.spans()]

    assert len(shown) == 3
    assert "confidential" not in str(shown)


def test_too_many_spans_are_dropped_and_counted() -> None:
    world = TracedWorld()
    for number in range(9_000):
        create(world, id=f"p{number}", tags=None)
        world.step(CompletePromise(f"p{number}", PromiseState.RESOLVED, EMPTY_VALUE, None, False))

    assert len(world.spans()) == 8_192
    assert world.tracing.queue.statistics().spans == {"sent": 0, "failed": 0, "dropped": 808}
