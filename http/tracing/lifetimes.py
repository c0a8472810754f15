"""Spans of what takes long: the life of a promise, an attempt at a task, the firing of a schedule.

They are made of records, when what they describe has ended: no span is open before that, so a crash
loses none that another one hangs below. Only records of the running server are heard, never those
of a replay, so nothing is told twice. An attempt that began before the server's start has no span,
since it is not stored when it began; the life of a promise has one however old it is, since its two
times are stored with it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
from msgspec import Struct

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.catalog import EXECUTION_PREFIX, FunctionKind
from troth.core.executions import FUNCTION_TAG, METHOD_KEY, STATUS_KEY, ExecutionPlan
from troth.core.failures import FailureKind, Failures
from troth.core.grammar import task_ids
from troth.core.model import PENDING, RESOLVED, Promise, PromiseState
from troth.core.state.shard_state import ShardState
from troth.core.workflows import execute_key, workflow_of
from troth.http.wire.function_names import function_name

from .contexts import Ids, SpanContext, sampled_context
from .requests import RequestSpans
from .sendings import TracedOutgoing
from .spans import Attributes, FinishedSpan, SpanKind, SpanQueue

ATTEMPTS_LIMIT_COUNT: Final = 100_000
"""Attempts of sampled traces that may be under way; of more the oldest have no span."""
NS_PER_MS: Final = 1_000_000
_FIRST_REFUSAL: Final = 400
_PORTS: Final = {"http": 80, "https": 443}


class Attempt(Struct, eq=False, gc=False):
    """A claimed task: since when, by whom, at which counter, and the span that it hangs below.

    Of a function task, `plan` is what is run, `asked` and `answered` the headers of its promise's
    request and result, as they are stored.
    """

    parent: SpanContext
    start_ns: int
    process_id: str
    number: int
    promise_id: str
    plan: ExecutionPlan | None = None
    asked: Mapping[str, str] | None = None
    answered: Mapping[str, str] | None = None

    @property
    def status(self) -> int | None:
        """Return the HTTP status of a function's result; None if there is none."""
        text = (self.answered or {}).get(STATUS_KEY, "")
        return int(text) if text.isdecimal() else None


class Lifetimes:
    """The listener to the records of all shards. `failures` are those that the shards note."""

    def __init__(
        self,
        queue: SpanQueue,
        ids: Ids,
        requests: RequestSpans,
        sendings: TracedOutgoing,
        failures: Failures,
        *,
        now_ns: Callable[[], int],
        finder: Callable[[str], Promise | None],
        tags: tuple[str, ...] = (),
        shows_ids: bool = True,
    ) -> None:
        """Initialize. `finder` returns a promise that is in memory, by its id.

        `tags` are the names of tags that spans of promises show.
        """
        self._queue = queue
        self._ids = ids
        self._requests = requests
        self._sendings = sendings
        self._failures = failures
        self._now_ns = now_ns
        self._tags = tags
        self._shows_ids = shows_ids
        self._attempts: dict[str, Attempt] = {}
        self._keys_of: dict[str, set[str]] = {}  # of a promise's attempts
        self._leases_seen_number = failures.last_number
        self._finder = finder
        self._acts: Mapping[type[Any], Callable[[Any, ShardState], None]] = {
            r.PromiseCreated: self._created,
            r.PromiseCompleted: self._completed,
            r.CompletionBegun: self._completed,
            r.TaskClaimed: self._claimed,
            r.TaskReleased: self._released,
            r.TaskCompleted: lambda record, _: self._end(record.id, "completed"),
            r.TaskTimedOut: lambda record, _: self._end(record.id, "timed out"),
            r.ScheduleFired: self._fired,
            w.WorkflowCreated: self._workflow_created,
            w.WorkflowAcquired: self._acquired,
            w.WorkflowReleased: self._workflow_released,
            w.WorkflowSuspended: lambda record, _: self._end_workflow(record.id, "suspended"),
            w.WorkflowHalted: lambda record, _: self._end_workflow(record.id, "halted"),
        }

    def hear(self, record: r.Record, state: ShardState) -> None:
        """Note what has become true; `state` is that of its shard, after it."""
        act = self._acts.get(type(record))
        if act is not None:
            act(record, state)

    def context_of_task(self, key: str) -> SpanContext | None:
        """Return where spans of a task's holder hang, by the key of its message.

        That is the message, or if none is remembered, the creation of the task's promise; None for
        what is not traced.
        """
        attempt = self._attempts.get(key)
        context = self._sendings.context_of(key) if attempt is None else attempt.parent
        if context is not None:
            return context
        root = self._finder(workflow_of(key) or task_ids.home(key))
        return sampled_context(None if root is None else root.trace)

    # Promises

    def _created(self, record: r.PromiseCreated, _: ShardState) -> None:
        if record.trace is None:
            return
        self._requests.stepped(record.id)
        if record.task is not None and record.task.process_id is not None:
            context = sampled_context(record.trace)
            if context is not None:
                task_id = task_ids.invoke_id(record.id)
                self._begin(task_id, context, record.task.process_id, 1, record.id)

    def _workflow_created(self, record: w.WorkflowCreated, _: ShardState) -> None:
        if record.trace is None:
            return
        self._requests.stepped(record.id)
        context = sampled_context(record.trace)
        if context is not None and record.seed.lease is not None:
            self._begin(execute_key(record.id), context, record.seed.lease.pid, 1, record.id)

    def _completed(self, record: r.PromiseCompleted | r.CompletionBegun, state: ShardState) -> None:
        promise = state.promises[record.id]
        asked = self._requests.stepped(record.id)
        context = sampled_context(promise.trace)
        if context is None:
            return
        for key in list(self._keys_of.get(record.id, ())):
            self._attempts[key].answered = promise.value.headers
            self._end(key, "completed")
        self._sendings.forget(task_ids.invoke_id(record.id))
        self._sendings.forget(execute_key(record.id))
        is_late = promise.completed_on == promise.timeout and (
            record.state is promise.timed_out_state and record.key_for_complete is None
        )
        by = "timeout" if is_late and asked is None else "client"
        has_failed = record.state not in (RESOLVED, PENDING)
        self._add(
            context,
            SpanKind.INTERNAL,
            promise.created_on * NS_PER_MS,
            promise.ended_on * NS_PER_MS,
            self._promise,
            # Not what its payload says: that may be long, and the thread may be late.
            (promise.id, _function_of(promise), promise.tags, record.state, by),
            error=record.state.value if has_failed else None,
        )

    def _promise(
        self,
        promise_id: str,
        function: str | None,
        tags: Mapping[str, str] | None,
        state: PromiseState,
        by: str,
    ) -> tuple[str, Attributes]:
        made: Attributes = {"troth.promise.state": state.value, "troth.completed_by": by}
        if self._shows_ids:
            made["troth.promise.id"] = promise_id
        if function is not None:
            made["troth.function"] = function
        for name in self._tags:
            if tags is not None and name in tags:
                made[f"troth.tag.{name}"] = tags[name]
        return f"promise {function}" if function else "promise", made

    # Attempts

    def _claimed(self, record: r.TaskClaimed, state: ShardState) -> None:
        task = state.tasks[record.id]
        running = self._attempts.get(record.id)
        if running is not None and running.number == task.counter:
            return  # its lease was renewed
        self._requests.stepped(task.root_id)
        parent = self._sendings.context_of(record.id)
        if parent is None:
            root = state.promises.get(task.root_id)
            parent = sampled_context(None if root is None else root.trace)
        if parent is None:
            parent = sampled_context(task.trace)
        if parent is not None:
            self._begin(record.id, parent, record.process_id, task.counter, task.root_id)
            execution = state.executions.get(task.root_id)
            if execution is not None:
                attempt = self._attempts[record.id]
                attempt.plan = execution.plan
                attempt.asked = state.promises[task.root_id].param.headers

    def _released(self, record: r.TaskReleased, _: ShardState) -> None:
        lapsed = self._failures.last_of(FailureKind.LEASE)
        has_lapsed = lapsed is not None and (
            lapsed.number > self._leases_seen_number and lapsed.subject == record.id
        )
        if lapsed is not None:
            self._leases_seen_number = lapsed.number
        self._end(record.id, "expired" if has_lapsed else "dropped")

    def _acquired(self, record: w.WorkflowAcquired, state: ShardState) -> None:
        self._requests.stepped(record.id)
        key = execute_key(record.id)
        parent = self._sendings.context_of(key)
        if parent is None:
            parent = sampled_context(state.promises[record.id].trace)
        if parent is not None:
            version = state.workflows[record.id].version
            self._begin(key, parent, record.lease.pid, version, record.id)

    def _workflow_released(self, record: w.WorkflowReleased, _: ShardState) -> None:
        self._end_workflow(record.id, "expired" if record.has_expired else "released")

    def _begin(
        self, key: str, parent: SpanContext, process_id: str, number: int, promise_id: str
    ) -> None:
        if len(self._attempts) >= ATTEMPTS_LIMIT_COUNT:
            self._drop(next(iter(self._attempts)))
        self._keys_of.setdefault(promise_id, set()).add(key)
        self._attempts[key] = Attempt(parent, self._now_ns(), process_id, number, promise_id)

    def _end_workflow(self, workflow_id: str, outcome: str) -> None:
        self._end(execute_key(workflow_id), outcome)

    def _end(self, key: str, outcome: str) -> None:
        attempt = self._drop(key)
        if attempt is None:
            return
        is_execution = attempt.promise_id.startswith(EXECUTION_PREFIX)
        error = "the lease ran out" if outcome == "expired" else None
        if attempt.status is not None and attempt.status >= _FIRST_REFUSAL:
            error = f"HTTP {attempt.status}"
        self._add(
            attempt.parent,
            SpanKind.CLIENT if is_execution else SpanKind.CONSUMER,
            attempt.start_ns,
            self._now_ns(),
            self._attempt,
            (attempt, outcome),
            error=error,
        )

    def _drop(self, key: str) -> Attempt | None:
        """Forget an attempt; return it, if it was remembered."""
        attempt = self._attempts.pop(key, None)
        if attempt is not None:
            keys = self._keys_of[attempt.promise_id]
            keys.discard(key)
            if not keys:
                del self._keys_of[attempt.promise_id]
        return attempt

    def _attempt(self, attempt: Attempt, outcome: str) -> tuple[str, Attributes]:
        made: Attributes = {
            "troth.process.id": attempt.process_id,
            "troth.attempt": attempt.number,
            "troth.outcome": outcome,
        }
        if self._shows_ids:
            made["troth.promise.id"] = attempt.promise_id
        if not attempt.promise_id.startswith(EXECUTION_PREFIX):
            return "attempt", made
        made |= _of_function(attempt)
        is_call = attempt.plan is not None and attempt.plan.kind is FunctionKind.HTTP
        return "call function" if is_call else "run function task", made

    # Schedules

    def _fired(self, record: r.ScheduleFired, _: ShardState) -> None:
        context = sampled_context(record.promise.trace)
        if context is None:
            return
        span = FinishedSpan(
            context,
            None,
            SpanKind.INTERNAL,
            record.run_time * NS_PER_MS,
            max(record.at, record.run_time) * NS_PER_MS,
            self._firing,
            (record.id, record.run_time, record.at - record.run_time),
        )
        self._queue.add(span)

    def _firing(self, schedule_id: str, run_time: int, lateness_ms: int) -> tuple[str, Attributes]:
        made: Attributes = {"troth.schedule.slot": run_time, "troth.lateness_ms": lateness_ms}
        if self._shows_ids:
            made["troth.schedule.id"] = schedule_id
        return "schedule fire", made

    def _add(
        self,
        parent: SpanContext,
        kind: SpanKind,
        start_ns: int,
        end_ns: int,
        describe: Callable[..., tuple[str, Attributes]],
        about: tuple[Any, ...],
        error: str | None,
    ) -> None:
        context = parent.with_span(self._ids.span_id())
        # The clock may have been set back in between.
        end_ns = max(start_ns, end_ns)
        self._queue.add(
            FinishedSpan(context, parent.span_id, kind, start_ns, end_ns, describe, about, error)
        )


def _of_function(attempt: Attempt) -> Attributes:
    """Return what OpenTelemetry's conventions ask of an HTTP client, without any secret."""
    made: Attributes = {}
    if attempt.asked and METHOD_KEY in attempt.asked:
        made["http.request.method"] = attempt.asked[METHOD_KEY]
    if attempt.status is not None:
        made["http.response.status_code"] = attempt.status
        if attempt.status >= _FIRST_REFUSAL:
            made["error.type"] = str(attempt.status)
    if attempt.plan is None:
        return made
    made["troth.function"] = attempt.plan.function_id
    url = httpx.URL(attempt.plan.url or "")
    if url.host:
        made["server.address"] = url.host
        made["server.port"] = url.port or _PORTS.get(url.scheme, 0)
        # Neither a user nor a query: either may hold credentials.
        made["url.full"] = str(url.copy_with(userinfo=b"", query=None, fragment=None))
    return made


def _function_of(promise: Promise) -> str | None:
    """Return the function that a promise stands for, if it says so."""
    if promise.id.startswith(EXECUTION_PREFIX):
        return None if promise.tags is None else promise.tags.get(FUNCTION_TAG)
    return function_name(promise)
