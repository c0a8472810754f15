"""A strict reader of zip files: which members the bytes hold, if every reader would agree on them.

Rules of this file:

- Only what usual tools write is accepted: one volume, no zip64, stored or deflated members. Of the
  rest, each refusal says what it is.
- The central directory decides, and nothing may contradict it: the members lie one behind the other
  from the first byte on, their local headers say the same, no byte belongs to none or to two.
- Names are bytes here, nothing is judged about them; nothing is written. Sizes are what the headers
  say until `pieces` has counted, which never makes more than that.

PKWARE's APPNOTE 6.3 names the fields.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_END: Final = struct.Struct("<4s4H2LH")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_END_SIGNATURE: Final = b"PK\x05\x06"
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"
_ZIP64_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES: Final = 20
_COMMENT_LIMIT_BYTES: Final = 0xFFFF
_SATURATED: Final = 0xFFFFFFFF  # the real number is in a zip64 field

_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
_HAS_DESCRIPTOR: Final = 1 << 3
_STORED: Final = 0
_DEFLATED: Final = 8

_INPUT_BYTES: Final = 16 * 1024
_PIECE_BYTES: Final = 64 * 1024


class ZipRefused(ValueError):
    """Bytes that are not a zip file, or not one that every reader surely reads the same way."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the central directory says about a member; its data are `content[start:end]`."""

    name: bytes
    mode: int
    method: int
    crc: int
    size_bytes: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    mode: int
    offset: int


def read_members(content: bytes, limit_count: int) -> list[Member]:
    """Find the members, in the directory's order. Raises ZipRefused, also above `limit_count`."""
    directory_start, end_start, count = _find_directory(content)
    if count > limit_count:
        raise ZipRefused(f"must have at most {limit_count} entries (got {count})")
    headers = _read_directory(content, directory_start, end_start, count)
    in_place = sorted(headers, key=lambda header: header.offset)
    found: dict[int, Member] = {}
    if in_place and in_place[0].offset != 0:
        raise ZipRefused("has bytes before its first entry; re-create it with a standard zip tool")
    for place, header in enumerate(in_place):
        is_last = place + 1 == len(in_place)
        limit = directory_start if is_last else in_place[place + 1].offset
        found[id(header)] = _locate(content, header, limit)
    if not in_place and directory_start != 0:
        raise ZipRefused("has bytes before its directory; re-create it with a standard zip tool")
    return [found[id(header)] for header in headers]


def _find_directory(content: bytes) -> tuple[int, int, int]:
    """Return where the central directory begins and ends, and how many members it has."""
    # Some tools fill up to whole blocks with zeros.
    length = len(content.rstrip(b"\0"))
    tail_start = max(0, length - _END.size - _COMMENT_LIMIT_BYTES)
    at = content.rfind(_END_SIGNATURE, tail_start)
    if at < 0:
        if content.startswith(b"\x1f\x8b"):
            raise ZipRefused("is compressed with gzip; a zip archive is needed")
        if content.startswith(_LOCAL_SIGNATURE):
            raise ZipRefused("is a zip archive without its end; it did not arrive whole")
        raise ZipRefused("is not a zip archive")
    # A reader that starts from the other side must not find another end, inside a comment.
    if len(content) - at < _END.size or content.find(_END_SIGNATURE, tail_start) != at:
        raise ZipRefused("has several ends; re-create it without a comment")
    _, disk, first_disk, on_disk, count, size_bytes, start, comment_bytes = _END.unpack_from(
        content, at
    )
    end = at + _END.size + comment_bytes
    if end > len(content) or content[end:].strip(b"\0"):
        raise ZipRefused("has bytes after its end; send nothing but the archive")
    locator_start = at - _ZIP64_LOCATOR_BYTES
    if (
        start == _SATURATED
        or size_bytes == _SATURATED
        or count == 0xFFFF
        or (locator_start >= 0 and content.startswith(_ZIP64_LOCATOR_SIGNATURE, locator_start))
    ):
        raise ZipRefused("is a zip64 archive, which is for larger ones; make it without zip64")
    if disk or first_disk or on_disk != count:
        raise ZipRefused("is one part of several; send it in one piece")
    if start + size_bytes != at:
        raise ZipRefused("has a directory that is not where its end says it is")
    return start, at, count


def _read_directory(content: bytes, at: int, end: int, count: int) -> list[_Header]:
    headers = []
    for _ in range(count):
        if end - at < _CENTRAL.size or not content.startswith(_CENTRAL_SIGNATURE, at):
            raise ZipRefused("has a damaged directory")
        fields = _CENTRAL.unpack_from(content, at)
        flags, method = fields[3:5]
        crc, packed_bytes, size_bytes, name_bytes, extra_bytes, comment_bytes = fields[7:13]
        disk, _, attributes, offset = fields[13:17]
        at += _CENTRAL.size
        name = content[at : at + name_bytes]
        at += name_bytes + extra_bytes + comment_bytes
        if at > end:
            raise ZipRefused("has a damaged directory")
        if disk or _SATURATED in (packed_bytes, size_bytes, offset):
            raise ZipRefused("is a zip64 archive or one part of several; make it without zip64")
        mode = attributes >> 16
        headers.append(_Header(name, flags, method, crc, packed_bytes, size_bytes, mode, offset))
    if at != end:
        raise ZipRefused("has a damaged directory")
    return headers


def _locate(content: bytes, header: _Header, limit: int) -> Member:
    """Find a member's data, before `limit`, and hold its local header against the directory."""
    shown = show(header.name)
    if header.flags & _ENCRYPTED:
        raise ZipRefused(f"{shown}: is encrypted; make the archive without a password")
    if header.method not in (_STORED, _DEFLATED):
        raise ZipRefused(
            f"{shown}: is compressed with method {header.method}; it must be stored or deflated"
        )
    at = header.offset
    if limit - at < _LOCAL.size or not content.startswith(_LOCAL_SIGNATURE, at):
        raise ZipRefused(f"{shown}: is not where the directory says it is")
    fields = _LOCAL.unpack_from(content, at)
    flags, method = fields[2:4]
    crc, packed_bytes, size_bytes, name_bytes, extra_bytes = fields[6:11]
    name_start = at + _LOCAL.size
    start = name_start + name_bytes + extra_bytes
    end = start + header.packed_bytes
    if end > limit:
        raise ZipRefused(f"{shown}: shares bytes with another entry or the directory")
    if (
        content[name_start : name_start + name_bytes] != header.name
        or method != header.method
        or (flags ^ header.flags) & (_ENCRYPTED | _HAS_DESCRIPTOR)
    ):
        raise ZipRefused(f"{shown}: its own header and the directory contradict each other")
    after = content[end:limit]
    if header.flags & _HAS_DESCRIPTOR:
        is_as_said = after in _descriptors(header)
    else:
        is_as_said = not after and all(
            local in (said, _SATURATED)
            for local, said in (
                (packed_bytes, header.packed_bytes),
                (size_bytes, header.size_bytes),
            )
        )
        is_as_said = is_as_said and crc == header.crc
    if not is_as_said:
        raise ZipRefused(f"{shown}: its own header and the directory contradict each other")
    return Member(
        header.name, header.mode, header.method, header.crc, header.size_bytes, start, end
    )


def _descriptors(header: _Header) -> set[bytes]:
    """Return all ways to write down after the data what was not known before them."""
    bare = {
        struct.pack(layout, header.crc, header.packed_bytes, header.size_bytes)
        for layout in ("<3L", "<L2Q")
    }
    return bare | {_DESCRIPTOR_SIGNATURE + descriptor for descriptor in bare}


def pieces(content: bytes, member: Member) -> Iterator[bytes]:
    """Yield the data of a member, piece by piece, never more than its size.

    Raises ZipRefused, at the latest after the last piece, if they are not what the headers say.
    """
    shown = show(member.name)
    size_bytes = crc = 0
    source = _inflated if member.method == _DEFLATED else _stored
    for piece in source(content, member):
        size_bytes += len(piece)
        if size_bytes > member.size_bytes:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if size_bytes != member.size_bytes:
        raise ZipRefused(f"{shown}: is not as large as its header says")
    if crc != member.crc:
        raise ZipRefused(f"{shown}: is damaged (its checksum differs)")


def _stored(content: bytes, member: Member) -> Iterator[bytes]:
    for at in range(member.start, member.end, _PIECE_BYTES):
        yield content[at : min(at + _PIECE_BYTES, member.end)]


def _inflated(content: bytes, member: Member) -> Iterator[bytes]:
    shown = show(member.name)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    at = member.start
    while not inflater.eof:
        # Data inside of the inflater can become pieces without any input.
        if inflater.unconsumed_tail:
            given = inflater.unconsumed_tail
        else:
            given = content[at : min(at + _INPUT_BYTES, member.end)]
            at += len(given)
        try:
            piece = inflater.decompress(given, _PIECE_BYTES)
        except zlib.error as error:
            raise ZipRefused(f"{shown}: is damaged ({error})") from error
        if not piece and not given:
            raise ZipRefused(f"{shown}: is damaged (it ends too early)")
        if piece:
            yield piece
    if inflater.unused_data or at != member.end:
        raise ZipRefused(f"{shown}: has bytes after its end")


def show(name: bytes) -> str:
    """Return a member's name for a message, whatever it is made of."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return repr(text) if len(name) <= 200 else f"{text!r}…"
