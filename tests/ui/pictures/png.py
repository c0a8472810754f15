"""Makes a screenshot a third of its size: a palette of at most 256 colors instead of all.

Grounds and texts keep their colors exactly, as the most frequent ones are in the palette. Of the
others it has those that lie some distance apart, the least with which it has room; each color that
is not in it becomes the nearest that is, so no pixel is further than that from what it was.
"""

import struct
import zlib
from collections import Counter
from typing import Final

PALETTE_COUNT: Final = 256
EXACT_COUNT: Final = 64
"""How many of the most frequent colors stay what they are, however near to each other."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB: Final = 2
_INDEXED: Final = 3
_CHANNELS: Final = 3
_HEADER: Final = ">IIBBBBB"

Color = tuple[int, int, int]


def smaller(png: bytes) -> bytes:
    """Return a PNG with a palette. It takes one with 8 bits each of red, green and blue."""
    width, height, rows = _decoded(png)
    pixels = [list(zip(row[::3], row[1::3], row[2::3], strict=True)) for row in rows]
    counts = Counter(pixel for row in pixels for pixel in row)
    palette = palette_of(counts)
    index_of = {color: nearest(color, palette) for color in counts}
    lines = b"".join(b"\0" + bytes(map(index_of.__getitem__, row)) for row in pixels)
    header = struct.pack(_HEADER, width, height, 8, _INDEXED, 0, 0, 0)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes(part for color in palette for part in color)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def palette_of(counts: Counter[Color]) -> list[Color]:
    """Return the colors to keep, the most frequent first."""
    ordered = [color for color, _ in counts.most_common()]
    limit = 0
    while True:
        kept = ordered[:EXACT_COUNT]
        for color in ordered[EXACT_COUNT:]:
            if all(_distance(color, one) > limit for one in kept):
                kept.append(color)
            if len(kept) > PALETTE_COUNT:
                break
        else:
            return kept
        limit += 2


def nearest(color: Color, palette: list[Color]) -> int:
    """Return which color of the palette is nearest to one."""
    return min(range(len(palette)), key=lambda index: _distance(color, palette[index]))


def _distance(one: Color, other: Color) -> int:
    """Return by how much the channel differs that differs most."""
    return max(abs(one[0] - other[0]), abs(one[1] - other[1]), abs(one[2] - other[2]))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _decoded(png: bytes) -> tuple[int, int, list[bytes]]:
    """Return width, height and the rows, without what PNG does to them for compression."""
    assert png.startswith(_SIGNATURE)
    chunks: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += length + 12
    width, height, depth, color, _, _, is_interlaced = struct.unpack(_HEADER, chunks[b"IHDR"])
    assert (depth, color, is_interlaced) == (8, _RGB, 0), "not what Chromium makes"
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = width * _CHANNELS
    before = bytes(stride)
    rows = []
    for start in range(0, len(raw), stride + 1):
        before = _unfiltered(raw[start], raw[start + 1 : start + 1 + stride], before)
        rows.append(before)
    return width, height, rows


def _unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """Return a row; PNG has written how it differs from its neighbors in one of five ways."""
    row = bytearray(_CHANNELS) + line
    corner = bytes(_CHANNELS) + above
    for index in range(_CHANNELS, len(row)):
        left, up = row[index - _CHANNELS], corner[index]
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            guess = _paeth(left, up, corner[index - _CHANNELS])
        else:
            return line
        row[index] = (row[index] + guess) & 0xFF
    return bytes(row[_CHANNELS:])


def _paeth(left: int, up: int, corner: int) -> int:
    """Return whichever neighbor is nearest to what the three lead one to expect."""
    expected = left + up - corner
    return min((left, up, corner), key=lambda one: abs(expected - one))
