"""Waiting for replies: a task parks until the shards have given all of those that it asked for."""

from typing import Any, Protocol, final

import outcome
import trio

from troth.core.replies import Reply

from .errors import ShardsError


class _Asker(Protocol):
    """See `turns.Asker`."""

    def answer(self, place: int, reply: Reply) -> None: ...

    def refuse(self, error: ShardsError) -> None: ...


@final
class AfterReceipts:
    """An asker whose answer waits until other groups have received what the command sends them.

    So who has the answer finds there what it made. An error does not wait.
    """

    __slots__ = ("_answer", "_asker", "_expected_count")

    def __init__(self, asker: _Asker) -> None:
        self._asker = asker
        self._answer: tuple[int, Reply] | None = None
        self._expected_count = 0

    def expect(self) -> None:
        """Note that a message was sent, whose receipt is to come."""
        self._expected_count += 1

    def received(self) -> None:
        """Note one receipt, or that it cannot come."""
        self._expected_count -= 1
        if not self._expected_count and self._answer is not None:
            answer, self._answer = self._answer, None
            self._asker.answer(*answer)

    def answer(self, place: int, reply: Reply) -> None:
        """Take the reply, and hand it on when there is nothing more to wait for."""
        if self._expected_count:
            self._answer = place, reply
        else:
            self._asker.answer(place, reply)

    def refuse(self, error: ShardsError) -> None:
        """Hand on an error."""
        self._asker.refuse(error)


@final
class CountsWaiter:
    """Adds up the counts of replies to commands that are asked one after the other, in passes."""

    __slots__ = ("_count", "_error", "_is_done", "_outstanding_count")

    def __init__(self) -> None:
        self._count = 0
        self._error: ShardsError | None = None
        self._is_done = trio.Event()
        self._outstanding_count = 1  # until all have been asked

    def expect(self) -> None:
        """Note that a command is asked."""
        self._outstanding_count += 1

    async def wait(self) -> int:
        """Wait for all replies to what was asked; their sum. Raises what refused one of them."""
        self._note()
        await self._is_done.wait()
        if self._error is not None:
            raise self._error
        return self._count

    def answer(self, place: int, reply: Reply) -> None:  # noqa: ARG002  they are only added up
        """Take one reply."""
        self._count += reply.count
        self._note()

    def refuse(self, error: ShardsError) -> None:
        """Take an error instead of a reply."""
        self._error = error
        self._note()

    def _note(self) -> None:
        self._outstanding_count -= 1
        if self._outstanding_count == 0:
            self._is_done.set()


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
