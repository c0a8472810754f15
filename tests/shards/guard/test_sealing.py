"""Sealed pieces: nothing is added, left out, said again, moved or changed without being noticed."""

from random import Random

import pytest

from troth.shards.guard.sealing import SEALED_LIMIT_BYTES, Opener, Sealer
from troth.shards.mesh.frames import LinkDamaged

KEY = b"k" * 32


def opened(data: bytes, key: bytes = KEY) -> bytes:
    """Return what an end makes of all that has come."""
    return b"".join(Opener(key).open(data))


def test_what_was_said_arrives_in_pieces_of_any_size() -> None:
    luck = Random(4)
    sealer, opener = Sealer(KEY), Opener(KEY)
    said = [luck.randbytes(luck.choice((1, 16, 900, 70_000))) for _ in range(40)]
    wire = b"".join(map(sealer.seal, said))
    heard = b""
    while wire:
        count = luck.choice((1, 19, 4_000, 65_536))
        heard += b"".join(opener.open(wire[:count]))
        wire = wire[count:]
    assert heard == b"".join(said)


def test_what_is_long_goes_in_several_pieces() -> None:
    said = Random(5).randbytes(2 * SEALED_LIMIT_BYTES + 1)
    assert list(map(len, Opener(KEY).open(Sealer(KEY).seal(said)))) == [
        SEALED_LIMIT_BYTES,
        SEALED_LIMIT_BYTES,
        1,
    ]


def test_each_bit_is_sealed() -> None:
    luck = Random(6)
    wire = Sealer(KEY).seal(b"resolve order-7")
    for bit in range(8 * len(wire)):
        changed = bytearray(wire)
        changed[bit // 8] ^= 1 << (bit % 8)
        opener = Opener(KEY)
        with pytest.raises(LinkDamaged):  # a longer length waits for what comes next
            list(opener.open(bytes(changed) + luck.randbytes(SEALED_LIMIT_BYTES)))


def test_pieces_cannot_be_said_again_left_out_or_moved() -> None:
    sealer = Sealer(KEY)
    one, two, three = map(sealer.seal, (b"one", b"two", b"three"))
    assert opened(one + two + three) == b"onetwothree"
    for wrong in (one + one, one + three, two + one, two):
        with pytest.raises(LinkDamaged, match="not sealed"):
            opened(wrong)


def test_what_this_end_has_said_itself_is_not_heard_from_the_other() -> None:
    with pytest.raises(LinkDamaged, match="not sealed"):
        opened(Sealer(KEY).seal(b"one"), b"o" * 32)


def test_a_length_is_judged_before_its_content_comes() -> None:
    for length in (0, SEALED_LIMIT_BYTES + 1, 0xFFFFFFFF):
        with pytest.raises(LinkDamaged, match="sealed piece"):
            opened(length.to_bytes(4, "big") + bytes(16))


def test_what_came_before_a_bad_piece_is_heard() -> None:
    sealer = Sealer(KEY)
    pieces = Opener(KEY).open(sealer.seal(b"one") + sealer.seal(b"two")[:-1] + b"!")
    assert next(pieces) == b"one"
    with pytest.raises(LinkDamaged):
        next(pieces)
