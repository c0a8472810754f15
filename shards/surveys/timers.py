"""What comes due next: timeouts, sleeps, leases, delays, locks, schedules, in the order of time.

The shards' timing wheels have all of it in slots that are in the order of time, so only those are
looked at that begin before the end of the page.
"""

from typing import Final, final

from troth.core.catalog import is_reserved
from troth.core.commands import (
    DELAY_TIMER,
    EXECUTION_TIMER,
    LOCK_TIMER,
    SCHEDULE_TIMER,
    TASK_TIMER,
    UNBLOCK_TIMER,
    WORKFLOW_TIMER,
    TimerKind,
)
from troth.core.grammar import task_ids
from troth.core.model import CLAIMED, ENQUEUED, TAG_TIMEOUT, TAG_TIMER
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED
from troth.shards.rearming import WheelKey
from troth.shards.shards import Shards

from .pace import Pace
from .rows import Due
from .smallest import Smallest, chunks

LOOK_COUNT: Final = 1_000
"""How many timers are looked at between two rests."""

NEVER_MS: Final = 2**53 - 1
"""What is due later than this, in 285,000 years, never comes."""

Place = tuple[int, str, str]


@final
class DueTimers:
    """One page of what comes due. Only what begins with `id_prefix` is shown.

    Function tasks are only shown to the account that they belong to.
    """

    def __init__(self, shards: Shards, id_prefix: str, account_id: str) -> None:
        self._shards = shards
        self._id_prefix = id_prefix
        self._account_id = account_id
        self._pace = Pace()

    async def page(
        self, until_ms: int, limit_count: int, after: Place | None
    ) -> tuple[list[Due], bool]:
        """Return the next deadlines, and whether there are more up to the time."""
        until_ms = min(until_ms, NEVER_MS)
        smallest: Smallest[Place] = Smallest(limit_count, after)
        found: dict[Place, Due] = {}
        for state in self._shards.states():
            seen_count = 0
            for parts in self._shards.deadlines(state.index, until_ms):
                if seen_count > limit_count:
                    break  # all that follows is due after these
                for some in chunks([one for part in parts for one in part.items()], LOOK_COUNT):
                    cut = smallest.cut
                    last_ms = until_ms if cut is None else min(until_ms, cut[0])
                    first_ms = 0 if after is None else after[0]
                    dues = [
                        due
                        for key, at in some
                        if first_ms <= at <= last_ms
                        and (due := self._due(state, key, at)) is not None
                    ]
                    places = [due.place for due in dues]
                    seen_count += sum(1 for place in places if after is None or after < place)
                    smallest.offer(places)
                    found.update({due.place: due for due in dues})
                    if len(found) > 4 * (limit_count + LOOK_COUNT):
                        kept, _ = smallest.found()
                        found = {place: found[place] for place in kept}
                    await self._pace.rest()
        places, has_more = smallest.found()
        return [found[place] for place in places], has_more

    def _due(self, state: ShardState, key: WheelKey, at: int) -> Due | None:
        if isinstance(key, str):
            return self._of_promise(state, key, at)
        return self._of_other(state, key, at)

    def _may_see(self, state: ShardState, promise_id: str) -> bool:
        if not is_reserved(promise_id):
            return promise_id.startswith(self._id_prefix)
        execution = state.executions.get(promise_id)
        return (
            execution is not None
            and bool(self._account_id)
            and not self._id_prefix
            and execution.plan.account_id == self._account_id
        )

    def _of_promise(self, state: ShardState, promise_id: str, at: int) -> Due | None:
        promise = state.promises.get(promise_id)
        if promise is None or not self._may_see(state, promise_id):
            return None
        tags = promise.tags or {}
        sleeps = tags.get(TAG_TIMER) == "true" or tags.get(TAG_TIMEOUT) == "true"
        return Due(at, "sleep" if sleeps else "timeout", promise_id, promise_id)

    def _of_other(self, state: ShardState, key: tuple[TimerKind, str], at: int) -> Due | None:
        kind, name = key
        if kind is LOCK_TIMER:
            return Due(at, "lock", name) if name.startswith(self._id_prefix) else None
        if kind is SCHEDULE_TIMER:
            return Due(at, "schedule", name) if name.startswith(self._id_prefix) else None
        promise_id = task_ids.home(name) if kind in (TASK_TIMER, DELAY_TIMER) else name
        if not self._may_see(state, promise_id):
            return None
        return Due(at, _what(state, kind, name), name, promise_id)


def _what(state: ShardState, kind: TimerKind, name: str) -> str:
    """Return what happens to a task when its timer fires."""
    if kind is TASK_TIMER:
        task = state.tasks.get(name)
        if task is not None and task.state is CLAIMED:
            return "lease"
        return "claim" if task is not None and task.state is ENQUEUED else "task-timeout"
    if kind is WORKFLOW_TIMER:
        workflow = state.workflows.get(name)
        if workflow is not None and workflow.state is ACQUIRED:
            return "lease"
        return "claim" if workflow is not None and workflow.unclaimed else "delay"
    return {
        DELAY_TIMER: "delay",
        UNBLOCK_TIMER: "message",
        EXECUTION_TIMER: "function",
    }[kind]
