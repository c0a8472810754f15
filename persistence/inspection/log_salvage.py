"""What can still be read in a damaged segment.

Recovery stops at the first damage, since nothing guarantees that what follows is complete. This
module reads on, for reports and for the file into which a repair puts what it drops. What it finds
is a list of whole batches and of gaps between them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from troth.persistence.errors import UnknownFormatVersion
from troth.persistence.wal.frames import (
    FORMAT_VERSION,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Frame,
    decode_frame,
    decode_records,
    decode_segment_header,
)
from troth.persistence.wal.log import LogRecord


class Piece(NamedTuple):
    """A part of a segment: a batch whose checksum is right, or a gap, which has no records."""

    file: str
    offset: int
    end: int
    first_sequence: int
    records: list[LogRecord]
    problem: str = ""

    @property
    def is_gap(self) -> bool:
        """Return whether these bytes cannot be decoded."""
        return not self.records


def salvage(file: str, data: bytes, offset: int, data_id: bytes) -> Iterator[Piece]:
    """Yield what is in `data`, the content of a segment, from an offset on.

    Zeros and seals are neither batches nor gaps. Raises `UnknownFormatVersion`.
    """
    header = decode_segment_header(data)
    content_end = max(offset, len(data.rstrip(b"\0")))
    if header is not None and header.format_version != FORMAT_VERSION:
        raise UnknownFormatVersion(file, header.format_version, FORMAT_VERSION)
    if header is not None and header.data_id != data_id:
        # Whole batches of another log would be taken for records of this one.
        yield _gap(file, offset, content_end, "it belongs to another data directory")
        return
    position = SEGMENT_HEADER_BYTES if header is not None and offset == 0 else offset
    while True:
        frame = _next_frame(data, position)
        gap_end = content_end if frame is None else frame.offset
        if data[position:gap_end].strip(b"\0"):
            yield _gap(file, position, gap_end, "no valid batch")
        if frame is None:
            return
        if not frame.is_seal:
            records = decode_records(data, frame)
            if records:
                yield Piece(file, frame.offset, frame.end, frame.first_sequence, records)
            else:
                problem = "the records of a batch do not fill it"
                yield _gap(file, frame.offset, frame.end, problem)
        position = frame.end


def _next_frame(data: bytes, start: int) -> Frame | None:
    """Return the first frame at or after `start` with a right checksum, of whatever epoch."""
    position = data.find(FRAME_MAGIC, start)
    while position >= 0:
        frame = decode_frame(data, position)
        if frame is not None:
            return frame
        position = data.find(FRAME_MAGIC, position + 1)
    return None


def _gap(file: str, start: int, end: int, problem: str) -> Piece:
    return Piece(file, start, end, 0, [], f"{problem} in {end - start} bytes")
