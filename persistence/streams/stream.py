"""The port to an engine that keeps streams: what the protocol asks of PostgreSQL, or of any other.

A stream is a sequence of frames, numbered from 1 without gaps. An engine may answer late or never,
may show less than it holds, and may refuse what it has accepted: the protocol (`ownership.py`)
stands all that. What it must keep is this: a number is taken once, a frame stands only behind one
with the number before, and what it has acknowledged is on disk, on as many machines as it promises.
"""

from typing import Protocol

from troth.persistence.errors import DataDirectoryError


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

    def found(self, identity: bytes) -> bytes:
        """Make the stream with this identity unless there is one; return the one it has.

        Raises StreamUnreachable or StreamRefused.
        """
        ...  # pragma: no cover

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Append a frame if `number` is the next; return whether it is durable.

        A claim makes `epoch` the stream's if the one before is; anything else needs that it is.
        False says nothing: the frame may stand there, or come to stand there later. Raises
        StreamUnreachable, which says no more.
        """
        ...  # pragma: no cover

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return frames from a number on, some of them at least, with their numbers.

        None of them means that the engine shows no more. Raises StreamUnreachable.
        """
        ...  # pragma: no cover

    def close(self) -> None:
        """Release the connection; a second call does nothing."""
        ...  # pragma: no cover
