"""One process's sides of all its connections by links: what sends, and looks at the time.

As in `http/sockets/link_sockets.py`, what all ends have to say leaves together. A process that
hangs says nothing and does not look.
"""

from collections.abc import Callable
from typing import Protocol, final

import trio


class _End(Protocol):
    """Either end of a link."""

    def take(self) -> bytes: ...

    def look(self) -> bool: ...


@final
class LinkSide:
    """A process's side of one connection. `receive` takes what comes; `close` ends it."""

    def __init__(
        self, end: _End, receive: Callable[[bytes], object], close: Callable[[], None]
    ) -> None:
        self.receive = receive
        self.outgoing, self.at_other = trio.open_memory_channel[bytes](float("inf"))
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self.end = end
        self.close = close


@final
class LinkSides:
    """All sides of a process, in one life."""

    def __init__(self) -> None:
        self.hangs_until = 0.0
        self._sides: dict[LinkSide, None] = {}
        self._stirred = trio.Event()

    def add(self, side: LinkSide) -> None:
        """Serve one more."""
        self._sides[side] = None
        self.stir()

    def remove(self, side: LinkSide) -> None:
        """Serve it no more."""
        del self._sides[side]

    def stir(self) -> None:
        """See to it that there is a flush soon."""
        self._stirred.set()

    async def run(self) -> None:
        """Send what there is to send, until canceled."""
        while True:
            await self._stirred.wait()
            await self.is_awake()
            self._stirred = trio.Event()
            for side in self._sides:
                data = side.end.take()
                if data:
                    side.outgoing.send_nowait(data)

    def look(self) -> None:
        """Look at the time."""
        if trio.current_time() >= self.hangs_until:
            for side in self._sides:
                if not side.end.look():
                    side.scope.cancel()

    async def is_awake(self) -> None:
        """Wait while the process hangs."""
        while trio.current_time() < self.hangs_until:  # noqa: ASYNC110  it may hang again
            await trio.sleep_until(self.hangs_until)
