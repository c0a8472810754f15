"""Reading a stream: each frame is verified against the one before, and batches are put together.

An engine's copy may rot, or be restored from a backup that is older than what was acknowledged. So
a frame counts only if its checksum is right and it names the checksum of the frame before it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from troth.persistence.errors import DataDirectoryError
from troth.persistence.wal.frames import split_records
from troth.persistence.wal.log import LogRecord

from .stream_frames import FrameKind, StreamFrame, decode_stream_frame, is_of_later_version


class StreamDamaged(DataDirectoryError):
    """A stream holds something that its owners cannot have written."""

    def __init__(self, name: str, number: int, problem: str) -> None:
        super().__init__(
            f"{name}, frame {number}: {problem}. Nothing was changed. Restore it from a "
            "backup that has all that was acknowledged, or from a replica."
        )
        self.number = number


class StreamOfLaterVersion(DataDirectoryError):
    """A stream holds a frame that only later versions of Troth can read."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(
            f"{name}, frame {number}: a later version of Troth has written it. Nothing was "
            "changed. Install the version that its other servers have."
        )


def another_history(name: str, number: int, directory: str) -> StreamDamaged:
    """Return the error of a stream that lacks what a directory's checkpoints have."""
    return StreamDamaged(
        name,
        number,
        f"it is missing, or not the one that the checkpoints in {directory} have: the log was "
        "set back to an earlier state. If that was meant to be, start with an empty directory",
    )


class StreamTrimmed(DataDirectoryError):
    """A stream does not hold any more what a reader has to go on with."""

    def __init__(self, name: str, number: int, first_number: int) -> None:
        super().__init__(
            f"{name} begins with frame {first_number}, and this server has read up to {number - 1} "
            "only, because it was away for long. Nothing was changed. Start it again: it begins "
            "with a snapshot."
        )


class ChainMark(NamedTuple):
    """A place in a stream to go on reading from, as `Chain` has it there."""

    number: int
    checksum: int
    epoch: int
    next_sequence: int
    incarnation: int
    time_ms: int


@dataclass(slots=True)
class Chain:
    """The end of a stream, as far as it was read. `next_sequence` is that of the next record.

    `name` says where the stream is, in messages.
    """

    name: str
    number: int = 0
    checksum: int = 0
    epoch: int = 0
    next_sequence: int = 1
    incarnation: int = 0
    time_ms: int = 0
    shard_sequences: dict[int, int] = field(default_factory=dict)
    _parts: list[bytes] = field(default_factory=list)

    def read(self, number: int, data: bytes) -> tuple[StreamFrame, list[LogRecord]]:
        """Take the next frame; return it, and the records of the batch that it completes.

        Raises StreamDamaged or StreamOfLaterVersion; then nothing has changed.
        """
        decoded = decode_stream_frame(data)
        if decoded is None and is_of_later_version(data):
            raise StreamOfLaterVersion(self.name, number)
        if decoded is None:
            raise StreamDamaged(self.name, number, "its bytes are not those that were written")
        frame, checksum = decoded
        self._check_continues(number, frame)
        is_claim = frame.kind is FrameKind.OWNER
        # What an owner has left unfinished was never acknowledged.
        parts = [] if is_claim else [*self._parts]
        records: list[LogRecord] = []
        if frame.kind is FrameKind.PART:
            parts.append(frame.payload)
        elif frame.kind is FrameKind.RECORDS:
            records = self._records(frame, b"".join((*parts, frame.payload)))
            parts = []
        elif parts:
            raise StreamDamaged(self.name, number, "a batch ends in the middle of it")
        self._parts = parts
        self.follow(frame, checksum)
        self.shard_sequences.update((record.shard, record.shard_sequence) for record in records)
        return frame, records

    def follow(self, frame: StreamFrame, checksum: int) -> None:
        """Note a frame as the last one."""
        self.number = frame.number
        self.checksum = checksum
        self.epoch = frame.epoch
        self.next_sequence = frame.next_sequence
        self.incarnation = frame.incarnation
        self.time_ms = frame.time_ms
        if frame.kind is FrameKind.OWNER:
            self._parts = []

    @property
    def mark(self) -> ChainMark:
        """The last frame, as a place to go on from; not in the middle of a batch."""
        assert not self._parts
        return ChainMark(
            self.number,
            self.checksum,
            self.epoch,
            self.next_sequence,
            self.incarnation,
            self.time_ms,
        )

    def _check_continues(self, number: int, frame: StreamFrame) -> None:
        """Raise StreamDamaged unless a frame is the one that has to come here."""
        if number != self.number + 1 or frame.number != number:
            raise StreamDamaged(
                self.name, number, f"number {frame.number}, where {self.number + 1} is expected"
            )
        if frame.previous_checksum != self.checksum:
            raise StreamDamaged(self.name, number, "it does not continue the frame before it")
        expected = (self.epoch, self.incarnation)
        if frame.kind is FrameKind.OWNER:
            if frame.epoch != self.epoch + 1:
                raise StreamDamaged(self.name, number, "a claim that skips an owner")
        elif (frame.epoch, frame.incarnation) != expected:
            raise StreamDamaged(self.name, number, "it is not of the stream's owner")
        if frame.next_sequence != self.next_sequence + frame.record_count:
            raise StreamDamaged(self.name, number, "it counts other records than it has")
        if (frame.record_count > 0) is not (frame.kind is FrameKind.RECORDS):
            raise StreamDamaged(self.name, number, "it counts records of the wrong kind of frame")

    def _records(self, frame: StreamFrame, payload: bytes) -> list[LogRecord]:
        """Return a batch's records if they are well-formed and each shard's numbers grow."""
        records = split_records(payload, 0, len(payload), frame.record_count)
        if records is None:
            raise StreamDamaged(self.name, frame.number, "the records of a batch do not fill it")
        last = dict(self.shard_sequences)
        for shard, shard_sequence, _ in records:
            if shard_sequence <= last.get(shard, 0):
                raise StreamDamaged(
                    self.name,
                    frame.number,
                    f"record {shard_sequence} of shard {shard} comes after {last[shard]}",
                )
            last[shard] = shard_sequence
        return records
