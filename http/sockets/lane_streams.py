"""A stream as an answer on the hot lane: its bytes, chunk by chunk, as they come.

No task waits for them: the writer asks for what there is when the stream says that there is
something (`requests.ReadyStream`), and when the socket has taken what it was given before.
"""

from collections.abc import Callable
from typing import final

from troth.http.wire.requests import ReadyStream

_LAST_CHUNK = b"0\r\n\r\n"


@final
class LaneStream:
    """An answer that goes on. `ended` is called when it is closed, whatever the reason."""

    __slots__ = ("_ended", "_head", "_is_at_end", "_stream")

    def __init__(self, head: bytes, stream: ReadyStream, ended: Callable[[], None]) -> None:
        """Begin with `head`, the status line and the headers."""
        self._head = head
        self._stream = stream
        self._ended = ended
        self._is_at_end = False

    def when_ready(self, action: Callable[[], None]) -> None:
        """Register `action`, called whenever there may be more to write."""
        self._stream.when_ready(action)

    def next(self, now: float) -> bytes | None:
        """Return the next bytes to write: empty if there are none at this time, None after all.

        To ask says that all before has been written.
        """
        if self._is_at_end:
            return None
        chunk = self._stream.next_now(now)
        if chunk is None:
            self._is_at_end = True
            data = _LAST_CHUNK
        elif chunk:
            data = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        else:
            return b""
        if self._head:
            data, self._head = self._head + data, b""
        return data

    def is_due(self, now: float) -> bool:
        """Return whether there is something to write at this time."""
        return self._stream.is_due(now)

    def stop(self) -> None:
        """End the stream soon."""
        self._stream.stop()

    def close(self) -> None:
        """Give everything up; what was not written goes elsewhere. Once."""
        self._stream.close()
        self._ended()
