"""Every screen of the web UI has its pictures, which are small; `make screenshots` makes them."""

import struct
import zlib
from collections import Counter
from typing import Final

from .browser import WIDE
from .pictures.names import DIRECTORY, LIMIT_BYTES, places, wanted
from .pictures.png import EXACT_COUNT, PALETTE_COUNT, Color, nearest, palette_of, smaller

_SIZE_AT: Final = 16
"""Where a PNG says its width and height."""


def test_every_screen_has_a_screenshot() -> None:
    there = set(DIRECTORY.iterdir())
    ui = {path.stem for path in (DIRECTORY.parents[1] / "http" / "ui" / "screens").glob("*.js")}

    assert {name.partition("?")[0] for name in places()} <= ui, "each is a screen's module"
    assert sorted(path.name for path in wanted() - there) == [], "run make screenshots"
    assert sorted(path.name for path in there - wanted()) == [], "pictures of nothing"


def test_every_screenshot_is_small_and_of_one_size() -> None:
    for path in sorted(wanted()):
        content = path.read_bytes()
        assert len(content) < LIMIT_BYTES, path.name
        assert struct.unpack_from(">II", content, _SIZE_AT) == WIDE, path.name


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _picture(lines: list[bytes]) -> bytes:
    """Return a PNG, 3 pixels wide, of filtered lines."""
    header = struct.pack(">IIBBBBB", 3, len(lines), 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def test_a_smaller_picture_shows_the_same() -> None:
    # One row, (10, 20, 30) (15, 25, 35) (20, 30, 40), in each of PNG's five ways.
    row = bytes((10, 20, 30, 15, 25, 35, 20, 30, 40))
    ways = [
        b"\0" + row,
        b"\1" + bytes((10, 20, 30)) + bytes((5,)) * 6,
        b"\2" + bytes(9),
        b"\3" + bytes((5, 10, 15, 3, 3, 3, 3, 3, 3)),
        b"\4" + bytes(9),
    ]
    made = smaller(_picture(ways))
    at = made.index(b"PLTE")
    palette = made[at + 4 : at + 13]
    at = made.index(b"IDAT")
    (length,) = struct.unpack_from(">I", made, at - 4)
    lines = zlib.decompress(made[at + 4 : at + 4 + length])

    shown = [
        b"".join(palette[3 * index : 3 * index + 3] for index in lines[start + 1 : start + 4])
        for start in range(0, len(lines), 4)
    ]
    assert shown == [row] * len(ways)


def test_no_color_is_far_from_the_palette() -> None:
    counts: Counter[Color] = Counter({(n % 256, n // 8, 7): 4_000 - n for n in range(2_000)})
    palette = palette_of(counts)

    assert len(palette) <= PALETTE_COUNT
    assert palette[:EXACT_COUNT] == [color for color, _ in counts.most_common(EXACT_COUNT)]
    for color in counts:
        other = palette[nearest(color, palette)]
        assert max(abs(one - two) for one, two in zip(color, other, strict=True)) <= 24
    few: Counter[Color] = Counter({(1, 2, 3): 5, (2, 2, 3): 9})
    assert palette_of(few) == [(2, 2, 3), (1, 2, 3)]
