"""What a function prints: read as it comes, up to a limit; its end is kept."""

import contextlib
import os
from typing import Final

import trio

from .limits import OUTPUT_KEPT_BYTES, OUTPUT_LIMIT_BYTES

_READ_BYTES: Final = 64 * 1024


class Output:
    """Reads what a function prints: keeps the end, and stops when it is too much."""

    def __init__(self, descriptor: int) -> None:
        """Take over the reading end of a pipe."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._kept = bytearray()
        self._count = 0

    def begin_again(self) -> None:
        """Forget what was printed so far: what comes from now on is another execution's."""
        self.drain()
        self._kept.clear()
        self._count = 0

    async def read(self) -> bool:
        """Read to the end; False if it is more than `OUTPUT_LIMIT_BYTES`."""
        while True:
            try:
                part = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._descriptor)
                continue
            if not part:
                return True
            self._take(part)
            if self._count > OUTPUT_LIMIT_BYTES:
                return False
            # A function that always prints must not keep other tasks waiting.
            await trio.lowlevel.checkpoint()

    def _take(self, part: bytes) -> None:
        self._count += len(part)
        self._kept += part
        del self._kept[:-OUTPUT_KEPT_BYTES]

    def text(self) -> str:
        """Return the end of what was printed."""
        shown = self._kept.decode(errors="replace").strip()
        return f"… {shown}" if self._count > len(self._kept) else shown

    def drain(self) -> bool:
        """Take what is there, without waiting; False if it is more than `OUTPUT_LIMIT_BYTES`."""
        if self._descriptor == -1:
            return self._count <= OUTPUT_LIMIT_BYTES
        with contextlib.suppress(BlockingIOError):
            # A pipe holds no more than this.
            while self._count <= OUTPUT_LIMIT_BYTES:
                part = os.read(self._descriptor, _READ_BYTES)
                if not part:
                    break
                self._take(part)
        return self._count <= OUTPUT_LIMIT_BYTES

    def close(self) -> None:
        """Take what is there, and read no more."""
        if self._descriptor == -1:
            return
        self.drain()
        trio.lowlevel.notify_closing(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
