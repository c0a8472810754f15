"""The server's time: milliseconds since the Unix epoch, from the wall clock.

A wall clock can be wrong and be corrected (decisions.md 3, "The clock"). What is promised:

- A step back of at most 5 s: time stands still until the wall clock has caught up.
- A step back of more: the server's time goes back with it. Shards then bring down what lies too far
  ahead and build their timing wheels again.
- A step forward of more than 60 s against the monotonic clock, and a loop that stood still for more
  than 250 ms (a stopped process, a suspended machine, a long turn): leases restart with their full
  time.

The last three are *jumps*. They are counted, and logged with the gap; code that keeps time compares
the count before it does anything at a new time. A loop that stands still is noticed because a task
looks at the time every 50 ms and sees how late it is. While no lease runs it looks every 200 ms,
and may miss an absence of less than 450 ms, which shortens nothing. While no caller asks for the
time either it looks each second, and may miss one of less than 1,250 ms; the first caller wakes it,
so that it looks again before a first lease can be shortened.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, final

import structlog
import trio

from .together import shared_end_s

STAND_STILL_LIMIT_MS: Final = 5_000
FORWARD_LIMIT_MS: Final = 60_000
ABSENCE_LIMIT_MS: Final = 250
QUIET_LIMIT_MS: Final = 200
TICK_MS: Final = 50
IDLE_TICK_MS: Final = 200
"""Without leases the task looks so seldom: a server that only waits must not use a core for it."""
QUIET_TICK_MS: Final = 1_000
"""The same while no caller asks for the time. A clock that was set is noticed that late then."""
_NEVER_MS: Final = -1
SAID_AGAIN_MS: Final = 10_000
LATENESS_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)
"""The histogram of how late timers are, from the deadline to the end of the turn that handled it.

Those that were armed when their deadline had passed are not in it: they were armed late, or the
server was down.
"""

log = structlog.get_logger("troth.shards")


class Clock(Protocol):
    """Where shards get the time from."""

    def now_ms(self) -> int:
        """Return the time now; earlier than before only after a jump back."""
        ...  # pragma: no cover

    def keep_up_with(self, time_ms: int) -> None:
        """Go by no time below one that was heard of, unless this clock is behind it by much."""
        ...  # pragma: no cover

    @property
    def jumps_count(self) -> int:
        """The number of jumps."""
        ...  # pragma: no cover

    @property
    def set_backs_count(self) -> int:
        """The number of jumps that went back."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class ClockStatistics:
    """Counts since the start. `last_step_ms` is how far the wall clock was last set, with sign."""

    steps_back_total_count: int
    steps_forward_total_count: int
    absences_total_count: int
    last_step_ms: int


class SteadyClock:
    """The part of a clock that never jumps."""

    jumps_count = 0
    set_backs_count = 0

    def keep_up_with(self, time_ms: int) -> None:
        """See Clock. All go by this one, so none is ahead of it."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    # Unlike CLOCK_MONOTONIC it runs on while the machine is suspended.
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@final
class SystemClock:
    """The machine's clock. `run` notices when the loop stands still."""

    def __init__(
        self,
        wall_ms: Callable[[], int] = _wall_ms,
        monotonic_ms: Callable[[], int] = _monotonic_ms,
    ) -> None:
        """Start with what the clocks say now; a test may bring its own."""
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._last_ms = self._compared_ms = wall_ms()
        self._compared_monotonic_ms = monotonic_ms()
        self._looked_ms: int | None = None  # on the monotonic clock, while `run` looks
        self._may_lease: Callable[[], bool] = lambda: True
        self._was_asked = False  # since the last look of `run`
        self._asked: trio.Event | None = None  # while `run` sleeps until it is
        self._loop_thread = 0  # leases begin there; other threads ask without waking it
        # How old a look may be for an answer without another; none while no caller asks.
        self._fresh_ms = QUIET_LIMIT_MS
        self._silent_until_ms = 0
        self._absences_count = 0
        self._forwards_count = 0
        self.set_backs_count = 0
        self.jumps_count = 0
        self._last_step_ms = 0

    @property
    def last_step_ms(self) -> int:
        """Return how far the wall clock was last set beyond the limits; 0 if it never was."""
        return self._last_step_ms

    def now_ms(self) -> int:
        """Return the time now; earlier than before only after a jump back."""
        wall_ms = self._wall_ms()
        # Nothing has jumped, and nothing stood still, if so little has passed since the last look.
        if 0 <= wall_ms - self._last_ms <= self._fresh_ms:
            self._last_ms = wall_ms
            return wall_ms
        self._was_asked = True
        now_ms = self._look(wall_ms)
        if self._asked is not None and threading.get_ident() == self._loop_thread:
            # The caller may begin a lease: absences count from here.
            self._looked_ms = self._monotonic_ms()
            self._asked.set()
            self._end_quiet()
        return now_ms

    def continue_after(self, time_ms: int) -> None:
        """Go on from a time that was told to clients by another machine, whose clock was ahead.

        As if this clock had just been set back from there.
        """
        self._last_ms = max(self._last_ms, time_ms)

    def keep_up_with(self, time_ms: int) -> None:
        """Stand still at a time that another process goes by, until this clock has caught up.

        Not if that is more than 5 s ahead: then one of the two is wrong, and this time stays.
        """
        if self._last_ms < time_ms <= self._wall_ms() + STAND_STILL_LIMIT_MS:
            self._last_ms = time_ms

    @property
    def told_ms(self) -> int:
        """Return the latest time that was told, without looking; for any thread."""
        return self._last_ms

    def _look(self, wall_ms: int) -> int:
        """Compare the clocks, and return the time."""
        monotonic_ms = self._monotonic_ms()
        looked_ms = self._looked_ms
        if looked_ms is not None and self._was_absent(monotonic_ms - looked_ms):
            self._looked_ms = monotonic_ms
            self._absences_count += 1
            self.jumps_count += 1
            self._note_absence(monotonic_ms, monotonic_ms - looked_ms)
        step_ms = wall_ms - self._last_ms
        ahead_ms = (wall_ms - self._compared_ms) - (monotonic_ms - self._compared_monotonic_ms)
        if step_ms < -STAND_STILL_LIMIT_MS:
            self._note_step(step_ms)
            self.set_backs_count += 1
            self.jumps_count += 1
            self._last_ms = wall_ms
        elif step_ms >= 0:
            if ahead_ms > FORWARD_LIMIT_MS:
                self._note_step(ahead_ms)
                self._forwards_count += 1
                self.jumps_count += 1
            self._last_ms = wall_ms
        self._compared_ms = wall_ms
        self._compared_monotonic_ms = monotonic_ms
        return self._last_ms

    def _was_absent(self, gap_ms: int) -> bool:
        """Say whether the loop stood still. A first lease may have begun since the last look."""
        if gap_ms <= ABSENCE_LIMIT_MS:
            return False
        if self._asked is not None:
            return gap_ms > ABSENCE_LIMIT_MS + QUIET_TICK_MS
        return gap_ms > ABSENCE_LIMIT_MS + IDLE_TICK_MS or self._may_lease()

    def _note_absence(self, monotonic_ms: int, gap_ms: int) -> None:
        if monotonic_ms < self._silent_until_ms:
            return  # on a machine that has too much to do, it may be so all the time
        self._silent_until_ms = monotonic_ms + SAID_AGAIN_MS
        log.warning("the server stood still; leases have their full time again", gap_ms=gap_ms)

    def _note_step(self, step_ms: int) -> None:
        self._last_step_ms = step_ms
        log.warning("the wall clock was set", step_ms=step_ms, was_ms=self._last_ms)

    async def run(
        self, jumped: Callable[[], None], may_lease: Callable[[], bool] = lambda: True
    ) -> None:
        """Look at the time again and again, until canceled; call `jumped` after jumps.

        `may_lease` says whether leases may run.
        """
        self._may_lease = may_lease
        self._loop_thread = threading.get_ident()
        seen_count = self.jumps_count
        try:
            while True:
                self._looked_ms = self._monotonic_ms()
                if may_lease():
                    await trio.sleep(TICK_MS / 1_000)
                elif self._was_asked:
                    self._was_asked = False
                    await trio.sleep(IDLE_TICK_MS / 1_000)
                elif await self._until_asked():
                    continue
                self._look(self._wall_ms())
                self._end_quiet()
                if self.jumps_count != seen_count:
                    seen_count = self.jumps_count
                    jumped()
        finally:
            self._looked_ms = None
            self._end_quiet()

    async def _until_asked(self) -> bool:
        """Sleep until a caller asks for the time, but not too long; return whether one did."""
        self._asked = asked = trio.Event()
        self._fresh_ms = _NEVER_MS
        with trio.move_on_at(shared_end_s(QUIET_TICK_MS / 1_000)):
            await asked.wait()
        return asked.is_set()

    def _end_quiet(self) -> None:
        self._asked = None
        self._fresh_ms = QUIET_LIMIT_MS

    def statistics(self) -> ClockStatistics:
        """Return counts for metrics."""
        return ClockStatistics(
            self.set_backs_count, self._forwards_count, self._absences_count, self._last_step_ms
        )


class TrioClock(SteadyClock):
    """Trio's clock, shifted to an epoch: a test that fakes trio's clock fakes this one too."""

    def __init__(self, epoch_ms: int) -> None:
        self._epoch_ms = epoch_ms

    def now_ms(self) -> int:
        # Trio counts in seconds: 0.57 * 1000 is a little less than 570.
        return self._epoch_ms + math.floor(trio.current_time() * 1000 + 1e-3)
