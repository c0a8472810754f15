"""What the commands about executions do: create, read, find, assign, report, end.

An execution is a reserved promise with an invoke task and, while it is pending, an `Execution`
(`executions.py`). The node holds its task's lease. A report about an execution is accepted only
from the holder, with the counter it was given.
"""

from troth.core import records as r
from troth.core.catalog import EXECUTION_PREFIX, RESERVED_PREFIX
from troth.core.codes import Code
from troth.core.commands import (
    EXECUTION_TIMER,
    AssignExecution,
    CancelExecution,
    CreateExecution,
    FinishExecution,
    ListUsage,
    ReadExecution,
    ReportExecution,
    ReturnExecution,
    SearchExecutions,
)
from troth.core.deciding import DecisionContext
from troth.core.executions import (
    ACCOUNT_TAG,
    ERROR_KEY,
    FUNCTION_TAG,
    NODE_KEY,
    STATUS_KEY,
    Execution,
    receiver_of,
)
from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.lifecycles import TaskEvent
from troth.core.limits import saturating_add
from troth.core.model import EMPTY_VALUE, Promise, PromiseState, Task, TaskState, Value, replace
from troth.core.replies import ExecutionPage, Reply
from troth.core.state.activity import AttemptOutcome
from troth.core.state.cold import Query

from .promises import find, keys_match
from .tasks import judge

CANCELED_TEXT = "the task was canceled"
_ANY = Pattern("*")
_ALL_STATES = tuple(PromiseState)

Holding = AssignExecution | ReportExecution | ReturnExecution | FinishExecution


def process_of(node_id: str) -> str:
    """Return the name under which a node holds tasks; no client's heartbeat renews such a lease."""
    return f"{RESERVED_PREFIX}node/{node_id}"


def create_execution(context: DecisionContext, command: CreateExecution, now_ms: int) -> Reply:
    """Create an execution, or answer the existing one if the idempotency keys match."""
    assert command.id.startswith(EXECUTION_PREFIX), "function tasks have names of their own"
    existing = context.promise(command.id, now_ms)
    if existing is not None:
        if not keys_match(existing.key_for_create, command.idempotency_key):
            return Reply(Code.PROMISE_EXISTS)
        execution = context.state.executions.get(command.id)
        return Reply(Code.OK, promise=existing, execution=execution)
    plan = command.plan
    context.emit(
        r.PromiseCreated(
            command.id,
            context.next_serial(),
            command.timeout,
            now_ms,
            command.param,
            {FUNCTION_TAG: plan.function_id, ACCOUNT_TAG: plan.account_id},
            command.idempotency_key,
            command.trace,
            r.TaskSeed(receiver_of(plan)),
        )
    )
    context.emit(r.ExecutionCreated(command.id, plan, now_ms))
    return Reply(
        Code.CREATED,
        promise=context.state.promises[command.id],
        execution=context.state.executions[command.id],
    )


def read_execution(context: DecisionContext, command: ReadExecution, now_ms: int) -> Reply:
    """Read an execution, finished or not."""
    promise = _promise(context, command.id, now_ms)
    if promise is None:
        return Reply(Code.EXECUTION_NOT_FOUND)
    return Reply(Code.OK, promise=promise, execution=context.state.executions.get(command.id))


def _promise(context: DecisionContext, promise_id: str, now_ms: int) -> Promise | None:
    """Return the promise of an execution as it is now, or None if there is none."""
    if not promise_id.startswith(EXECUTION_PREFIX):
        return None
    return context.promise(promise_id, now_ms)


def search_executions(context: DecisionContext, command: SearchExecutions, now_ms: int) -> Reply:
    """Return one page of an account's executions in this shard, newest first."""
    tags = {ACCOUNT_TAG: command.account_id}
    if command.function_id is not None:
        tags = {FUNCTION_TAG: command.function_id, **tags}  # the first is looked up in the index
    query = Query(
        _ANY,
        _ALL_STATES,
        tags,
        command.limit_count,
        command.before_serial,
        command.scan_count,
        reserved=True,
    )
    found = find(context, query, now_ms)
    executions = context.state.executions
    rows = [(_without_data(one), executions.get(one.id)) for one in found.promises]
    return Reply(Code.OK, executions=ExecutionPage(tuple(rows), found.next_before))


def _without_data(promise: Promise) -> Promise:
    return replace(promise, param=EMPTY_VALUE, value=Value(promise.value.headers))


def list_usage(context: DecisionContext, command: ListUsage, now_ms: int) -> Reply:
    """Return how often the functions of an account were run, as far as this shard knows."""
    account_id = command.account_id
    usage = context.state.usage.values()
    return Reply(
        Code.OK,
        usage=tuple(one for one in usage if account_id is None or one.account_id == account_id),
    )


# What nodes say


def assign_execution(context: DecisionContext, command: AssignExecution, now_ms: int) -> Reply:
    """Give an execution to a node. A node that asks again for what it holds is told again."""
    held = _held(context, command, now_ms)
    if not isinstance(held, Code):
        promise, execution, held_task = held
        return Reply(Code.OK, promise=promise, execution=execution, task=held_task.copy())
    if held is not Code.EXECUTION_NOT_HELD:
        return Reply(held)
    task, code, changes = judge(context, command.id, command.counter, TaskEvent.CLAIM, now_ms)
    if task is None or not changes:
        return Reply(code)
    expires_at = saturating_add(now_ms, command.ttl)
    process_id = process_of(command.node_id)
    context.emit(r.TaskClaimed(command.id, process_id, command.ttl, expires_at))
    context.emit(r.ExecutionAssigned(task.root_id, command.node_id, now_ms))
    return Reply(
        Code.CREATED,
        promise=context.state.promises[task.root_id],
        execution=context.state.executions[task.root_id],
        task=task.copy(),
    )


def _held(
    context: DecisionContext, command: Holding, now_ms: int
) -> tuple[Promise, Execution, Task] | Code:
    """Return the execution if the node holds it as it says, else why not.

    EXECUTION_NOT_HELD says that it is unfinished; another node may hold it, or none.
    """
    name = task_ids.parse(command.id)
    if name is None or command.id != task_ids.invoke_id(name.root):
        return Code.EXECUTION_NOT_FOUND
    promise = _promise(context, name.root, now_ms)
    task = context.task(command.id, now_ms)
    if promise is None or task is None:
        return Code.EXECUTION_NOT_FOUND
    execution = context.state.executions.get(name.root)
    if execution is None:
        return Code.EXECUTION_FINISHED
    if (
        task.state is not TaskState.CLAIMED
        or task.counter != command.counter
        or execution.node_id != command.node_id
    ):
        return Code.EXECUTION_NOT_HELD
    return promise, execution, task


def report_execution(context: DecisionContext, command: ReportExecution, now_ms: int) -> Reply:
    """Renew the lease of a node that still works on an execution, and note how far it is."""
    held = _held(context, command, now_ms)
    if isinstance(held, Code):
        return Reply(held)
    promise, execution, _ = held
    progress = None if command.progress == execution.progress else command.progress
    context.emit(r.ExecutionReported(promise.id, now_ms, progress))
    return Reply(Code.OK, promise=promise, execution=context.state.executions[promise.id])


def return_execution(context: DecisionContext, command: ReturnExecution, now_ms: int) -> Reply:
    """Take an execution back from a node that will not do it; it goes out again."""
    held = _held(context, command, now_ms)
    if isinstance(held, Code):
        return Reply(held)
    promise, execution, task = held
    context.emit(r.ExecutionReturned(promise.id, now_ms))
    context.release_task(task, AttemptOutcome.RELEASED, now_ms)
    return Reply(Code.NO_CONTENT, promise=promise, execution=execution)


def finish_execution(context: DecisionContext, command: FinishExecution, now_ms: int) -> Reply:
    """Take the result of the node that holds an execution; the same one again is fine."""
    held = _held(context, command, now_ms)
    if held is Code.EXECUTION_FINISHED:
        return _finished_before(context, command)
    if isinstance(held, Code):
        return Reply(held)
    promise, execution, _ = held
    return _end(context, promise, execution, command.state, command.value, now_ms)


def _finished_before(context: DecisionContext, command: FinishExecution) -> Reply:
    """Return OK if the known result is this one, from this node and this counter."""
    task = context.state.find_task(command.id)
    assert task is not None, "a function task has an invoke task"
    promise = context.state.find_promise(task.root_id)
    assert promise is not None, "a task of a function task has a root"
    headers = promise.value.headers or {}
    given = {**(command.value.headers or {}), NODE_KEY: command.node_id}
    if (
        task.counter == command.counter
        and promise.state is command.state
        and promise.value.data == command.value.data
        and given.items() <= headers.items()
    ):
        return Reply(Code.OK, promise=promise)
    return Reply(Code.EXECUTION_FINISHED)


def cancel_execution(context: DecisionContext, command: CancelExecution, now_ms: int) -> Reply:
    """End an execution that is not finished; canceling it again is fine."""
    promise = _promise(context, command.id, now_ms)
    if promise is None:
        return Reply(Code.EXECUTION_NOT_FOUND)
    execution = context.state.executions.get(command.id)
    if execution is not None:
        value = Value({STATUS_KEY: "410", ERROR_KEY: CANCELED_TEXT})
        return _end(context, promise, execution, PromiseState.REJECTED_CANCELED, value, now_ms)
    if promise.state is PromiseState.REJECTED_CANCELED:
        return Reply(Code.OK, promise=promise)
    return Reply(Code.EXECUTION_FINISHED)


def _end(
    context: DecisionContext,
    promise: Promise,
    execution: Execution,
    state: PromiseState,
    value: Value,
    now_ms: int,
) -> Reply:
    """Complete the promise; the reply has the execution as it was before."""
    completed_on = max(now_ms, promise.created_on)
    completed = context.complete(
        r.PromiseCompleted(promise.id, state, value, None, completed_on, now_ms)
    )
    return Reply(Code.CREATED, promise=completed, execution=execution)


def expire_execution(context: DecisionContext, promise_id: str, now_ms: int) -> None:
    """Handle the execution's timer: settle the execution, which does the rest."""
    context.promise(promise_id, now_ms)
    execution = context.state.executions.get(promise_id)
    if execution is not None:
        ends_on = context.state.end_of_execution(execution)
        if ends_on is not None and ends_on > now_ms:
            context.state.timers.append(((EXECUTION_TIMER, promise_id), ends_on))
