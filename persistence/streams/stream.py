"""The port to an engine that keeps streams: what the protocol asks of PostgreSQL, or of any other.

A stream is a sequence of frames, numbered from 1 without gaps. An engine may answer late or never,
may show less than it holds, and may refuse what it has accepted: the protocol (`ownership.py`)
stands all that. What it must keep is this: a number is taken once, a frame stands only behind one
with the number before, and what it has acknowledged is on disk, on as many machines as it promises.
"""

from typing import NamedTuple, Protocol

from troth.persistence.errors import DataDirectoryError

from .chain import ChainMark


class StreamUnreachable(Exception):
    """The engine has not answered, or not as it should; the text says what it was."""


class StreamRefused(DataDirectoryError):
    """The engine cannot be used as it is set up; the text says what to change."""


class Stream(Protocol):
    """One group's stream. Used by one thread at a time; calls block for a limited time."""

    @property
    def name(self) -> str:
        """The place of the stream, for people; without any password."""
        ...  # pragma: no cover

    @property
    def behind_ms(self) -> int:
        """Return how long the engine may show less than there is; 0 if it never does."""
        ...  # pragma: no cover

    def found(self, identity: bytes) -> bytes:
        """Make the stream with this identity unless there is one; return the one it has.

        Raises StreamUnreachable or StreamRefused.
        """
        ...  # pragma: no cover

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Append a frame if `number` is the next; return whether it is durable.

        A claim makes `epoch` the stream's if the one before is; anything else needs that it is. An
        engine that never gives a number twice, also when its frame was trimmed, need not look at
        epochs: the number is fence enough.
        False says nothing: the frame may stand there, or come to stand there later. Raises
        StreamUnreachable, which says no more.
        """
        ...  # pragma: no cover

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return frames from a number on, some of them at least, with their numbers.

        None of them means that the engine shows no more. Raises StreamUnreachable.
        """
        ...  # pragma: no cover

    def first(self) -> int:
        """Return the number of the first frame that was not trimmed; 0 if there is none.

        Raises StreamUnreachable.
        """
        ...  # pragma: no cover

    def close(self) -> None:
        """Release the connection; a second call does nothing."""
        ...  # pragma: no cover


class SnapshotDescription(NamedTuple):
    """A whole snapshot that an engine keeps. `mark` is from where on the stream is to be read.

    `place` and `identifier` are where its pieces are, which are numbered from 0.
    """

    identifier: int
    place: int
    pieces_count: int
    size_bytes: int
    sha256: str
    created_at_ms: int
    mark: ChainMark


class StreamKeeping(Protocol):
    """What an engine keeps next to a stream: how far its nodes have read, and snapshots.

    For one thread at a time, which need not be the one that uses the stream. All calls raise
    StreamUnreachable. Those with an `epoch` do no harm to what a later owner has done: what they
    change besides cannot be seen.
    """

    def note_reader(self, node: str, number: int, *, is_starting: bool = False) -> None:
        """Note from which frame on a node would read if it were started now.

        One that `is_starting` has not read all there is: no group is moved to it yet.
        """
        ...  # pragma: no cover

    def needed_number(self) -> int | None:
        """Return the least of these numbers, of nodes that were not gone for an hour."""
        ...  # pragma: no cover

    def trim(self, number: int, epoch: int) -> int:
        """Forget frames below a number, or some of them; return how many."""
        ...  # pragma: no cover

    def snapshot(self) -> SnapshotDescription | None:
        """Return the newest whole snapshot."""
        ...  # pragma: no cover

    def begin_snapshot(self, epoch: int) -> int:
        """Make room for another; return the place for its pieces. The newest one stays."""
        ...  # pragma: no cover

    def add_piece(self, place: int, identifier: int, number: int, piece: bytes, epoch: int) -> None:
        """Store a piece of a snapshot."""
        ...  # pragma: no cover

    def piece(self, place: int, identifier: int, number: int) -> bytes | None:
        """Return a piece; None if it is not there."""
        ...  # pragma: no cover

    def finish_snapshot(self, description: SnapshotDescription, epoch: int) -> None:
        """Make a snapshot whose pieces were read back the newest one, or change its mark."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Release the connection; a second call does nothing."""
        ...  # pragma: no cover
