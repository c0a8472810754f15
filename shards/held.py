"""Messages that wait until the answer to the request that caused them has been written.

A worker must not hear of a task before the client knows that its request succeeded (design.md 6):
the client may be that worker. The HTTP side makes one `HeldMessages` per request and releases it
after the last byte of the answer, or when the client is gone; the shard adds what the request
caused once it is durable. The two may happen in either order.

Messages may wait in another process than the one that the client is connected to. Then a `Notice`
waits here instead of them.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from troth.core.replies import Message


class Notice(Struct, frozen=True, eq=False, gc=False):
    """What is to be called instead of sending a message."""

    call: Callable[[], None]


class HeldMessages(Struct, eq=False, gc=False):
    """The messages caused by one request. `send` is called with each once, in order.

    Made with nothing but that: one is made for every request, so it has no code for it.
    """

    send: Callable[[Sequence[Message | Notice]], None]
    will_hold: bool = False
    """Whether something is going to be added; known before the request is answered."""
    messages: list[Message | Notice] | None = None
    """What is held: most requests cause nothing. Not to be changed from outside."""
    is_released: bool = False
    """Whether the request has been answered."""

    def add(self, messages: Sequence[Message | Notice]) -> None:
        """Hold these messages; send them immediately if the answer has been written already."""
        if self.is_released:
            self.send(messages)
        elif self.messages is None:
            self.messages = list(messages)
        else:
            self.messages.extend(messages)

    def release(self) -> None:
        """Send everything that is held, and immediately what is added later. May be repeated."""
        self.is_released = True
        if self.messages is None:
            return
        messages, self.messages = self.messages, None
        self.send(messages)
