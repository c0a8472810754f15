"""Large messages are rendered once, however many receivers they have.

A promise of megabytes may have thousands of subscriptions. Its text takes milliseconds to make and
megabytes to keep; so the last large one is kept, and the next receiver of the same message gets the
same bytes.
"""

from collections.abc import Callable
from typing import final

from troth.core.model import Promise, Trace
from troth.core.replies import Message, TaskMessage
from troth.http.wire.in_flight import SMALL_BYTES
from troth.shards.delivery.shipments import shown_promise, size_characters


@final
class LargeMessages:
    """A renderer of messages that keeps the last large text; `render` makes texts."""

    def __init__(self, render: Callable[[Message], bytes]) -> None:
        """Keep nothing yet."""
        self._make = render
        self._subject: tuple[type[Message], Promise, Trace | None] | None = None
        self._text = b""

    def render(self, message: Message) -> bytes:
        """Return a message's text."""
        promise = shown_promise(message)
        if promise is None or size_characters(message) <= SMALL_BYTES:
            return self._make(message)
        trace = message.task.trace if isinstance(message, TaskMessage) else None
        subject = (type(message), promise, trace)
        if self._subject is None or not _is_same(subject, self._subject):
            self._text = self._make(message)
            self._subject = subject
        return self._text


def _is_same(
    one: tuple[type[Message], Promise, Trace | None],
    other: tuple[type[Message], Promise, Trace | None],
) -> bool:
    """Return whether two subjects have the same text.

    Promises are compared as a whole only if their ids are equal.
    """
    return one[0] is other[0] and one[1].id == other[1].id and one[1:] == other[1:]
