"""What checkpoints ask of the store they are kept in: writes, views, and the store itself.

A commit is all or nothing and on disk when it returns; a view shows the store as of one commit
for as long as it is open. One thread commits; any thread may read, each view in one thread at a
time. `store.py` has the stores that keep this.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from troth.core.state.captures import Capture

from .id_filter import Room

AFTER_ALL: Final = b"\xff" * 512
"""Where a scan stops that is to yield all: longer than any key, and after it."""


class Rows(Struct, frozen=True, gc=False):
    """Rows of one table: at least one key, and the new value of each.

    They cost the least in the order of keys, and if most are new.
    """

    table: str
    keys: Sequence[bytes]
    values: Sequence[bytes]


Write = Rows | tuple[str, bytes, bytes | None]
"""Rows; or a table, a key and its new value. None deletes the key, which need not exist."""


class View(Protocol):
    """The store as of one commit."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of a key, or None if there is none."""
        ...  # pragma: no cover

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values from `start` up to, but without, `stop`, in ascending order."""
        ...  # pragma: no cover

    def scan_back(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the same keys with their values as `scan`, in descending order."""
        ...  # pragma: no cover

    def release_pages(self) -> None:
        """Release memory that reading has taken."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Release the view; a second call does nothing. Iterators of this view end with it."""
        ...  # pragma: no cover


class Store(Protocol):
    """The whole store."""

    def commit(self, writes: Iterable[Write]) -> None:
        """Make the writes durable together. Raises CheckpointFailed; then none was made."""
        ...  # pragma: no cover

    def view(self) -> View:
        """Return the store as it is now."""
        ...  # pragma: no cover

    def release_memory(self) -> None:
        """Release memory that commits have taken, if no view is open."""
        ...  # pragma: no cover

    def size_bytes(self) -> int:
        """Return what the store takes on disk."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class ApartStatistics:
    """What the processes that write large checkpoints have done, since the server's start.

    `busy_s` is the time from the first word of each checkpoint to its commit; `processor_s` was all
    processor time up to the last one, and `memory_bytes` the most memory that the process which
    wrote that one has had. `starved_count` of them had no processor time and were replaced.
    """

    checkpoints_count: int = 0
    busy_s: float = 0.0
    processor_s: float = 0.0
    memory_bytes: int = 0
    starved_count: int = 0


class CheckpointWriter(Protocol):
    """What writes large checkpoints in a process of its own."""

    @property
    def process_id(self) -> int | None:
        """The number of that process, None while there is none."""
        ...  # pragma: no cover

    def write(
        self,
        captures: Sequence[Capture],
        meta: list[tuple[bytes, bytes]],
        stored: dict[int, int],
        rooms: Sequence[Room],
        pause: Callable[[], None],
    ) -> list[int]:
        """Commit the captures and the rows `meta`; return how many ids were added to each room.

        `stored` has the largest serial in the store by shard. `pause` is called after each small
        piece of work. Blocks. Raises NoWriter, and what a commit raises.
        """
        ...  # pragma: no cover

    def statistics(self) -> ApartStatistics:
        """Return what they have done; in any thread."""
        ...  # pragma: no cover

    def end(self) -> None:
        """End the process, if there is one. Blocks for a moment."""
        ...  # pragma: no cover

    def close(self) -> None:
        """End it, and let another server have the store."""
        ...  # pragma: no cover
