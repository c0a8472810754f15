"""What one end of a link has to say, until it is taken: all of it leaves in one piece.

Questions that follow one another are put together into one frame as they come, and so are their
answers, and parcels. Neither end has a head, an object and calls of its own for each of them.
"""

import struct
from collections.abc import Callable
from typing import Any, Final, final

from .codec import append_content, encode_as_json
from .frames import HEAD_BYTES, FrameFlag, Kind, encode_frame, write_head

TOGETHER_LIMIT_BYTES: Final = 1 << 20
"""A frame that is longer takes no more: who reads it makes objects of all of it in one call."""

_COUNT: Final = struct.Struct(">BI")
_LONG_ARRAY: Final = 0xDD  # msgpack's mark of an array whose length has four bytes
_OPEN: Final = bytes(HEAD_BYTES + _COUNT.size)


@final
class OutgoingFrames:
    """Frames in their order. `wake` is called when there is something where there was nothing."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.whole_bytes = 0
        """How many bytes frames have that are whole."""
        self.together = bytearray(_OPEN)
        """What is being put together, with what comes before it in every frame."""
        self._wake = wake
        self._frames: list[bytes] = []
        self._kind: Kind | None = None
        """Of what is being put together."""
        self._together_count = 0

    def __len__(self) -> int:
        """Return how many bytes wait to be taken."""
        if not self._together_count:
            return self.whole_bytes
        return self.whole_bytes + len(self.together)

    def put(self, frame: bytes) -> None:
        """Add a frame."""
        if self._together_count:
            self._close()
        elif not self._frames:
            self._wake()
        self._frames.append(frame)
        self.whole_bytes += len(frame)

    def put_together(self, kind: Kind, content: tuple[Any, ...]) -> None:
        """Add to a frame of a kind. Raises MemoryError; then nothing was added."""
        if kind is not self._kind:
            self._begin(kind)
        together = self.together
        before_bytes = len(together)
        try:
            append_content(content, together, -1)
        except BaseException as error:
            del together[before_bytes:]
            if not isinstance(error, OverflowError):
                raise
            self.put(encode_frame(kind, encode_as_json([content]), flags=FrameFlag.JSON))
            return
        self._together_count += 1
        if before_bytes > TOGETHER_LIMIT_BYTES:
            self._close()

    def _begin(self, kind: Kind) -> None:
        """Put together what is of this kind from here on."""
        if self._together_count:
            self._close()
        elif not self._frames:
            self._wake()
        self._kind = kind

    def _close(self) -> None:
        """Make a frame of those that are put together."""
        together = self.together
        assert self._kind is not None, "something is put together"
        write_head(together, self._kind)
        self._kind = None
        _COUNT.pack_into(together, HEAD_BYTES, _LONG_ARRAY, self._together_count)
        self._frames.append(bytes(together))
        self.whole_bytes += len(together)
        self._together_count = 0
        del together[len(_OPEN) :]

    def take(self) -> bytes:
        """Return all that there is; it is forgotten."""
        if self._together_count:
            self._close()
        self._kind = None  # what comes next wakes again, also if nothing has come of this
        frames = self._frames
        if not frames:
            return b""
        self._frames, self.whole_bytes = [], 0
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def forget(self) -> None:
        """Forget what there is: the link has ended."""
        self._frames, self.whole_bytes = [], 0
        self._kind = None
        self._together_count = 0
        del self.together[len(_OPEN) :]
