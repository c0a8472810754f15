"""Deleting completed promises: what may go, and the one record that says what went.

Retention and clients delete by the same rules. A promise stays while anything unfinished is about
it: a task of any shard that it is the root or the leaf of, or a message that will become such a
task. So no worker is ever handed a task whose promise has gone in the meantime. And it stays for
its origin: a workflow that runs again reads what its children came to, and would do deleted ones a
second time (`Lineage`). For clients, it also stays while listeners are still to be told of its end;
what retention reaches is so old that they have had their time.
"""

from collections.abc import Callable, Iterable

from troth.core import records as r
from troth.core.catalog import is_reserved
from troth.core.codes import Code
from troth.core.commands import DeletePromise
from troth.core.deciding import DecisionContext
from troth.core.grammar import task_ids
from troth.core.limits import INTEGER_MAX, LINEAGE_LIMIT_COUNT
from troth.core.lineage import origin_of
from troth.core.model import PENDING, Promise
from troth.core.replies import Reply
from troth.core.state.activity import Deleter
from troth.core.state.shard_state import ShardState


def is_in_use(context: DecisionContext, promise_id: str) -> bool:
    """Return whether something unfinished is about a completed promise, so that it has to stay."""
    return _has_root_or_message(context.state, promise_id) or context.is_awaited(promise_id)


def is_in_use_here(context: DecisionContext, promise_id: str) -> bool:
    """Do as `is_in_use`, as far as this shard knows."""
    return _has_root_or_message(context.state, promise_id) or context.awaits(promise_id)


def _has_root_or_message(state: ShardState, promise_id: str) -> bool:
    return state.outbox.resumes_for(promise_id) or promise_id in state.roots


class Lineage:
    """Which promises stay because of where they come from, at one moment.

    A promise stays until that of its origin may go, which may stay because of its own, and so on up
    to one that is its own origin. An origin that is missing, or a circle, keeps nothing. What was
    found is remembered, since siblings have the same origins. `may_go` says whether an origin may,
    but for its own origin.
    """

    def __init__(self, context: DecisionContext, may_go: Callable[[Promise], bool]) -> None:
        self._context = context
        self._may_go = may_go
        self._stays: dict[str, bool] = {}

    def keeps(self, promise: Promise) -> bool:
        """Return whether a completed promise stays for its origin's sake."""
        path: list[str] = []
        stays = False
        origin_id = origin_of(promise.tags)
        while origin_id is not None and origin_id != promise.id and origin_id not in path:
            known = self._stays.get(origin_id)
            if known is not None:
                stays = known
                break
            path.append(origin_id)
            origin = self._context.neighbor(origin_id).state.find_promise(origin_id)
            if origin is None:
                break
            if len(path) > LINEAGE_LIMIT_COUNT or not self._may_go(origin):
                stays = True
                break
            promise, origin_id = origin, origin_of(origin.tags)
        self._stays.update(dict.fromkeys(path, stays))
        return stays


def delete(context: DecisionContext, ids: Iterable[str], by: Deleter, now_ms: int) -> int:
    """Delete promises that may go, with their tasks, and raise what later tasks count from.

    Returns the number of tasks that went.
    """
    gone = list(ids)
    clients_count = sum(not is_reserved(promise_id) for promise_id in gone)
    gone_tasks: list[str] = []
    counter = version = 0
    for promise_id in gone:
        promise = context.state.find_promise(promise_id)
        if promise is not None and promise.task_version is not None:
            version = max(version, promise.task_version)
        for task_id, task_counter in finished_tasks(context.state, promise_id).items():
            gone_tasks.append(task_id)
            counter = max(counter, task_counter)
    context.emit(r.PromisesDeleted(gone, gone_tasks, counter, now_ms, version))
    context.state.activity.deleted[by] += clients_count
    return len(gone_tasks)


def finished_tasks(state: ShardState, root_id: str) -> dict[str, int]:
    """Return a promise's finished tasks, in memory and not, each with its counter."""
    cold, _ = state.cold.tasks_of(root_id, b"", INTEGER_MAX)
    found = {task.id: task.counter for task in cold if task.id not in state.hidden_tasks}
    for task_id in (task_ids.invoke_id(root_id), *state.task_notes.finished(root_id)):
        task = state.tasks.get(task_id)
        if task is not None and task.is_final:
            found[task_id] = task.counter
    return found


class Wanted:
    """What has to stay of the completed promises of a shard that clients want to go."""

    def __init__(self, context: DecisionContext, now_ms: int) -> None:
        self._context = context

        def has_ended(origin: Promise) -> bool:
            return origin.state is not PENDING or origin.timeout <= now_ms

        self._lineage = Lineage(context, has_ended)

    def refusal(self, promise: Promise) -> Code | None:
        """Return why a promise has to stay for now, or None if it may go."""
        if promise.state is PENDING:
            return Code.PROMISE_PENDING
        context = self._context
        if promise.id in context.state.unblocks or is_in_use(context, promise.id):
            return Code.PROMISE_IN_USE
        if self._lineage.keeps(promise):
            return Code.ORIGIN_PENDING
        return None


def delete_promise(context: DecisionContext, command: DeletePromise, now_ms: int) -> Reply:
    """Delete a completed promise for good, because a client wants it to go."""
    promise = context.promise(command.id, now_ms)
    if promise is None:
        return Reply(Code.PROMISE_NOT_FOUND)
    refusal = Wanted(context, now_ms).refusal(promise)
    if refusal is not None:
        return Reply(refusal)
    delete(context, [promise.id], Deleter.CLIENT, now_ms)
    return Reply(Code.NO_CONTENT)
