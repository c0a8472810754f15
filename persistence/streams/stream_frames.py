"""The bytes of a frame in a stream: header and payload. README.md section 2 is the specification.

Pure functions; nothing is sent or read here. Decoding answers None for bytes that are not a valid
frame: `chain.py` decides what that means.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import google_crc32c

STREAM_MAGIC: Final = b"\xffTS\xf6"

_START: Final = struct.Struct("<4sI")  # magic, checksum of everything after it
_REST: Final = struct.Struct("<BB2xIIIQQQQQ")

STREAM_HEADER_BYTES: Final = _START.size + _REST.size
STREAM_FORMAT_VERSION: Final = 1

assert STREAM_HEADER_BYTES == 64


class FrameKind(IntEnum):
    """What a frame is for; its value is what stands in the header."""

    OWNER = 1
    """A claim: from here on the group has this owner. The payload names the node, in UTF-8."""
    ALIVE = 2
    """The owner has nothing to append; this proves that it still owns."""
    RELEASED = 3
    """The owner has stopped answering: the node that claims need not wait for its lease to end."""
    PART = 4
    """A piece of a batch that goes on in the next frame."""
    RECORDS = 5
    """A batch, or its last piece."""


class StreamFrame(NamedTuple):
    """One frame. `number` counts frames, `next_sequence` the records before and in it.

    `time_ms` is the owner's time, in ms since 1970. `record_count` is that of the whole batch, and
    0 but for RECORDS. `incarnation` tells one start of a process from all others.
    """

    kind: FrameKind
    number: int
    epoch: int
    incarnation: int
    time_ms: int
    next_sequence: int
    record_count: int
    previous_checksum: int
    payload: bytes


def encode_stream_frame(frame: StreamFrame) -> tuple[bytes, int]:
    """Return a frame's bytes, and its checksum."""
    rest = _REST.pack(
        STREAM_FORMAT_VERSION,
        frame.kind,
        len(frame.payload),
        frame.record_count,
        frame.previous_checksum,
        frame.number,
        frame.epoch,
        frame.incarnation,
        frame.time_ms,
        frame.next_sequence,
    )
    checksum = google_crc32c.extend(google_crc32c.value(rest), frame.payload)
    return b"".join((_START.pack(STREAM_MAGIC, checksum), rest, frame.payload)), checksum


def is_of_later_version(data: bytes) -> bool:
    """Return whether `data` is whole, but of a format or kind that this version does not know."""
    if len(data) < STREAM_HEADER_BYTES or not data.startswith(STREAM_MAGIC):
        return False
    _, checksum = _START.unpack_from(data)
    version, kind, *_ = _REST.unpack_from(data, _START.size)
    is_later = version > STREAM_FORMAT_VERSION or kind > max(FrameKind)
    return is_later and bool(checksum == google_crc32c.value(data[_START.size :]))


def decode_stream_frame(data: bytes) -> tuple[StreamFrame, int] | None:
    """Return the frame that `data` is, and its checksum; None if it is not a valid one."""
    if len(data) < STREAM_HEADER_BYTES or not data.startswith(STREAM_MAGIC):
        return None
    _, checksum = _START.unpack_from(data)
    if google_crc32c.value(data[_START.size :]) != checksum:
        return None
    version, kind, payload_bytes, record_count, previous_checksum, *numbers = _REST.unpack_from(
        data, _START.size
    )
    if version != STREAM_FORMAT_VERSION or kind not in FrameKind.__members__.values():
        return None
    if STREAM_HEADER_BYTES + payload_bytes != len(data):
        return None
    number, epoch, incarnation, time_ms, next_sequence = numbers
    frame = StreamFrame(
        FrameKind(kind),
        number,
        epoch,
        incarnation,
        time_ms,
        next_sequence,
        record_count,
        previous_checksum,
        data[STREAM_HEADER_BYTES:],
    )
    # The zeros are part of the format: encode again rather than trust what is not looked at.
    return (frame, checksum) if encode_stream_frame(frame)[0] == data else None
