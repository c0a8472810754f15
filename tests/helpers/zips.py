"""Zip archives for tests, good and bad: every field can be made to lie."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

STORED = 0
DEFLATED = 8
FILE = 0o100644


def plain_zip(files: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive as Python's own library makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


@dataclass
class Item:
    """A member. What is None is made as it should be."""

    name: str | bytes
    content: bytes = b"x"
    mode: int = FILE
    method: int = DEFLATED
    flags: int = 0
    crc: int | None = None
    size_bytes: int | None = None
    packed: bytes | None = None
    packed_bytes: int | None = None
    local_name: bytes | None = None
    local_method: int | None = None
    local_size_bytes: int | None = None
    local_flags: int | None = None
    offset: int | None = None
    descriptor: bytes = b""
    after: bytes = b""
    extra: bytes = b""
    encoded_name: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.encoded_name = self.name.encode() if isinstance(self.name, str) else self.name
        if self.packed is None:
            self.packed = deflate(self.content) if self.method == DEFLATED else self.content
        if self.crc is None:
            self.crc = zlib.crc32(self.content)
        if self.size_bytes is None:
            self.size_bytes = len(self.content)
        if self.packed_bytes is None:
            self.packed_bytes = len(self.packed)


def deflate(content: bytes) -> bytes:
    """Compress as zip archives do."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def raw_zip(
    items: Sequence[Item],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    suffix: bytes = b"",
    count: int | None = None,
    disk: int = 0,
    directory_shift: int = 0,
    before_end: bytes = b"",
) -> bytes:
    """Return an archive of exactly these bytes."""
    made = bytearray(prefix)
    directory = bytearray()
    for item in items:
        assert item.packed is not None
        offset = len(made) if item.offset is None else item.offset
        size_bytes = item.size_bytes if item.local_size_bytes is None else item.local_size_bytes
        flags = item.flags if item.local_flags is None else item.local_flags
        name = item.encoded_name if item.local_name is None else item.local_name
        method = item.method if item.local_method is None else item.local_method
        sizes = (item.crc, item.packed_bytes, size_bytes)
        if item.flags & 8:
            sizes = (0, 0, 0)
        made += struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", 20, flags, method, 0, 0, *sizes, len(name), len(item.extra)
        )
        made += name + item.extra + item.packed + item.descriptor + item.after
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\x01\x02", 3 << 8 | 20, 20, item.flags, item.method, 0, 0),
            *(item.crc, item.packed_bytes, item.size_bytes),
            *(len(item.encoded_name), len(item.extra), 0, 0, 0, item.mode << 16, offset),
        )
        directory += item.encoded_name + item.extra
    start = len(made) + directory_shift
    entries = len(items) if count is None else count
    end = struct.pack(
        "<4s4H2LH",
        *(b"PK\x05\x06", disk, disk, entries, entries, len(directory), start, len(comment)),
    )
    return bytes(made + directory + before_end + end + comment + suffix)
