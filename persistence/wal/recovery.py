"""Reading a log and deciding whether it is whole. Nothing here changes anything.

`LogScan` hands out batch after batch, each verified, and at the end knows where the log ends and
what, if anything, has to be cut there. It raises `LogDamaged` for anything that a crash cannot
explain. The rule behind all decisions: batches are written one at a time and each is durable before
the next one is begun, so any valid frame or header proves that everything before it was durable.
README.md section 5 has the steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from troth.persistence.errors import DataDirectoryUnreadable, LogDamaged, UnknownFormatVersion
from troth.persistence.files import Files

from .frames import (
    FORMAT_VERSION,
    SEGMENT_HEADER_BYTES,
    Frame,
    SegmentHeader,
    decode_frame,
    decode_records,
    decode_segment_header,
    find_frame,
)
from .log import LogRecord
from .segments import Segment, segment_path

_ZEROS: Final = bytes(64 << 10)


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a verified log ends: what the next batch has to continue."""

    next_sequence: int
    previous_checksum: int
    epoch: int
    shard_sequences: dict[int, int]  # the last one of each shard that has records
    segments: list[Segment]  # with the sizes found
    kept_bytes: int  # valid length of the last segment
    torn_bytes: int  # what follows it there and is not zero; 0 after a clean end
    records_count: int
    bytes_read: int
    is_begun_for_nothing: bool = False  # the last segment was begun to write a batch, and has none


@dataclass(slots=True)
class _LooseEnd:
    """A place with something other than zeros or a valid frame, not yet explained."""

    file: str
    offset: int
    torn_bytes: int


class LogScan:
    """One pass over the segments of a log, in order, verifying everything in them.

    With `until_sequence` it stops quietly before that record and never looks at what follows: so
    a log can be read while it is being written.
    """

    def __init__(
        self,
        files: Files,
        log_path: str,
        data_id: bytes,
        segments: list[Segment],
        until_sequence: int | None = None,
    ) -> None:
        self._files = files
        self._log_path = log_path
        self._data_id = data_id
        self._segments = segments
        self._until_sequence = until_sequence
        self._header: SegmentHeader | None = None
        self._next_sequence = 1
        self._previous_checksum = 0
        self._shard_sequences: dict[int, int] = {}
        self._loose_end: _LooseEnd | None = None
        self._kept_bytes = 0
        self._is_rolled_over = False  # to this segment, by the server that wrote the one before
        self._records_count = 0
        self._bytes_read = 0
        self._finished = False

    def batches(self) -> Iterator[tuple[int, list[LogRecord]]]:
        """Yield each batch with its first record's sequence.

        Raises `LogDamaged`, `UnknownFormatVersion` or `DataDirectoryUnreadable`; what was yielded
        before is intact, but must not be used then.
        """
        if not self._segments:
            raise LogDamaged(self._log_path, 0, "it holds no segments, so the whole log is missing")
        for segment in self._segments:
            file = segment_path(self._log_path, segment.first_sequence)
            try:
                data = self._files.read(file)
            except OSError as error:
                raise DataDirectoryUnreadable(
                    file,
                    f"cannot be read ({error.strerror})",
                    "Check the disk and its permissions.",
                ) from error
            self._bytes_read += len(data)
            header = self._checked_header(file, data, segment.first_sequence)
            yield from self._segment_batches(file, data, header)
            if self._next_sequence == self._until_sequence:
                return
        self._finished = True

    def end(self) -> LogEnd:
        """Return where the log ends; only after `batches` has been exhausted."""
        assert self._finished, "the log has not been read to its end"
        assert self._header is not None
        return LogEnd(
            next_sequence=self._next_sequence,
            previous_checksum=self._previous_checksum,
            epoch=self._header.epoch,
            shard_sequences=dict(self._shard_sequences),
            segments=list(self._segments),
            kept_bytes=self._kept_bytes,
            torn_bytes=0 if self._loose_end is None else self._loose_end.torn_bytes,
            records_count=self._records_count,
            bytes_read=self._bytes_read,
            is_begun_for_nothing=(
                self._is_rolled_over
                and self._kept_bytes == SEGMENT_HEADER_BYTES
                and self._loose_end is None
            ),
        )

    def _checked_header(self, file: str, data: bytes, named_sequence: int) -> SegmentHeader:
        """Return the segment's header if it is valid and continues the segment before."""
        header = decode_segment_header(data)
        if header is None:
            raise LogDamaged(file, 0, "its header is invalid")
        if header.format_version != FORMAT_VERSION:
            raise UnknownFormatVersion(file, header.format_version, FORMAT_VERSION)
        if header.data_id != self._data_id:
            raise LogDamaged(file, 0, "it belongs to another data directory")
        if header.first_sequence != named_sequence:
            raise LogDamaged(
                file,
                0,
                f"its name does not match the first sequence in it, {header.first_sequence}",
            )
        before, self._header = self._header, header
        self._is_rolled_over = before is not None and before.epoch == header.epoch
        if before is None:  # nothing before it to compare with: it says itself what it continues
            self._next_sequence = header.first_sequence
            self._previous_checksum = header.previous_checksum
            return header
        continues = (header.first_sequence, header.previous_checksum) == (
            self._next_sequence,
            self._previous_checksum,
        )
        if not continues and self._loose_end is not None:
            raise LogDamaged(
                self._loose_end.file,
                self._loose_end.offset,
                f"a batch is invalid although {file} was begun after it",
            )
        if header.first_sequence > self._next_sequence:
            raise LogDamaged(
                file,
                0,
                f"records {self._next_sequence} to {header.first_sequence - 1} before it are "
                "missing",
            )
        if not continues or header.epoch < before.epoch:
            raise LogDamaged(file, 0, "it does not continue the segment before it")
        return header  # and proves that a loose end before it was nothing but a torn seal

    def _segment_batches(
        self, file: str, data: bytes, header: SegmentHeader
    ) -> Iterator[tuple[int, list[LogRecord]]]:
        """Yield a segment's batches and note where its valid part ends."""
        offset = SEGMENT_HEADER_BYTES
        while self._next_sequence != self._until_sequence:
            frame = decode_frame(data, offset)
            if frame is None:
                break
            self._check_continues(file, frame, header)
            offset = frame.end
            if frame.is_seal:
                break
            records = self._checked_records(file, data, frame)
            self._next_sequence += len(records)
            self._previous_checksum = frame.checksum
            self._records_count += len(records)
            yield frame.first_sequence, records
        if self._next_sequence == self._until_sequence:
            return
        self._kept_bytes = offset
        self._loose_end = self._checked_rest(file, data, offset, header)

    def _check_continues(self, file: str, frame: Frame, header: SegmentHeader) -> None:
        """Raise `LogDamaged` unless a valid frame is the one that has to come here."""
        if frame.epoch != header.epoch:
            raise LogDamaged(file, frame.offset, "a batch of another epoch than its segment's")
        if frame.first_sequence != self._next_sequence:
            raise LogDamaged(
                file,
                frame.offset,
                f"sequence {frame.first_sequence}, where {self._next_sequence} is expected",
            )
        if frame.previous_checksum != self._previous_checksum:
            raise LogDamaged(file, frame.offset, "a batch does not continue the one before it")

    def _checked_records(self, file: str, data: bytes, frame: Frame) -> list[LogRecord]:
        """Return a frame's records if they are well-formed and each shard's numbers grow."""
        records = decode_records(data, frame)
        if records is None:
            raise LogDamaged(file, frame.offset, "the records of a batch do not fill it")
        last = self._shard_sequences
        for shard, shard_sequence, _ in records:
            if shard_sequence <= last.get(shard, 0):
                raise LogDamaged(
                    file,
                    frame.offset,
                    f"record {shard_sequence} of shard {shard} comes after {last[shard]}",
                )
            last[shard] = shard_sequence
        return records

    def _checked_rest(
        self, file: str, data: bytes, offset: int, header: SegmentHeader
    ) -> _LooseEnd | None:
        """Judge what follows the valid part of a segment: zeros, something torn, or damage."""
        torn_bytes = end_without_zeros(data, offset) - offset
        if torn_bytes == 0:
            return None
        later = find_frame(data, offset, header.epoch, self._next_sequence)
        if later is not None:
            raise LogDamaged(
                file,
                offset,
                f"a batch is invalid although a valid one follows it at byte {later.offset}",
            )
        return _LooseEnd(file, offset, torn_bytes)


def end_without_zeros(data: bytes, offset: int) -> int:
    """Return where the zeros begin that the data ends with, `offset` at the earliest.

    `rstrip` looks at each byte: 20 ms for a segment that hardly anything was written to.
    """
    end = len(data)
    while data.endswith(_ZEROS, offset, end):
        end -= len(_ZEROS)
    return offset + len(data[offset:end].rstrip(b"\0"))
