"""The log's interface: what it accepts, how it grows, what it forgets, what it tells."""

import os
from pathlib import Path
from random import Random

import pytest

from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.data_directory import LOG_NAME, DataDirectory
from troth.persistence.errors import LogConflict, LogFailed, MemoryRanOut
from troth.persistence.files import RealFiles
from troth.persistence.wal import segmented_log
from troth.persistence.wal.frames import SEAL_BYTES
from troth.persistence.wal.log import Log, LogRecord, MemoryLog

from .lives import (
    PATH,
    SEGMENT_BYTES,
    Life,
    open_directory,
    opened,
    recover,
    segment_paths,
)

APPENDED = ("write_at", "sync")


def record(number: int, size: int = 3) -> LogRecord:
    """Return the record with a number within shard 0."""
    return LogRecord(0, number, str(number).encode().ljust(size, b"."))


def test_the_logs_are_logs() -> None:
    """Both implementations fit the interface; the type checker reads this too."""
    with opened(SimulatedFiles()) as segmented:
        logs: list[Log] = [segmented, MemoryLog()]
        for log in logs:
            assert log.next_sequence == 1
            assert log.append([record(1), record(2)], 1) == 2
            assert log.append([record(3)], 3) == 3
            assert log.next_sequence == 4
            log.seal()
            log.trim(1)
            with pytest.raises(LogConflict, match="begin at sequence 3, but the log's next is 4"):
                log.append([record(4)], 3)
            with pytest.raises(ValueError, match="at least one record"):
                log.append([], 4)
            statistics = log.statistics()
            assert (statistics.appends_count, statistics.records_count) == (2, 3)
            assert list(log.read(4)) == []


def test_a_closed_log_is_not_written() -> None:
    """After `close`, which may be called twice, appending fails."""
    files = SimulatedFiles()
    with opened(files) as segmented:
        logs: list[Log] = [segmented, MemoryLog()]
        for log in logs:
            log.close()
            log.close()
            with pytest.raises(LogFailed, match="closed"):
                log.append([record(1)], 1)


@pytest.mark.parametrize(
    "batch",
    [
        [record(1)],
        [record(2), record(2)],
        [record(3), record(2)],
        [record(0)],
        [LogRecord(1, 0, b"")],
        [record(2), LogRecord(-1, 1, b"")],
    ],
)
def test_a_batch_that_recovery_would_refuse_is_not_written(batch: list[LogRecord]) -> None:
    """A wrong batch is refused without a trace, and the log goes on."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1)], 1)
        before = files.contents()
        with pytest.raises(ValueError, match=r"comes after|out of range"):
            log.append(batch, 2)
        assert files.contents() == before
        log.append([record(2)], 2)
    with opened(files) as log:
        with pytest.raises(ValueError, match="record 2 of shard 0 comes after 2"):
            log.append([record(2)], 3)
        assert log.append([record(3)], 3) == 3


def test_one_append_is_one_write_and_one_sync() -> None:
    """What design.md promises of the cost of a batch."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1)], 1)
        files.history.clear()

        log.append([record(2), record(3)], 2)

        assert [operation for operation, _ in files.history] == list(APPENDED)


def test_roll_over() -> None:
    """The next segment is prepared at half and published when the batch no longer fits."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1, 300)], 1)
        files.history.clear()
        assert files.list_names(f"{PATH}/groups/0/log") == ["00000000000000000001.log"]
        log.append([record(2, 300)], 2)
        assert files.list_names(f"{PATH}/groups/0/log") == ["00000000000000000001.log", "next.tmp"]
        assert files.read(f"{PATH}/groups/0/log/next.tmp") == bytes(SEGMENT_BYTES)
        # The zeros are synced ahead, or else the header's sync at roll-over has to wait for them.
        assert [operation for operation, _ in files.history] == [
            *APPENDED,
            "create",
            "write_at",
            "sync",
        ]
        files.history.clear()

        log.append([record(3, 450)], 3)

        assert files.list_names(f"{PATH}/groups/0/log") == [
            "00000000000000000001.log",
            "00000000000000000003.log",
        ]
        assert [operation for operation, _ in files.history] == [
            "write_at",  # the header
            "sync",
            "truncate",  # the old segment's unused zeros
            "rename",
            "sync_directory",
            "write_at",
            "sync",
        ]
        assert files.size(segment_paths(files)[0]) == 64 + 2 * (40 + 16 + 300)
        assert [sequence for sequence, _ in log.read(1)] == [1, 2, 3]


def test_a_batch_larger_than_a_segment() -> None:
    """It gets a segment of its own size, and the prepared one is kept for the next."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1, 700)], 1)
        log.append([record(2, 5 * SEGMENT_BYTES)], 2)
        log.append([record(3, 700)], 3)

        assert [sequence for sequence, _ in log.read(1)] == [1, 2, 3]
        assert log.statistics().segments_count == 3
    assert len(segment_paths(files)) == 3
    assert files.size(segment_paths(files)[1]) == 64 + 40 + 16 + 5 * SEGMENT_BYTES


def test_a_clean_close_leaves_no_slack() -> None:
    """Nothing but valid frames and a seal; nothing under a temporary name."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1, 700)], 1)
        assert files.exists(f"{PATH}/groups/0/log/next.tmp")

    assert segment_paths(files) == [f"{PATH}/groups/0/log/00000000000000000001.log"]
    assert files.size(segment_paths(files)[0]) == 64 + 40 + 16 + 700 + 40


def test_a_seal_is_written_once_and_overwritten() -> None:
    """Sealing again writes nothing; the next batch takes the seal's place; nothing is synced."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.seal()  # nothing to confirm yet
        log.append([record(1)], 1)
        files.history.clear()
        log.seal()
        log.seal()
        assert [operation for operation, _ in files.history] == ["write_at"]
        log.append([record(2)], 2)

        assert len(files.read(segment_paths(files)[0]).rstrip(b"\0")) == 64 + 2 * (40 + 16 + 3)
        files.history.clear()
        log.seal()
        log.append([record(3)], 3)
        log.append([record(4)], 4)
        assert [operation for operation, _ in files.history] == ["write_at", *APPENDED, *APPENDED]
        assert [sequence for sequence, _ in log.read(1)] == [1, 2, 3, 4]


def test_a_clean_close_is_durable() -> None:
    """Also the seal: after a clean close, no crash changes anything any more."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1)], 1)

    for seed in range(50):
        assert files.crash(Random(seed)).contents() == files.contents()


@pytest.mark.parametrize(("free_bytes", "segments_count"), [(SEAL_BYTES, 1), (SEAL_BYTES - 1, 2)])
def test_there_is_always_room_for_the_seal(free_bytes: int, segments_count: int) -> None:
    """A batch that would leave less than a seal's room begins the next segment."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1)], 1)
        used_bytes = 64 + 40 + 16 + 3 + 40 + 16
        log.append([record(2, SEGMENT_BYTES - used_bytes - free_bytes)], 2)
        log.seal()

        assert log.statistics().segments_count == segments_count
        assert {files.size(path) for path in segment_paths(files)} <= {64 + 40 + 16 + 3, 1200}


def test_read_from_anywhere() -> None:
    """Reading starts at any record that is kept and ends at what is durable at the call."""
    life = Life(SimulatedFiles())
    life.play([("append", [300, 20, 400]), ("append", [500]), ("restart",), ("append", [1, 2])])
    for sequence in range(1, life.log.next_sequence + 2):
        assert list(life.log.read(sequence)) == [
            item for item in life.acknowledged if item[0] >= sequence
        ]
    before = life.log.read(4)
    expected = life.acknowledged[3:]
    life.play_on([("append", [9])])
    assert list(before) == expected


def test_trim() -> None:
    """Whole segments below a sequence go, one durable removal after the other; the rest stays."""
    files = SimulatedFiles()
    with opened(files) as log:
        for number in range(1, 6):
            log.append([record(number, 700)], number)
        log.trim(1)
        assert log.statistics().segments_count == 5
        files.history.clear()
        log.trim(3)
        assert files.history == [
            ("remove", f"{PATH}/groups/0/log/00000000000000000001.log"),
            ("sync_directory", f"{PATH}/groups/0/log"),
            ("remove", f"{PATH}/groups/0/log/00000000000000000002.log"),
            ("sync_directory", f"{PATH}/groups/0/log"),
        ]
        assert [sequence for sequence, _ in log.read(3)] == [3, 4, 5]
        with pytest.raises(LookupError, match="record 2 has been trimmed"):
            log.read(2)
        log.trim(1000)
        assert log.statistics().segments_count == 1  # the one being written is never removed
        assert log.append([record(6)], 6) == 6


@pytest.mark.parametrize(("operation", "call"), [("write_at", "seal"), ("remove", "trim")])
def test_an_error_outside_of_appending_is_final_too(operation: str, call: str) -> None:
    """A disk that fails in small matters is not trusted with large ones."""
    files = SimulatedFiles()
    with opened(files) as log:
        log.append([record(1, 700)], 1)
        log.append([record(2, 700)], 2)
        files.fail(operation)
        with pytest.raises(LogFailed, match="Input/output error"):
            log.seal() if call == "seal" else log.trim(2)
        with pytest.raises(LogFailed, match="Input/output error"):
            log.append([record(3)], 3)


def test_an_error_at_close_is_told() -> None:
    """Everything acknowledged is durable even so, and the directory is released."""
    files = SimulatedFiles()
    directory = open_directory(files)
    list(directory.recover())
    directory.log.append([record(1)], 1)
    files.fail("truncate")

    with pytest.raises(LogFailed, match="Input/output error"):
        directory.close()

    assert recover(files) == [(1, record(1))]


def test_a_start_waits_for_few_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lets others have the processor: with a sync each 256 KiB a start took 0.5 s of them."""
    syncs: list[int] = []
    sync = os.fdatasync

    def counted(descriptor: int) -> None:
        syncs.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    directory = DataDirectory.open(tmp_path / "data", RealFiles(), shard_count=1, created_at_ms=1)
    del syncs[:]
    list(directory.recover())
    assert len(syncs) <= 8
    directory.close()


def test_statistics() -> None:
    """Numbers that an operator can add up."""
    seconds = iter(range(100))
    files = SimulatedFiles()
    with opened(files) as log:
        log._monotonic_s = lambda: float(next(seconds) ** 2)  # syncs take 1, 5 and 9 seconds
        for number in range(1, 4):
            log.append([record(number)], number)
        statistics = log.statistics()

    assert (statistics.next_sequence, statistics.epoch) == (4, 2)
    assert (statistics.appends_count, statistics.records_count, statistics.syncs_count) == (3, 3, 3)
    assert statistics.bytes_appended == 3 * (40 + 16 + 3)
    assert (statistics.segments_count, statistics.size_bytes) == (1, SEGMENT_BYTES)
    assert statistics.syncs_s.sum == 15
    assert statistics.syncs_s.count == 3
    assert statistics.batches_records.sum == statistics.records_count
    assert not statistics.failed


def test_memory_log_keeps_nothing() -> None:
    """It says so, rather than giving less than it was asked for."""
    log = MemoryLog()
    log.append([record(1)], 1)

    with pytest.raises(LookupError, match="keeps no records"):
        log.read(1)


@pytest.mark.slow
def test_real_files_and_a_real_helper_thread(tmp_path: Path) -> None:
    """With the thread that prepares segments: many roll-overs, and all records afterwards."""
    records = [record(number, 100) for number in range(1, 301)]
    path = tmp_path / "data"
    for part in range(3):
        directory = DataDirectory.open(path, RealFiles(), created_at_ms=0, segment_bytes=4096)
        assert [item for _, item in directory.recover()] == records[: part * 100]
        log = directory.log
        for item in records[part * 100 : part * 100 + 100]:
            log.append([item], log.next_sequence)
        assert [item for _, item in log.read(1)] == records[: part * 100 + 100]
        assert log.statistics().segments_count > part * 3
        directory.close()

    assert not (path / LOG_NAME / "next.tmp").exists()


def no_memory(*_: object) -> None:
    """Play any function for which there is none."""
    raise MemoryError


def test_memory_that_runs_out_before_writing_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = SimulatedFiles()
    with opened(files) as log:
        with monkeypatch.context() as patched:
            patched.setattr(segmented_log, "encode_frame", no_memory)
            with pytest.raises(MemoryError):
                log.append([record(1)], 1)
        assert log.append([record(1)], 1) == 1
        assert [number for number, _ in log.read(1)] == [1]


@pytest.mark.parametrize("name", ["_count", "_check_place", "_roll_over"])
def test_memory_that_runs_out_while_writing_is_final(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what was written; and what was synced is not synced again."""
    with opened(SimulatedFiles()) as log:
        log.append([record(1)], 1)
        monkeypatch.setattr(log, name, no_memory)
        large = [record(2, SEGMENT_BYTES)]
        with pytest.raises(MemoryRanOut, match="while a batch was written"):
            log.append(large, 2)
        with pytest.raises(MemoryRanOut):
            log.append([record(2)], 2)
