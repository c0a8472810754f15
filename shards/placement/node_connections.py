"""What the server tells a node: the messages that wait for its stream.

One execution uses a connection, in this order: `receive` (or `receive_now`), write to the socket,
`confirm`, and again. An execution counts as sent only when its message has been confirmed; those of
a connection that ends before that go elsewhere. The number of messages is bounded by the node's
slots: each execution causes at most one to run it and one to stop.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar, final

import trio

Carried = TypeVar("Carried")
"""What a message is about, given back when it was written or cannot be. Compared by identity."""


class NodeMessageKind(StrEnum):
    """What a message tells the node to do."""

    HELLO = "hello"
    RUN = "run"
    CANCEL = "cancel"
    DRAIN = "drain"
    DISABLE = "disable"


class NodeMessage(NamedTuple):
    """A message; `execution_id` and `counter` say which execution, if it is about one."""

    kind: NodeMessageKind
    execution_id: str = ""
    counter: int = 0


class ConnectionEnded(Exception):
    """The server has ended this connection, or a newer one has taken its place."""


def _nobody_waits() -> None:
    """Stand for the code that is called when there is a message."""


@final
class NodeConnection(Generic[Carried]):
    """One node's stream. Made by `Placement.connect`; `close` ends it."""

    __slots__ = (
        *("_handed_out", "_left", "_ready", "_sent", "_takes_back", "_waiting"),
        *("delivered_count", "is_closed", "peer", "since_ms"),
    )

    def __init__(
        self,
        sent: Callable[[list[Carried]], None],
        left: Callable[["NodeConnection[Carried]", list[Carried]], None],
        takes_back: Callable[[Carried], bool],
    ) -> None:
        """Initialize. `sent` is told what was written, `left` what was not at the end.

        `takes_back` is asked for each before it is written; with True its message is dropped.
        """
        self._sent = sent
        self._left = left
        self._takes_back = takes_back
        self._waiting: list[tuple[NodeMessage, Carried | None]] = []
        self._handed_out: list[Carried] = []
        self._ready: Callable[[], None] = _nobody_waits
        self.is_closed = False
        self.delivered_count = 0
        self.peer: str | None = None
        """The network address it comes from; set by the code that has opened it, as `since_ms`."""
        self.since_ms = 0

    @property
    def waiting_count(self) -> int:
        """The number of messages that are not written yet."""
        return len(self._waiting) + len(self._handed_out)

    def put(self, message: NodeMessage, execution: Carried | None = None) -> None:
        """Queue a message; `execution` is reported when it is written or cannot be."""
        assert not self.is_closed, "a closed connection has no place in placement"
        self._waiting.append((message, execution))
        self._ready()

    def discard(self, execution: Carried) -> bool:
        """Forget an execution; whether its message had not been taken for writing yet."""
        if execution in self._handed_out:
            self._handed_out.remove(execution)
            return False
        before_count = len(self._waiting)
        self._waiting = [entry for entry in self._waiting if entry[1] is not execution]
        return len(self._waiting) < before_count

    async def receive(self) -> list[NodeMessage]:
        """Wait for messages; nothing is lost if the wait is canceled. Raises ConnectionEnded."""
        await trio.lowlevel.checkpoint()
        while not self.is_closed:
            if not self._waiting:
                woken = trio.Event()
                self._ready = woken.set
                await woken.wait()
            elif messages := self.take():
                # Since they were taken there was no checkpoint: a canceled receive() took nothing.
                return messages
        raise ConnectionEnded

    def when_ready(self, action: Callable[[], None]) -> None:
        """Register `action`, called when `receive_now` may have news, never from there."""
        self._ready = action

    def receive_now(self) -> list[NodeMessage]:
        """Return the messages that wait; there may be none. Raises ConnectionEnded."""
        if self.is_closed:
            raise ConnectionEnded
        return self.take()

    def take(self) -> list[NodeMessage]:
        """Take the messages that wait, for writing them."""
        waiting, self._waiting = self._waiting, []
        kept = [
            (message, execution)
            for message, execution in waiting
            if execution is None or not self._takes_back(execution)
        ]
        self._handed_out = [execution for _, execution in kept if execution is not None]
        return [message for message, _ in kept]

    def take_along(self, count: int) -> list[Carried]:
        """Take executions that wait to be written, at most so many, to tell of them in another way.

        The first are taken; what else waits keeps its order. None are `sent` or `left` later.
        """
        taken: list[Carried] = []
        kept: list[tuple[NodeMessage, Carried | None]] = []
        waiting, self._waiting = self._waiting, []
        for message, execution in waiting:
            if execution is None or len(taken) == count:
                kept.append((message, execution))
            elif not self._takes_back(execution):
                taken.append(execution)
        self._waiting = kept + self._waiting
        self.delivered_count += len(taken)
        return taken

    def confirm(self) -> None:
        """Say that what the last `receive` returned has been written to the socket."""
        handed_out, self._handed_out = self._handed_out, []
        self.delivered_count += len(handed_out)
        if handed_out and not self.is_closed:
            self._sent(handed_out)

    def close(self) -> None:
        """End the connection; what was not confirmed goes elsewhere. May be repeated."""
        if self.is_closed:
            return
        self.is_closed = True
        unsent = self._handed_out + [
            execution for _, execution in self._waiting if execution is not None
        ]
        self._handed_out = []
        self._waiting = []
        self._ready()
        self._left(self, unsent)
