"""A stream with valid frames that no owner has written in this order is refused, and says why."""

import struct
from typing import Any

import google_crc32c
import pytest

from troth.persistence.streams.chain import Chain, StreamDamaged, StreamOfLaterVersion
from troth.persistence.streams.stream_frames import (
    STREAM_MAGIC,
    FrameKind,
    StreamFrame,
    decode_stream_frame,
    encode_stream_frame,
)
from troth.persistence.wal.frames import join_records
from troth.persistence.wal.log import LogRecord

PAYLOAD = join_records([(0, 1, b"one"), (1, 1, b"two")])


def after_a_claim() -> Chain:
    """A stream with one owner, who has written two records."""
    chain = Chain("the stream")
    claim = StreamFrame(FrameKind.OWNER, 1, 1, 7, 1_000, 1, 0, 0, b"node")
    data, checksum = encode_stream_frame(claim)
    assert chain.read(1, data) == (claim, [])
    records = StreamFrame(FrameKind.RECORDS, 2, 1, 7, 1_000, 3, 2, checksum, PAYLOAD)
    _, found = chain.read(2, encode_stream_frame(records)[0])
    assert found == [LogRecord(0, 1, b"one"), LogRecord(1, 1, b"two")]
    return chain


def following(chain: Chain, **changes: Any) -> bytes:
    """The next frame of this owner, but for some fields."""
    frame = StreamFrame(
        FrameKind.ALIVE, chain.number + 1, 1, 7, 1_000, chain.next_sequence, 0, chain.checksum, b""
    )
    return encode_stream_frame(frame._replace(**changes))[0]


def more(*records: tuple[int, int, bytes], **changes: Any) -> dict[str, Any]:
    """The fields of a frame with these records."""
    return {
        "kind": FrameKind.RECORDS,
        "record_count": len(records),
        "next_sequence": 3 + len(records),
        "payload": join_records(records),
        **changes,
    }


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"number": 4}, "number 4, where 3 is expected"),
        ({"previous_checksum": 1}, "does not continue the frame before it"),
        ({"kind": FrameKind.OWNER, "epoch": 3}, "a claim that skips an owner"),
        ({"incarnation": 8}, "not of the stream's owner"),
        ({"epoch": 2}, "not of the stream's owner"),
        ({"next_sequence": 4}, "counts other records than it has"),
        ({"record_count": 1, "next_sequence": 4}, "records of the wrong kind of frame"),
        (more(), "records of the wrong kind of frame"),
        (more((0, 2, b"x"), record_count=2, next_sequence=5), "do not fill it"),
        (more((0, 2, b"x"), (2, 1, b"y"), record_count=1, next_sequence=4), "do not fill it"),
        (more((0, 1, b"x")), "record 1 of shard 0 comes after 1"),
        (more((1, 3, b"x"), (1, 2, b"y")), "record 2 of shard 1 comes after 3"),
    ],
)
def test_what_its_owner_cannot_have_written_is_refused(
    fields: dict[str, Any], problem: str
) -> None:
    """And nothing of it counts: the frame that its owner did write is taken then."""
    chain = after_a_claim()
    with pytest.raises(StreamDamaged, match=problem) as caught:
        chain.read(3, following(chain, **fields))
    assert "Restore it from a backup" in str(caught.value)
    assert caught.value.number == 3
    assert chain.read(3, following(chain, **more((1, 2, b"good"))))[1] == [LogRecord(1, 2, b"good")]


def test_a_batch_goes_on_until_its_last_part() -> None:
    """Unless another owner comes in between: then it was never acknowledged."""
    chain = after_a_claim()
    chain.read(3, following(chain, kind=FrameKind.PART, payload=b"half of a"))
    with pytest.raises(StreamDamaged, match="a batch ends in the middle of it"):
        chain.read(4, following(chain))
    claim = following(chain, kind=FrameKind.OWNER, epoch=2, incarnation=8)
    assert chain.read(4, claim)[1] == []
    taken = following(chain, epoch=2, incarnation=8, **more((0, 2, b"new")))
    assert chain.read(5, taken)[1] == [LogRecord(0, 2, b"new")]


def resealed(data: bytes) -> bytes:
    """The same bytes with the checksum that they have."""
    return STREAM_MAGIC + struct.pack("<I", google_crc32c.value(data[8:])) + data[8:]


def test_bytes_that_are_no_frame_of_this_version_are_refused() -> None:
    """Cut, longer, of a kind or a version that is unknown; also with the right checksum."""
    chain = after_a_claim()
    good = following(chain)
    assert decode_stream_frame(good) is not None
    for place, value in ((8, 2), (9, 6), (9, 0)):
        bad = bytearray(good)
        bad[place] = value
        assert decode_stream_frame(resealed(bytes(bad))) is None
    for cut in (good[:-1], b"", good[1:]):
        assert decode_stream_frame(cut) is None
    assert decode_stream_frame(resealed(good + b"x")) is None
    with pytest.raises(StreamDamaged, match="not those that were written"):
        chain.read(3, resealed(good + b"x"))


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (9, 6)])
def test_a_frame_of_a_later_version_is_not_taken_for_damage(offset: int, value: int) -> None:
    """Its format, or its kind, is one that this version does not know."""
    chain = after_a_claim()
    data = bytearray(following(chain))
    data[offset] = value

    with pytest.raises(StreamDamaged, match="not those that were written"):
        chain.read(3, bytes(data))
    with pytest.raises(StreamOfLaterVersion, match="frame 3: a later version of Troth has"):
        chain.read(3, resealed(bytes(data)))
    assert chain.number == 2
