"""Blocking code of a node, in turn with the event loop and in its time.

The log of a node blocks: it waits for an engine, and sleeps. Here such code runs on a stack of its
own (a greenlet) in the thread of the event loop, which goes on when the code wants to wait, and
lets simulated time pass. So a run is the same each time, and no step of it waits for the scheduler
of the machine.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

Result = TypeVar("Result")


class NodeEnded(BaseException):
    """The node was killed: what its code was about to do does not happen."""


class LockStep:
    """One life of a node: all of its blocking code ends with it.

    `rest` is awaited for each wait, with how long it is in seconds.
    """

    def __init__(self, rest: Callable[[float], Any]) -> None:
        self.has_ended = False
        self._rest = rest

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns; in it, `wait_s` lets time pass. Raises what it raises."""
        stack = _Stack(self, work)
        try:
            said = stack.switch()
            while not stack.dead:
                await self._rest(said)
                said = stack.switch(self.has_ended)
        except BaseException:
            stack.has_ended = True
            while not stack.dead:
                stack.switch(True)
            raise
        if stack.error is not None:
            raise stack.error
        result: Result = stack.result
        return result


class _Stack:
    """Where blocking code runs, and what it has returned or raised."""

    def __init__(self, life: LockStep, work: Callable[[], Any]) -> None:
        self.has_ended = False
        self.life = life
        self.result: Any = None
        self.error: BaseException | None = None
        self.code = greenlet(self._run)
        self.code.stack = self
        self._work = work

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error

    @property
    def dead(self) -> bool:
        """Whether the code has ended."""
        return bool(self.code.dead)

    def switch(self, *said: bool) -> Any:
        """Go on with the code until it waits, and return for how long it wants to."""
        return self.code.switch(*said)


def wait_s(duration_s: float) -> None:
    """Let simulated time pass, in code that `LockStep.run` runs. Raises NodeEnded."""
    stack: _Stack = getcurrent().stack
    is_over = stack.has_ended or stack.life.has_ended
    if is_over or stack.code.parent.switch(duration_s):
        raise NodeEnded
