"""Looking at much without holding others up: slices of work, with a rest after each.

A look at everything that waits may take longer than the event loop may be held. `rest` gives the
loop to the others when a slice is over, and `is_spent` says when an answer has cost enough: then
what was found so far is answered, with where to go on. However many look at the same time, one of
them has a slice in each round of the loop, in the order in which they asked: so the others wait for
one slice, and not for one of each.
"""

import time
from collections import deque
from typing import Final, final

import trio

SLICE_S: Final = 0.004
"""How long a look may work before it gives others their turn, in seconds."""

FIRST_SLICE_S: Final = 0.0005
"""How long it may work at first: looks that begin together have not yet waited for each other."""

ANSWER_LIMIT_S: Final = 0.045
"""What one answer may cost before it is rendered, in seconds of CPU."""


@final
class _Turns:
    """The looks that wait for their next slice."""

    def __init__(self) -> None:
        self._waiting: deque[trio.Event] = deque()
        self._is_running = False

    @property
    def is_crowded(self) -> bool:
        """Return whether others wait."""
        return bool(self._waiting)

    async def wait(self) -> None:
        """Wait for one's turn."""
        turn = trio.Event()
        self._waiting.append(turn)
        if not self._is_running:
            self._is_running = True
            trio.lowlevel.spawn_system_task(self._give_turns)
        try:
            await turn.wait()
        except trio.Cancelled:
            if not turn.is_set():
                self._waiting.remove(turn)
            raise

    async def _give_turns(self) -> None:
        """Give one turn in each round of the event loop, as long as a look waits."""
        try:
            while self._waiting:
                self._waiting.popleft().set()
                await trio.lowlevel.checkpoint()
        finally:
            self._is_running = False


_turns: Final[trio.lowlevel.RunVar[_Turns]] = trio.lowlevel.RunVar("turns of looks")


def _turns_of_run() -> _Turns:
    """Return the turns of this run of the event loop."""
    try:
        return _turns.get()
    except LookupError:
        turns = _Turns()
        _turns.set(turns)
        return turns


@final
class Pace:
    """The CPU time of one answer. It counts this thread's own, not what others use in a rest."""

    def __init__(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._began_s = time.thread_time()
        self._used_s = 0.0
        self._slice_s = 0.0

    async def rest(self) -> None:
        """Give others their turn, if the slice is over; or if others wait as this look begins."""
        slice_s = time.thread_time() - self._began_s
        if slice_s < self._slice_s:
            return
        turns = _turns_of_run()
        if not self._slice_s and not turns.is_crowded:
            self._slice_s = FIRST_SLICE_S
            return
        self._used_s += slice_s
        await turns.wait()
        self._slice_s = SLICE_S
        self._began_s = time.thread_time()

    @property
    def is_spent(self) -> bool:
        """Return whether the answer has cost what it may."""
        return self._used_s + time.thread_time() - self._began_s >= self._limit_s
