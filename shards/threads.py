"""Calling what blocks in a thread, also while no thread can be had.

A thread takes memory, and one of the places that the system gives a user or a container. When there
is none for a moment, that is no failure of what was to be done: it waits.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from troth.persistence.shortage import PATIENCE_S

SWITCH_INTERVAL_S: Final = 0.002
"""After how long the loop lets another thread run that wants to. The log's writer asks twice for
each batch, so with Python's 5 ms a batch takes 10 ms while the loop is busy. Each time that a
thread has waited for that long it wakes the other, which costs the loop its caches."""

_PAUSE_S: Final = 0.05
_NO_THREAD: Final = "can't start new thread"

Result = TypeVar("Result")


async def in_thread(
    action: Callable[[], Result],
    *,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
    patience_s: float = PATIENCE_S,
) -> Result:
    """Return what `action` returns, called in a thread; wait up to `patience_s` for a thread.

    Raises what `action` raises; RuntimeError or MemoryError if there was no thread for that long.
    """
    until_s = trio.current_time() + patience_s
    while True:
        has_begun = False

        def act() -> Result:
            nonlocal has_begun
            has_begun = True
            return action()

        try:
            return await trio.to_thread.run_sync(
                act, limiter=limiter, abandon_on_cancel=abandon_on_cancel
            )
        except (RuntimeError, MemoryError) as error:
            if has_begun or not _is_about_threads(error) or trio.current_time() >= until_s:
                raise
        await trio.sleep(_PAUSE_S)


def _is_about_threads(error: Exception) -> bool:
    return isinstance(error, MemoryError) or str(error) == _NO_THREAD
