"""Waiting for replies: a task parks until the shards have given all of those that it asked for."""

from typing import Any, final

import outcome
import trio

from troth.core.replies import Reply

from .errors import ShardsError


@final
class Waiter:
    """A parked task that waits for one or more replies."""

    __slots__ = ("abandoned", "outstanding_count", "replies", "task")

    def __init__(self, count: int) -> None:
        self.task = trio.lowlevel.current_task()
        self.replies: list[Reply | None] = [None] * count
        self.outstanding_count = count
        self.abandoned = False

    async def wait(self) -> list[Reply]:
        """Park until all replies are there. Canceling abandons them, not the commands."""

        def abandon(_: Any) -> trio.lowlevel.Abort:
            self.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abandon)  # type: ignore[no-any-return]

    def answer(self, place: int, reply: Reply) -> None:
        """Hand over one reply."""
        self.replies[place] = reply
        self.outstanding_count -= 1
        if self.outstanding_count == 0 and not self.abandoned:
            trio.lowlevel.reschedule(self.task, outcome.Value(self.replies))

    def abandon(self) -> None:
        """Stop waiting: commands that were asked are carried out, and their replies are dropped."""
        self.abandoned = True

    def refuse(self, error: ShardsError) -> None:
        """Hand over an error instead of replies."""
        if not self.abandoned:
            self.abandoned = True
            trio.lowlevel.reschedule(self.task, outcome.Error(error))
