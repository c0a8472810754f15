"""Looking at much without holding others up: slices of work, with a rest after each.

A look at everything that waits may take longer than the event loop may be held. `rest` gives the
loop to the others when a slice is over, and `is_spent` says when an answer has cost enough: then
what was found so far is answered, with where to go on.
"""

import time
from typing import Final, final

import trio

SLICE_S: Final = 0.004
"""How long a look may work before it gives others their turn, in seconds."""

ANSWER_LIMIT_S: Final = 0.045
"""What one answer may cost before it is rendered, in seconds of CPU."""


@final
class Pace:
    """The CPU time of one answer. It counts this thread's own, not what others use in a rest."""

    def __init__(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._began_s = time.thread_time()
        self._used_s = 0.0

    async def rest(self) -> None:
        """Give others their turn, if the slice is over."""
        slice_s = time.thread_time() - self._began_s
        if slice_s >= SLICE_S:
            self._used_s += slice_s
            await trio.lowlevel.checkpoint()
            self._began_s = time.thread_time()

    @property
    def is_spent(self) -> bool:
        """Return whether the answer has cost what it may."""
        return self._used_s + time.thread_time() - self._began_s >= self._limit_s
