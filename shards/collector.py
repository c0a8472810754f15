"""When the garbage collector looks at what: it works within a pass of the loop, and stops it.

It does not look at what shards remember: no object there can be part of a cycle, and all are made
so that it knows (`tests/shards/test_collector.py`). Otherwise it would stop the loop for 150 ms
with 100,000 leases.

Automatically it looks when there are so many more objects than at its last look. Where objects
take the place of others, as when the messages of 100,000 tasks take that of their leases, there are
never more; then it looks at 100,000 together, which took 39 ms. So it also looks after a time, in
which only so many can be made.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

import trio

LOOK_AFTER_S: Final = 0.02
"""How long the loop works, by the processor's time, until the next look at the young objects."""
OLDER_AFTER_COUNT: Final = 10
"""After how many looks those are looked at that have survived one."""

COLLECT_AFTER_COUNT: Final = (5_000, OLDER_AFTER_COUNT, 1_000)
"""After how many more objects the collector looks at the young ones automatically; after how many
looks at these it looks at older ones, and after how many of those at all."""


@final
class Collector(trio.abc.Instrument):
    """Lets the collector look in time. Add it to trio's instruments."""

    def __init__(self, worked_s: Callable[[], float] = time.thread_time) -> None:
        """Take the time from the loop that this is called in; `worked_s` says how long it worked.

        While it sleeps or waits for a processor no objects are made.
        """
        self._time_s = trio.lowlevel.current_clock().current_time
        self._worked_s = worked_s
        self._looks_s = 0.0
        self._looks_worked_s = 0.0
        self._looks_count = 0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        """Look, if it is time."""
        now_s = self._time_s()
        if now_s < self._looks_s:
            return
        # The loop's clock costs less, so the other is asked only when that much can have passed.
        worked_s = self._worked_s()
        missing_s = self._looks_worked_s - worked_s
        if missing_s > 0:
            self._looks_s = now_s + missing_s
            return
        self._looks_s = now_s + LOOK_AFTER_S
        self._looks_worked_s = worked_s + LOOK_AFTER_S
        self._looks_count += 1
        gc.collect(0 if self._looks_count % OLDER_AFTER_COUNT else 1)


@contextmanager
def resting_collector() -> Iterator[None]:
    """Switch the collector off within the `with` block, in which state is loaded.

    It would look at all that is there again and again while that grows, an eighth of the time. What
    is there at the end is left out from then on: it is the state, and no garbage.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle_collector() -> None:
    """Leave out what is there already, and look at the rest less often than usual.

    What survives is nearly always state, so looking seldom finds as much. Call when all is set up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER_COUNT)
