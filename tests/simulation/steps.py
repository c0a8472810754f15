"""Every step of every task: where a crash may fall, and where queues are measured."""

from collections.abc import Callable

import trio

from .ledger import BrokenPromise


class Steps(trio.abc.Instrument):
    """Counts the steps of the scheduler, and does something after a certain number of them."""

    def __init__(self) -> None:
        self.count = 0
        self.check: Callable[[], None] | None = None
        self.broken: BrokenPromise | None = None
        self.is_broken = trio.Event()
        self._action: Callable[[], None] | None = None
        self._group = 0
        self._due = 0

    def after(self, steps_count: int, action: Callable[[], None], group: int) -> None:
        """Do this to a process after that many steps: between two awaits of any task."""
        self._group = group
        self._due = self.count + steps_count
        self._action = action

    def disarm(self, group: int) -> None:
        """Forget what was to be done to a process: the life that it was for is over."""
        if self._group == group:
            self._action = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """See trio.abc.Instrument, which must not raise."""
        self.count += 1
        if self._action is not None and self.count >= self._due:
            action, self._action = self._action, None
            action()
        if self.check is not None and self.broken is None:
            try:
                self.check()
            except BrokenPromise as error:
                self.broken = error
                self.is_broken.set()

    async def raise_broken(self) -> None:
        """Wait for a check that fails, and raise what it said."""
        await self.is_broken.wait()
        assert self.broken is not None
        raise self.broken
