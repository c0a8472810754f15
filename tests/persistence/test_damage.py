"""Torn tails are cut, damage is refused, and whoever refuses has changed nothing."""

from collections.abc import Callable

import pytest

from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.errors import (
    DataDirectoryError,
    DataDirectoryUnreadable,
    LogDamaged,
    UnknownFormatVersion,
)
from troth.persistence.wal.frames import (
    FRAME_HEADER_BYTES,
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    encode_segment_header,
)
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import end_without_zeros

from .lives import (
    PATH,
    Life,
    Numbered,
    open_directory,
    opened,
    recover,
    segment_paths,
)
from .reference import crc32c

ALL = [
    ("append", [10]),
    ("append", [20, 30]),
    ("append", [500]),
    ("append", [600]),
    ("append", [40]),
]


def written(*, sealed: bool) -> tuple[SimulatedFiles, list[Numbered]]:
    """Return a small directory of three segments with records, and what is in it."""
    life = Life(SimulatedFiles())
    life.play([*ALL, ("restart",), ("append", [50]), ("append", [60])])
    if sealed:
        assert life.directory is not None
        life.directory.close()
    life.files.end_process()
    return life.files, life.acknowledged


def refused(files: SimulatedFiles, error: type[DataDirectoryError] = LogDamaged) -> str:
    """Check that recovery refuses and changes nothing; return its message."""
    before = files.contents()
    files.end_process()
    with pytest.raises(error) as caught:
        recover(files)
    assert files.contents() == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "Nothing was changed." in message
    return message


def last_frame(files: SimulatedFiles) -> tuple[str, int, int]:
    """Return path, start and end of the last batch of a log that ends without a seal."""
    path = segment_paths(files)[-1]
    end = len(files.read(path).rstrip(b"\0"))
    return path, end - FRAME_HEADER_BYTES - 16 - 60, end


@pytest.mark.slow
def test_every_flipped_bit_is_refused_or_harmless() -> None:
    """One rotten bit anywhere is refused without a change, or everything is still there."""
    files, acknowledged = written(sealed=True)
    refused_count = harmless_count = 0
    for path, content in files.contents().items():
        for bit in range(len(content or b"") * 8):
            files.flip_bit(path, bit // 8, bit % 8)
            before = files.contents()
            directory = None
            try:
                directory = open_directory(files)
                recovered = list(directory.recover())
            except DataDirectoryError:
                refused_count += 1
                assert files.contents() == before
                files.flip_bit(path, bit // 8, bit % 8)
            else:
                harmless_count += 1
                assert recovered == acknowledged, (path, bit)
                files, _ = written(sealed=True)
            files.end_process()

    assert refused_count > 10_000
    assert harmless_count == 2 * SEAL_BYTES * 8  # two segments end with a seal


@pytest.mark.slow
def test_a_last_batch_torn_at_any_byte_is_cut() -> None:
    """Of a batch that never became durable, any part may be there; recovery cuts it."""
    files, acknowledged = written(sealed=False)
    path, start, end = last_frame(files)
    whole = files.read(path)[start:end]
    for cut in range(len(whole)):
        for kept in (whole[:cut] + bytes(len(whole) - cut), bytes(cut) + whole[cut:]):
            files.overwrite(path, start, kept)
            directory = open_directory(files)
            recovered = list(directory.recover())
            report = directory.report

            intact = kept == whole
            torn_bytes = 0 if intact else len(kept.rstrip(b"\0"))
            assert recovered == (acknowledged if intact else acknowledged[:-1])
            assert report.torn_bytes_cut == torn_bytes
            assert (report.torn_file, report.torn_offset) == (
                (path, start) if torn_bytes else (None, None)
            )
            assert report.records_count == len(recovered)
            assert files.size(path) == (end if intact else start)
            files, _ = written(sealed=False)


@pytest.mark.parametrize("zeros_bytes", [0, 5, 65_535, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("content", [b"", b"x", b"\0x", bytes(70_000) + b"x", b"x\0" * 40_000])
def test_zeros_at_the_end_are_found_however_many(content: bytes, zeros_bytes: int) -> None:
    data = b"frame\0" + content + bytes(zeros_bytes)
    for offset in (0, 5, 6):
        assert end_without_zeros(data, offset) == max(offset, len(data.rstrip(b"\0")))


def test_a_sealed_batch_is_never_taken_for_torn() -> None:
    """With its seal behind it, the last batch is known to have been durable."""
    files, acknowledged = written(sealed=True)
    path = segment_paths(files)[-1]
    end = files.size(path) - SEAL_BYTES

    files.flip_bit(path, end - 1, 0)

    message = refused(files)
    assert f"{path} is damaged at byte {end - FRAME_HEADER_BYTES - 16 - 60}" in message
    assert "a valid one follows it" in message
    assert "troth log verify" in message
    assert "troth log repair" in message
    assert acknowledged


def test_a_lost_seal_loses_nothing() -> None:
    """A seal is not synced; without it, or with half of it, all batches are there."""
    files, acknowledged = written(sealed=True)
    path = segment_paths(files)[-1]
    for kept_bytes in range(SEAL_BYTES):
        files.overwrite(
            path, files.size(path) - SEAL_BYTES + kept_bytes, bytes(SEAL_BYTES - kept_bytes)
        )

        assert recover(files) == acknowledged

        files, _ = written(sealed=True)


def test_a_torn_seal_before_the_next_segment_is_harmless() -> None:
    """The header of the next segment proves that nothing but the seal is missing."""
    life = Life(SimulatedFiles())
    life.play([("append", [500]), ("seal",), ("append", [900])])
    life.files.end_process()
    first = segment_paths(life.files)[0]
    life.files.overwrite(first, life.files.size(first) - SEAL_BYTES, b"\0\0\0\0")

    assert recover(life.files) == life.acknowledged


def test_a_batch_torn_over_its_predecessors_seal_is_cut() -> None:
    """The next batch overwrites the seal, and may have reached the disk only behind it."""
    life = Life(SimulatedFiles())
    life.play([("append", [10]), ("seal",)])
    files = life.files
    path = segment_paths(files)[-1]
    end = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 16 + 10 + SEAL_BYTES
    files.overwrite(path, end + 5, b"garbage of the next batch")
    files.end_process()

    directory = open_directory(files)

    assert list(directory.recover()) == life.acknowledged
    assert directory.report.torn_bytes_cut == 5 + len(b"garbage of the next batch")


def test_an_invalid_batch_in_the_middle_is_refused() -> None:
    """Valid batches after it prove that it was durable."""
    files, _ = written(sealed=False)
    path = segment_paths(files)[0]
    files.flip_bit(path, SEGMENT_HEADER_BYTES + 50, 3)

    message = refused(files)

    assert f"{path} is damaged at byte {SEGMENT_HEADER_BYTES}: a batch is invalid" in message


def test_an_invalid_last_batch_of_an_earlier_segment_is_refused() -> None:
    """The next segment's header proves that it was durable, even if nothing follows it here."""
    files, _ = written(sealed=False)
    first, second = segment_paths(files)[:2]
    files.flip_bit(first, len(files.read(first).rstrip(b"\0")) - 1, 3)

    assert f"a batch is invalid although {second} was begun after it" in refused(files)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_missing_segment_is_refused(index: int) -> None:
    """The first or one in the middle; of the last, nobody could know without its successor."""
    files, _ = written(sealed=True)
    with opened(files):
        pass
    assert len(segment_paths(files)) == 4
    files.remove(segment_paths(files)[index])

    assert "missing" in refused(files)


def test_a_missing_log_is_refused() -> None:
    """A directory that has an identity had a segment."""
    files, _ = written(sealed=True)
    for path in segment_paths(files):
        files.remove(path)

    assert "the whole log is missing" in refused(files)


def test_a_log_directory_that_is_gone_is_refused() -> None:
    """`troth.json` alone says that there was a log."""
    files, _ = written(sealed=True)
    for path in segment_paths(files):
        files.remove(path)
    files.remove_directory(f"{PATH}/groups/0/log")

    assert "it cannot be listed (No such file or directory)" in refused(files)


def test_records_that_do_not_fill_their_frame_are_refused() -> None:
    """A frame with a right checksum around wrong lengths comes from no version of Troth."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([LogRecord(1, 1, b"first")], 1)
    path = segment_paths(files)[0]
    frame = bytearray(encode_frame([LogRecord(1, 2, b"second")], 2, 2, _first_checksum())[0])
    frame[FRAME_HEADER_BYTES + 4] = 5  # the body's length, one less
    frame[4:8] = crc32c(bytes(frame[8:])).to_bytes(4, "little")
    files.overwrite(path, files.size(path) - SEAL_BYTES, bytes(frame))

    assert "the records of a batch do not fill it" in refused(files)


def _rename(files: SimulatedFiles, path: str) -> None:
    files.rename(path, f"{PATH}/groups/0/log/{1:020d}.log")


def _other_directory(files: SimulatedFiles, path: str) -> None:
    files.overwrite(path, 0, encode_segment_header(SegmentHeader(b"x" * 16, 2, 5, 0)))


def _lower_epoch(files: SimulatedFiles, path: str) -> None:
    header = files.read(path)
    previous_checksum = int.from_bytes(header[12:16], "little")
    first_sequence = int.from_bytes(header[24:32], "little")
    new = SegmentHeader(header[32:48], 1, first_sequence, previous_checksum)
    files.overwrite(path, 0, encode_segment_header(new))


def _header(files: SimulatedFiles, path: str) -> None:
    files.overwrite(path, 0, bytes(SEGMENT_HEADER_BYTES))


def _short(files: SimulatedFiles, path: str) -> None:
    file = files.open(path)
    file.truncate(SEGMENT_HEADER_BYTES - 1)
    file.sync()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_rename, "its name does not match the first sequence in it"),
        (_other_directory, "it belongs to another data directory"),
        (_lower_epoch, "it does not continue the segment before it"),
        (_header, "its header is invalid"),
        (_short, "its header is invalid"),
    ],
)
def test_a_damaged_segment_is_refused(
    damage: Callable[[SimulatedFiles, str], None], problem: str
) -> None:
    """A segment must be what its name, its directory and its predecessor say."""
    files, _ = written(sealed=True)
    damage(files, segment_paths(files)[1])

    assert problem in refused(files)


def test_a_segment_of_a_newer_format_is_refused() -> None:
    """A newer version may have changed anything, so nothing in it is interpreted."""
    files, _ = written(sealed=True)
    path = segment_paths(files)[1]
    header = encode_segment_header(SegmentHeader(bytes(range(16)), 2, 5, 0, format_version=2))
    files.overwrite(path, 0, header)

    assert "has format version 2" in refused(files, UnknownFormatVersion)


def _forged(problem: str) -> tuple[list[LogRecord], int, int, int]:
    """Return batch, sequence, epoch and chain checksum, one of them wrong, of a second batch."""
    batch, sequence, epoch, checksum = [LogRecord(1, 2, b"second")], 2, 2, _first_checksum()
    if problem == "sequence 7, where 2 is expected":
        sequence = 7
    elif problem == "a batch of another epoch":
        epoch = 1
    elif problem == "a batch does not continue":
        checksum += 1
    elif problem == "record 1 of shard 1 comes after 1":
        batch = [LogRecord(1, 1, b"again")]
    return batch, sequence, epoch, checksum


def _first_checksum() -> int:
    return encode_frame([LogRecord(1, 1, b"first")], 1, 2, 0)[1]


@pytest.mark.parametrize(
    "problem",
    [
        "sequence 7, where 2 is expected",
        "a batch of another epoch",
        "a batch does not continue",
        "record 1 of shard 1 comes after 1",
    ],
)
def test_a_valid_frame_in_the_wrong_place_is_refused(problem: str) -> None:
    """A checksum says that a frame is whole, not that it belongs here."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([LogRecord(1, 1, b"first")], 1)
    path = segment_paths(files)[0]
    files.overwrite(path, files.size(path) - SEAL_BYTES, encode_frame(*_forged(problem))[0])

    assert problem in refused(files)


def test_the_frame_forged_right_is_accepted() -> None:
    """The test above forges well: without a mistake, the frame is taken."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([LogRecord(1, 1, b"first")], 1)
    path = segment_paths(files)[0]
    files.overwrite(path, files.size(path) - SEAL_BYTES, encode_frame(*_forged(""))[0])

    assert [record.body for _, record in recover(files)] == [b"first", b"second"]


def test_an_unreadable_segment_is_refused() -> None:
    """An error of the disk while reading is not damage, and nothing is changed either."""
    files, acknowledged = written(sealed=True)
    files.fail("read", path_part=segment_paths(files)[1])

    assert "cannot be read (Input/output error)" in refused(files, DataDirectoryUnreadable)

    files.end_process()
    assert recover(files) == acknowledged
