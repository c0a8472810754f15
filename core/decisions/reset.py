"""Taking everything out of a shard, with the same records that delete single entities.

For tests of the envelope protocol (`debug.reset`): unlike what retention deletes, ids that come
back begin at version 0.
"""

from troth.core import records as r
from troth.core.codes import Code
from troth.core.deciding import DecisionContext
from troth.core.grammar.patterns import Pattern
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import INTEGER_MAX
from troth.core.model import EMPTY_VALUE, PENDING, PromiseState
from troth.core.replies import Reply
from troth.core.state.cold import Query
from troth.core.workflow_commands import ResetShard

from .completions import carry_on

_PAGE_COUNT = 1_000


def reset_shard(context: DecisionContext, command: ResetShard, now_ms: int) -> Reply:
    """End and delete all promises with their tasks; delete schedules and locks."""
    state = context.state
    for promise_id in list(state.completions):
        while promise_id in state.completions:
            carry_on(context, promise_id)
    for promise in list(state.promises.values()):
        if promise.state is PENDING:
            end = PromiseState.REJECTED_CANCELED
            context.emit(r.PromiseCompleted(promise.id, end, EMPTY_VALUE, None, now_ms, now_ms))
    for schedule_id in list(state.schedules):
        context.emit(r.ScheduleDeleted(schedule_id))
    for resource_id in list(state.locks):
        context.emit(r.LockReleased(resource_id))
    ids = dict.fromkeys(state.promises)
    before: int | None = INTEGER_MAX
    while before is not None:
        query = Query(Pattern("*"), FINAL_STATES, {}, _PAGE_COUNT, before, _PAGE_COUNT)
        found = state.cold.search(query)
        ids |= dict.fromkeys(one.id for one in found.promises)
        before = found.next_before
    gone = [name for name in ids if state.find_promise(name) is not None]
    tasks = [task.id for task in state.tasks.values() if task.is_final]
    if gone or tasks:
        context.emit(r.PromisesDeleted(gone, tasks, 0, now_ms))
    return Reply(Code.OK, count=len(gone))
