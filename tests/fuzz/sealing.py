"""Files whose checksums are right whatever is in them, so that changes reach what is behind.

Each function takes the bytes of a file, perhaps changed, and gives them back with the checksums
that belong to them, as far as the bytes have the form of a file at all.
"""

import hashlib
import struct
import zlib

import google_crc32c
import msgspec

from troth.core.json_errors import UNREADABLE_JSON
from troth.persistence.snapshots.snapshot_file import END_MAGIC, SnapshotEnd
from troth.persistence.wal.frames import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
)

_SEGMENT_CHECKSUM_OFFSET = SEGMENT_HEADER_BYTES - 4
_FILE_START_BYTES = _BLOCK_START_BYTES = 20
_END_KIND = 3


def sealed_segment(content: bytes) -> bytes:
    """A log segment: the header's checksum, each frame's, and each frame's of the one before."""
    sealed = bytearray(content)
    if len(sealed) < SEGMENT_HEADER_BYTES:
        return content
    struct.pack_into(
        "<I",
        sealed,
        _SEGMENT_CHECKSUM_OFFSET,
        google_crc32c.value(bytes(sealed[:_SEGMENT_CHECKSUM_OFFSET])),
    )
    position = SEGMENT_HEADER_BYTES
    checksum = None
    while sealed.startswith(FRAME_MAGIC, position) and position + FRAME_HEADER_BYTES <= len(sealed):
        (payload_bytes,) = struct.unpack_from("<I", sealed, position + 8)
        end = position + FRAME_HEADER_BYTES + payload_bytes
        if end > len(sealed):
            break
        if checksum is not None:
            struct.pack_into("<I", sealed, position + 32, checksum)
        checksum = google_crc32c.value(bytes(sealed[position + 8 : end]))
        struct.pack_into("<I", sealed, position + 4, checksum)
        position = end
    return bytes(sealed)


def unpacked_snapshot(content: bytes) -> bytes:
    """A snapshot file with its blocks as they are before they are compressed, for a corpus."""
    start, position = _snapshot_start(content)
    pieces = [start]
    while position + _BLOCK_START_BYTES <= len(content) - 16:
        kind, table, zero, items_count, _, stored_bytes = struct.unpack_from(
            "<BBHIII", content, position
        )
        position += _BLOCK_START_BYTES
        block = zlib.decompress(content[position : position + stored_bytes])
        position += stored_bytes
        pieces.append(struct.pack("<BBHII", kind, table, zero, items_count, len(block)) + block)
    return b"".join(pieces)


def packed_snapshot(content: bytes) -> bytes:
    """What `unpacked_snapshot` made, perhaps changed, as a snapshot file again.

    Blocks that do not fit are left as they are. An end block gets the SHA-256 of what is before it.
    """
    start, position = _snapshot_start(content)
    made = bytearray(start)
    end_offset = 0
    while position + 12 <= len(content):
        kind, table, zero, items_count, size_bytes = struct.unpack_from("<BBHII", content, position)
        position += 12
        block = content[position : position + size_bytes]
        position += len(block)
        if kind == _END_KIND:
            block = _ended(block, hashlib.sha256(made).hexdigest())
            end_offset = len(made)
        stored = zlib.compress(block)
        head = struct.pack("<BBHIII", kind, table, zero, items_count, len(block), len(stored))
        made += head + struct.pack("<I", google_crc32c.value(head + stored)) + stored
    return bytes(made) + struct.pack("<Q8s", end_offset, END_MAGIC)


def _snapshot_start(content: bytes) -> tuple[bytes, int]:
    """Magic, version and description with the right checksum, and where they end."""
    head = content[:16].ljust(16, b"\0")
    (length_bytes,) = struct.unpack_from("<I", head, 12)
    manifest = content[_FILE_START_BYTES : _FILE_START_BYTES + length_bytes]
    return (
        head + struct.pack("<I", google_crc32c.value(head + manifest)) + manifest,
        _FILE_START_BYTES + len(manifest),
    )


def _ended(block: bytes, sha256: str) -> bytes:
    try:
        end = msgspec.json.decode(block, type=SnapshotEnd)
    except UNREADABLE_JSON:
        return block  # it is to be refused as it is
    return msgspec.json.encode(msgspec.structs.replace(end, sha256=sha256))
