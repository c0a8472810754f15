"""The bytes of a log segment: header, frames, records. README.md section 3 is the specification.

Pure functions; no file is touched here. Decoding answers None for bytes that are not a valid
header or frame: recovery decides what that means.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from .log import LogRecord, NewRecord

FORMAT_VERSION = 1
DATA_ID_BYTES = 16

# Both magics hold bytes that never occur in UTF-8, so a client's text cannot imitate them.
SEGMENT_MAGIC = b"\xffTROTHL\xfe"
FRAME_MAGIC = b"\xffTB\xf8"

_SEGMENT_HEADER = struct.Struct("<8sIIQQ16s12x")  # the checksum of these bytes follows
_CHECKSUM = struct.Struct("<I")
_FRAME_START = struct.Struct("<4sI")  # magic, checksum of everything after it
_FRAME_REST = struct.Struct("<IIQQI4x")
_RECORD = struct.Struct("<IIQ")

SEGMENT_HEADER_BYTES = _SEGMENT_HEADER.size + _CHECKSUM.size
FRAME_HEADER_BYTES = _FRAME_START.size + _FRAME_REST.size
SEAL_BYTES = FRAME_HEADER_BYTES
RECORD_HEADER_BYTES = _RECORD.size
BATCH_BYTES_MAX = 1 << 30  # a frame is built and read in memory as one piece

assert SEGMENT_HEADER_BYTES == 64
assert FRAME_HEADER_BYTES == 40
assert BATCH_BYTES_MAX < 1 << 32, "the length field has 32 bits"


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment."""

    data_id: bytes
    epoch: int
    first_sequence: int
    previous_checksum: int
    format_version: int = FORMAT_VERSION


class Frame(NamedTuple):
    """A valid frame found at `offset`: its checksum was right."""

    offset: int
    end: int
    checksum: int
    record_count: int
    first_sequence: int
    epoch: int
    previous_checksum: int

    @property
    def is_seal(self) -> bool:
        """Return whether this is an empty frame that confirms the batch before it."""
        return self.record_count == 0


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the 64 bytes a segment begins with."""
    assert len(header.data_id) == DATA_ID_BYTES
    start = _SEGMENT_HEADER.pack(
        SEGMENT_MAGIC,
        header.format_version,
        header.previous_checksum,
        header.epoch,
        header.first_sequence,
        header.data_id,
    )
    return start + _CHECKSUM.pack(google_crc32c.value(start))


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """Return the header `data` begins with, or None if it is not a valid one of any version."""
    if len(data) < SEGMENT_HEADER_BYTES or not data.startswith(SEGMENT_MAGIC):
        return None
    start = data[: _SEGMENT_HEADER.size]
    if _CHECKSUM.unpack_from(data, len(start))[0] != google_crc32c.value(start):
        return None
    _, version, previous_checksum, epoch, first_sequence, data_id = _SEGMENT_HEADER.unpack(start)
    header = SegmentHeader(data_id, epoch, first_sequence, previous_checksum, version)
    # The zeros are part of the format: encode again rather than trust what is not looked at.
    return header if encode_segment_header(header)[: len(start)] == start else None


def encode_frame(
    batch: Sequence[NewRecord], first_sequence: int, epoch: int, previous_checksum: int
) -> tuple[bytes, int]:
    """Return a batch as one frame, and its checksum. An empty batch gives a seal.

    Raises `ValueError` if a number is out of its range or the batch is larger than
    `BATCH_BYTES_MAX`.
    """
    payload = join_records(batch)
    if len(payload) > BATCH_BYTES_MAX:
        raise ValueError(f"a batch of {len(payload)} bytes is above {BATCH_BYTES_MAX}")
    rest = _FRAME_REST.pack(len(payload), len(batch), first_sequence, epoch, previous_checksum)
    checksum = google_crc32c.extend(google_crc32c.value(rest), payload)
    return b"".join((_FRAME_START.pack(FRAME_MAGIC, checksum), rest, payload)), checksum


def join_records(batch: Sequence[NewRecord]) -> bytes:
    """Return a batch's records one behind the other. Raises `ValueError` as `encode_frame`."""
    pack = _RECORD.pack
    pieces: list[bytes] = []
    add = pieces.append
    try:
        for shard, shard_sequence, body in batch:
            add(pack(shard, len(body), shard_sequence))
            add(body)
    except struct.error as error:
        raise ValueError(f"a record's number is out of range: {error}") from error
    return b"".join(pieces)


def encode_seal(next_sequence: int, epoch: int, previous_checksum: int) -> bytes:
    """Return the empty frame that confirms the batch with `previous_checksum`."""
    return encode_frame((), next_sequence, epoch, previous_checksum)[0]


def decode_frame(data: bytes, offset: int) -> Frame | None:
    """Return the frame at `offset` if its magic, its length and its checksum are right."""
    if not data.startswith(FRAME_MAGIC, offset) or offset + FRAME_HEADER_BYTES > len(data):
        return None
    _, checksum = _FRAME_START.unpack_from(data, offset)
    rest_offset = offset + _FRAME_START.size
    payload_bytes, record_count, first_sequence, epoch, previous_checksum = _FRAME_REST.unpack_from(
        data, rest_offset
    )
    end = offset + FRAME_HEADER_BYTES + payload_bytes
    if end > len(data) or google_crc32c.value(data[rest_offset:end]) != checksum:
        return None
    return Frame(offset, end, checksum, record_count, first_sequence, epoch, previous_checksum)


def decode_records(data: bytes, frame: Frame) -> list[LogRecord] | None:
    """Return a frame's records, or None if they do not fill it exactly."""
    return split_records(data, frame.offset + FRAME_HEADER_BYTES, frame.end, frame.record_count)


def split_records(data: bytes, start: int, end: int, count: int) -> list[LogRecord] | None:
    """Return the records that stand from `start` to `end`, or None if they do not fill that."""
    records: list[LogRecord] = []
    unpack = _RECORD.unpack_from
    position = start
    for _ in range(count):
        body_start = position + RECORD_HEADER_BYTES
        if body_start > end:
            return None
        shard, body_bytes, shard_sequence = unpack(data, position)
        position = body_start + body_bytes
        records.append(LogRecord(shard, shard_sequence, data[body_start:position]))
    return records if position == end else None


def find_frame(data: bytes, start: int, epoch: int, sequence_min: int) -> Frame | None:
    """Return the first valid frame at or after `start` of this epoch that is not from the past."""
    position = data.find(FRAME_MAGIC, start)
    while position >= 0:
        frame = decode_frame(data, position)
        if frame is not None and frame.epoch == epoch and frame.first_sequence >= sequence_min:
            return frame
        position = data.find(FRAME_MAGIC, position + 1)
    return None
