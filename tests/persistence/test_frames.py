"""The byte layout, against bytes and a checksum written down independently of the code."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.persistence.wal import frames
from troth.persistence.wal.frames import (
    FRAME_HEADER_BYTES,
    SegmentHeader,
    decode_frame,
    decode_records,
    decode_segment_header,
    encode_frame,
    encode_seal,
    encode_segment_header,
    find_frame,
)
from troth.persistence.wal.log import LogRecord

from .reference import crc32c

DATA_ID = bytes(range(16))
HEADER_HEX = (
    "ff54524f54484cfe"  # magic
    "01000000"  # format version
    "78563412"  # checksum of the last batch before
    "0200000000000000"  # epoch
    "6712000000000000"  # first sequence, 4711
    "000102030405060708090a0b0c0d0e0f"  # data id
    "000000000000000000000000"
    "88342377"  # checksum
)
FRAME_HEX = (
    "ff5442f8"  # magic
    "a77e439d"  # checksum
    "28000000"  # payload length, 40
    "02000000"  # records
    "6712000000000000"  # first sequence, 4711
    "0200000000000000"  # epoch
    "78563412"  # checksum of the batch before
    "00000000"
    "03000000" "05000000" "0900000000000000" "68656c6c6f"  # shard 3, length, number 9, hello
    "04000000" "03000000" "0100000000000000" "c3a921"  # shard 4, length, number 1, é!
)  # fmt: skip
BATCH = [LogRecord(3, 9, b"hello"), LogRecord(4, 1, "é!".encode())]

RECORDS = st.lists(
    st.builds(
        LogRecord,
        shard=st.integers(0, 2**32 - 1),
        shard_sequence=st.integers(0, 2**64 - 1),
        body=st.binary(max_size=50),
    ),
    max_size=5,
)


def test_the_checksum_of_the_tests_is_crc32c() -> None:
    """The check value of the CRC catalogue."""
    assert crc32c(b"123456789") == 0xE3069283


def test_segment_header_bytes() -> None:
    """A segment header is exactly the documented 64 bytes."""
    encoded = encode_segment_header(SegmentHeader(DATA_ID, 2, 4711, 0x12345678))

    assert encoded.hex() == HEADER_HEX
    assert len(encoded) == 64
    assert struct.unpack("<I", encoded[60:])[0] == crc32c(encoded[:60])


def test_frame_bytes() -> None:
    """A frame is exactly the documented bytes, and its checksum covers all that follows it."""
    encoded, checksum = encode_frame(BATCH, 4711, 2, 0x12345678)

    assert encoded.hex() == FRAME_HEX
    assert checksum == struct.unpack_from("<I", encoded, 4)[0] == crc32c(encoded[8:])


def test_a_seal_is_an_empty_frame() -> None:
    """A seal has 40 bytes, no records, and the next sequence."""
    frame = decode_frame(encode_seal(4713, 2, 7), 0)

    assert frame is not None
    assert frame.is_seal
    assert (frame.end, frame.first_sequence, frame.previous_checksum) == (40, 4713, 7)


@given(
    data_id=st.binary(min_size=16, max_size=16),
    epoch=st.integers(0, 2**64 - 1),
    first_sequence=st.integers(0, 2**64 - 1),
    previous_checksum=st.integers(0, 2**32 - 1),
)
def test_header_round_trip(
    data_id: bytes, epoch: int, first_sequence: int, previous_checksum: int
) -> None:
    """What is encoded is decoded."""
    header = SegmentHeader(data_id, epoch, first_sequence, previous_checksum)

    assert decode_segment_header(encode_segment_header(header) + b"more") == header


@given(batch=RECORDS, before=st.binary(max_size=20), after=st.binary(max_size=20))
def test_frame_round_trip(batch: list[LogRecord], before: bytes, after: bytes) -> None:
    """A frame is found wherever it is, with its records."""
    encoded, checksum = encode_frame(batch, 5, 6, 7)
    data = before + encoded + after

    frame = decode_frame(data, len(before))

    assert frame is not None
    assert frame == (len(before), len(before) + len(encoded), checksum, len(batch), 5, 6, 7)
    assert decode_records(data, frame) == batch
    assert find_frame(data, 0, epoch=6, sequence_min=5) == frame
    assert find_frame(data, 0, epoch=6, sequence_min=6) is None
    assert find_frame(data, 0, epoch=5, sequence_min=5) is None


def test_every_flipped_bit_is_noticed() -> None:
    """A header or frame with any one bit changed is not valid."""
    for encoded, decode in (
        (bytes.fromhex(HEADER_HEX), decode_segment_header),
        (bytes.fromhex(FRAME_HEX), lambda data: decode_frame(data, 0)),
    ):
        assert decode(encoded) is not None
        for bit in range(len(encoded) * 8):
            changed = bytearray(encoded)
            changed[bit // 8] ^= 1 << bit % 8
            assert decode(bytes(changed)) is None, bit


def test_every_cut_is_noticed() -> None:
    """A frame that is not all there is not valid, nor is unwritten space."""
    encoded = bytes.fromhex(FRAME_HEX)
    for length in range(len(encoded)):
        assert decode_frame(encoded[:length], 0) is None, length
        assert decode_frame(encoded[:length].ljust(len(encoded), b"\0"), 0) is None, length
    assert decode_frame(bytes(FRAME_HEADER_BYTES), 0) is None


@pytest.mark.parametrize("record_count", [1, 3])
def test_records_must_fill_their_frame(record_count: int) -> None:
    """A frame with a right checksum and a wrong number of records has no records."""
    data = bytes.fromhex(FRAME_HEX)
    frame = decode_frame(data, 0)

    assert frame is not None
    assert decode_records(data, frame._replace(record_count=record_count)) is None


@pytest.mark.parametrize(
    "record", [LogRecord(-1, 1, b""), LogRecord(2**32, 1, b""), LogRecord(0, 2**64, b"")]
)
def test_numbers_out_of_range(record: LogRecord) -> None:
    """A number that does not fit is refused."""
    with pytest.raises(ValueError, match="out of range"):
        encode_frame([record], 1, 1, 0)


def test_a_batch_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch above the limit is refused before its length field could overflow."""
    monkeypatch.setattr(frames, "BATCH_BYTES_MAX", 20)
    encode_frame([LogRecord(0, 1, b"1234")], 1, 1, 0)

    with pytest.raises(ValueError, match="a batch of 21 bytes is above 20"):
        encode_frame([LogRecord(0, 1, b"12345")], 1, 1, 0)
