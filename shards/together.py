"""When to wake up: for the first timer of all shards, and for what must happen now and then.

Each wake-up of an idle server's loop costs a tenth of a millisecond, whatever it is for. So one
task wakes up for the timers of all shards. What looks at something every few seconds does so at the
same moments: whole seconds of trio's clock, or multiples of more.
"""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar, final

import trio

from .wheel import NEVER_MS

SLEEP_LIMIT_MS: Final = 10_000
"""Sleeping follows the monotonic clock and deadlines the wall clock; looking again now and then
keeps timers right when the wall clock is set while everything sleeps."""

_UNKNOWN_MS: Final = -1
_DUE_FROM_MS: Final = attrgetter("due_from_ms")


class Timed(Protocol):
    """A shard, as far as its timers are concerned."""

    due_from_ms: int
    """Nothing in its wheel is due before; what seemed due then may have been canceled."""

    def look_at_wheel(self) -> int:
        """Return when the wheel wants attention, as `due_from_ms` will; `NEVER_MS` if never."""
        ...  # pragma: no cover


Shard = TypeVar("Shard", bound=Timed)


@final
class FirstDue(Generic[Shard]):
    """When the first timer of several shards is due, and the sleep of the task that awaits it.

    Nothing is due before `at_ms`, but for shards that have a turn soon, after which there is a new
    `plan`. `planned_ms` is what was planned last; unless both are the same, that is out of date.
    """

    def __init__(self) -> None:
        """Begin without a plan, and without shards."""
        self.shards: Sequence[Shard] = ()
        self.at_ms = _UNKNOWN_MS
        self.planned_ms = NEVER_MS
        self._ends_s = math.inf
        self._scope: trio.CancelScope | None = None

    def note(self, deadline_ms: int) -> None:
        """Note that something may be due at this time."""
        if deadline_ms < self.at_ms:
            self.at_ms = deadline_ms

    def take(self, now_ms: int) -> Sequence[Shard]:
        """Return the shards whose timers are due; they are to have a turn next, if there are any.

        Otherwise there is a new plan.
        """
        self.at_ms = _UNKNOWN_MS
        return self._due(now_ms) or self.plan(now_ms)

    def plan(self, now_ms: int) -> Sequence[Shard]:
        """Wake up when the next timer is due; return the shards whose timers are due already."""
        while True:
            first = min(self.shards, key=_DUE_FROM_MS)
            at_ms = first.due_from_ms
            # What seemed to be first may have been canceled.
            if at_ms == NEVER_MS or first.look_at_wheel() == at_ms:
                break
        if at_ms <= now_ms:
            return self._due(now_ms)
        self.at_ms = self.planned_ms = at_ms
        ends_s = math.inf
        if at_ms != NEVER_MS:
            ends_s = shared_end_s(SLEEP_LIMIT_MS / 1000)
            if at_ms - now_ms < SLEEP_LIMIT_MS:
                ends_s = min(ends_s, trio.current_time() + (at_ms - now_ms) / 1000)
        self._ends_s = ends_s
        if self._scope is not None:
            self._scope.deadline = ends_s
        return ()

    def _due(self, now_ms: int) -> Sequence[Shard]:
        return [shard for shard in self.shards if shard.due_from_ms <= now_ms]

    async def wait(self) -> None:
        """Return when it is time to look at the timers. Only one task waits here."""
        with trio.CancelScope(deadline=self._ends_s) as self._scope:
            try:
                await trio.sleep_forever()
            finally:
                self._scope = None


def shared_end_s(delay_s: float) -> float:
    """Return a time on trio's clock at which others wake up, too: at most `delay_s` from now.

    It is a multiple of `delay_s`, so those with the same delay have the same.
    """
    now_s = trio.current_time()
    end_s = (now_s + delay_s) // delay_s * delay_s
    return end_s if end_s > now_s else now_s + delay_s  # it may be rounded down
