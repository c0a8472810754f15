"""What groups ask each other before they carry out something that is about promises of both."""

from troth.core.codes import Code
from troth.core.commands import CheckFence, CountAwaiting, JudgeInUse
from troth.core.deciding import DecisionContext
from troth.core.limits import FENCE_PASS_MS
from troth.core.model import PENDING
from troth.core.replies import Reply
from troth.core.workflow_commands import CheckWorkflowFence, JudgeAwaited

from .deletions import is_in_use_here
from .workflow_views import guard_until, is_full


def check_fence(context: DecisionContext, command: CheckFence, now_ms: int) -> Reply:
    """Judge the fence of a request of the REST API."""
    end = context.end_of_hold(command.fence, now_ms)
    if end is None:
        return Reply(Code.TASK_FENCED)
    return Reply(Code.OK, count=min(end - now_ms, FENCE_PASS_MS))


def check_workflow_fence(
    context: DecisionContext, command: CheckWorkflowFence, now_ms: int
) -> Reply:
    """Judge the fence of a request of the envelope protocol."""
    code, end = guard_until(context, command.fence, now_ms)
    return Reply(code, count=min(end - now_ms, FENCE_PASS_MS))


def judge_awaited(context: DecisionContext, command: JudgeAwaited, now_ms: int) -> Reply:
    """Judge the promises that a task of another group is about to wait for."""
    limit_count = context.options.waiting_limit_count
    codes = []
    for promise_id in command.ids:
        promise = context.promise(promise_id, now_ms)
        if promise is None:
            codes.append(Code.AWAITED_NOT_FOUND)
        elif promise.state is not PENDING:
            codes.append(Code.AWAITED_SETTLED)
        elif is_full(context, promise_id, command.awaiter, limit_count):
            codes.append(Code.TOO_MANY_WAITING)
        else:
            codes.append(Code.OK)
    return Reply(Code.OK, codes=tuple(codes))


def count_awaiting(context: DecisionContext, command: CountAwaiting, now_ms: int) -> Reply:
    """Say whether an unfinished task here is about a promise."""
    return Reply(Code.OK, count=int(context.awaits(command.promise_id)))


def judge_in_use(context: DecisionContext, command: JudgeInUse, now_ms: int) -> Reply:
    """Say which promises something unfinished here is about."""
    return Reply(
        Code.OK,
        codes=tuple(
            Code.PROMISE_IN_USE if is_in_use_here(context, promise_id) else Code.OK
            for promise_id in command.ids
        ),
    )
