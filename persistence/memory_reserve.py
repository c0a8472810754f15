"""A reserve of memory: what must go on when there is no more can take it, and then does.

A request is refused before there is too little memory for it. Where that was wrong, MemoryError
comes in the middle of something: what was changed must be written to the log, what was written must
be answered. `with_reserve` gives the reserve away and tries that once more. Until the reserve has
been taken back, nothing new is taken from clients; while memory `is_short`, nothing is created.

The reserve is address space, not memory: it costs nothing where nothing limits that.
"""

import mmap
import threading
from collections.abc import Callable
from typing import Final, TypeVar, final

Result = TypeVar("Result")


@final
class MemoryReserve:
    """One for a process; any thread may give it away. Without `open` it is nothing."""

    def __init__(self) -> None:
        """Begin without a reserve."""
        self._lock = threading.Lock()
        self._kept: mmap.mmap | None = None
        self._headroom_bytes: Callable[[], int | None] = lambda: None
        self.size_bytes = 0
        self.is_given_away = False
        """Whether memory has run out, and there is no reserve at the moment."""
        self.is_short = False
        """Whether there is less memory left than the reserve has."""
        self.given_away_count = 0

    def open(self, size_bytes: int, headroom_bytes: Callable[[], int | None]) -> None:
        """Take the reserve, as far as it can be had; `headroom_bytes` says what is left besides."""
        self.size_bytes = size_bytes
        self._headroom_bytes = headroom_bytes
        self.is_given_away = size_bytes > 0
        self.look()

    def close(self) -> None:
        """Give the reserve back for good."""
        with self._lock:
            self._drop()
            self.size_bytes = 0
            self.is_given_away = self.is_short = False

    def give_away(self) -> bool:
        """Give it to a caller that has run out of memory; return whether it was there."""
        with self._lock:
            if self._kept is None:
                return False
            self._drop()
            self.is_given_away = self.is_short = True
            self.given_away_count += 1
            return True

    def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def look(self) -> None:
        """Find out how things are, and take the reserve back if there is enough; now and then."""
        if not self.size_bytes:
            return
        headroom_bytes = self._headroom_bytes()
        with self._lock:
            if self._kept is None and self._may_take(headroom_bytes):
                try:
                    self._kept = mmap.mmap(-1, self.size_bytes, flags=mmap.MAP_PRIVATE)
                except (OSError, MemoryError):
                    return  # the next look is soon
                self.is_given_away = False
                headroom_bytes = self._headroom_bytes()
            self.is_short = self._kept is None or (
                headroom_bytes is not None and headroom_bytes < self.size_bytes
            )

    def _may_take(self, headroom_bytes: int | None) -> bool:
        return headroom_bytes is None or headroom_bytes >= 2 * self.size_bytes


RESERVE: Final = MemoryReserve()
"""The reserve of this process."""


def with_reserve(action: Callable[[], Result]) -> Result:
    """Return what `action` returns; it is called once more if memory ran out, with the reserve.

    So nothing of it may be done when it raises MemoryError. Raises what `action` raises.
    """
    try:
        return action()
    except MemoryError:
        if not RESERVE.give_away():
            raise
    return action()
