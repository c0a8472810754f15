"""The writer thread: order, group commit, sealing when idle, and the end after a failure."""

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from troth.persistence.data_directory import DataDirectory
from troth.persistence.errors import LogFailed, MemoryRanOut
from troth.persistence.files import RealFiles
from troth.persistence.wal import writer as writer_module
from troth.persistence.wal.log import Log, LogRecord, LogStatistics, MemoryLog, NewRecord
from troth.persistence.wal.writer import Writer

PATIENCE_S = 60.0  # only a test that fails waits this long


class WatchedLog:
    """A log in memory whose appends wait for permission and may fail."""

    def __init__(self) -> None:
        self._log = MemoryLog()
        self.batches: list[list[NewRecord]] = []
        self.seals_count = 0
        self.error: Exception | None = None
        self.memory_errors_count = 0
        self.sealed = threading.Event()
        self.appending = threading.Event()
        self.allowed = threading.Event()
        self.allowed.set()

    @property
    def next_sequence(self) -> int:
        return self._log.next_sequence

    def append(self, batch: Sequence[NewRecord], expected_sequence: int) -> int:
        self.appending.set()
        assert self.allowed.wait(PATIENCE_S)
        if self.memory_errors_count:
            self.memory_errors_count -= 1
            raise MemoryError
        if self.error is not None:
            raise self.error
        self.batches.append(list(batch))
        return self._log.append(batch, expected_sequence)

    def seal(self) -> None:
        self.seals_count += 1
        self.sealed.set()

    def read(self, from_sequence: int) -> Iterator[tuple[int, LogRecord]]:
        return self._log.read(from_sequence)

    def trim(self, to_sequence: int) -> None:
        self._log.trim(to_sequence)

    def close(self) -> None:
        self._log.close()

    def statistics(self) -> LogStatistics:
        return self._log.statistics()


class Calls:
    """What a writer has called back."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.failures: list[LogFailed] = []
        self.failed = threading.Event()
        self.threads: set[str] = set()

    def on_durable(self, last_sequence: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.durable.append(last_sequence)

    def on_failure(self, failure: LogFailed) -> None:
        self.threads.add(threading.current_thread().name)
        self.failures.append(failure)
        self.failed.set()


@contextmanager
def running(
    log: Log, on_durable: Callable[[int], None] | None = None, seal_delay_s: float = PATIENCE_S
) -> Iterator[tuple[Writer, Calls]]:
    """Start a writer and close it at the end."""
    calls = Calls()
    writer = Writer(
        log, on_durable or calls.on_durable, calls.on_failure, seal_delay_s=seal_delay_s
    )
    writer.start()
    try:
        yield writer, calls
    finally:
        writer.close()


def batch(*numbers: int) -> list[LogRecord]:
    """Return records with these numbers."""
    return [LogRecord(0, number, b"x") for number in numbers]


def test_what_is_submitted_meanwhile_is_one_batch() -> None:
    """One append in flight; all that waits goes into the next, in order."""
    log = WatchedLog()
    log.allowed.clear()
    with running(log) as (writer, calls):
        first = batch(1)
        writer.submit(first)
        assert log.appending.wait(PATIENCE_S)
        waiting = [batch(2, 3), batch(4), batch(5, 6)]
        for item in waiting:
            writer.submit(item)
        assert writer.statistics().submits_waiting_count == 4
        assert calls.durable == []
        log.allowed.set()

    assert log.batches == [batch(1), batch(2, 3, 4, 5, 6)]
    assert calls.durable == [1, 6]
    assert calls.threads == {"troth-log-writer"}
    assert waiting == [batch(2, 3), batch(4), batch(5, 6)]  # the submitter's lists stay as they are
    statistics = writer.statistics()
    assert (statistics.submits_count, statistics.batches_written_count) == (4, 2)
    assert (statistics.submits_waiting_count, statistics.failed) == (0, False)


def test_a_joined_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When enough bytes are joined, the rest waits for the batch after; no submit is split."""
    monkeypatch.setattr(writer_module, "JOINED_BYTES_MAX", 3)
    log = WatchedLog()
    log.allowed.clear()
    with running(log) as (writer, _):
        writer.submit(batch(1))
        assert log.appending.wait(PATIENCE_S)
        for item in (batch(2, 3), batch(4, 5), batch(6), batch(7, 8, 9, 10), batch(11)):
            writer.submit(item)
        log.allowed.set()

    assert log.batches[0] == batch(1)
    assert log.batches[1:] == [batch(2, 3, 4, 5), batch(6, 7, 8, 9, 10), batch(11)]


def test_close_writes_what_is_queued() -> None:
    """Closing waits for everything submitted before, and may be done twice."""
    log = WatchedLog()
    with running(log) as (writer, calls):
        for number in range(1, 101):
            writer.submit(batch(number))
        writer.close()
        assert calls.durable[-1] == 100

    assert [item for joined in log.batches for item in joined] == batch(*range(1, 101))
    with pytest.raises(AssertionError, match="closed"):
        writer.submit(batch(101))


def test_an_idle_writer_seals_once() -> None:
    """After a batch and a moment of nothing, one seal; before any batch, none."""
    log = WatchedLog()
    with running(log, seal_delay_s=0.001) as (writer, _):
        writer.submit(batch(1))
        assert log.sealed.wait(PATIENCE_S)
        log.sealed.clear()
        writer.submit(batch(2))
        assert log.sealed.wait(PATIENCE_S)

    assert log.seals_count == 2


def test_an_idle_writer_does_not_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything to seal, it waits without a timeout."""
    timeouts = []

    class WatchedQueue(queue.SimpleQueue[Sequence[NewRecord] | None]):
        def get(
            self, block: bool = True, timeout: float | None = None
        ) -> Sequence[NewRecord] | None:
            timeouts.append(timeout)
            return super().get(block, timeout)

    monkeypatch.setattr(queue, "SimpleQueue", WatchedQueue)
    log = WatchedLog()
    with running(log, seal_delay_s=0.001) as (writer, _):
        writer.submit(batch(1))
        assert log.sealed.wait(PATIENCE_S)

    assert timeouts == [None, 0.001, None]


def test_a_failure_ends_the_writer() -> None:
    """The failure is told once; nothing is acknowledged or written after it."""
    log = WatchedLog()
    log.error = LogFailed("the disk is gone")
    with running(log) as (writer, calls):
        writer.submit(batch(1))
        assert calls.failed.wait(PATIENCE_S)
        log.error = None
        writer.submit(batch(2))

    assert [str(failure) for failure in calls.failures] == ["the disk is gone"]
    assert calls.durable == []
    assert log.batches == []
    assert writer.statistics().failed


def test_a_bug_in_a_callback_is_a_failure_too() -> None:
    """A writer that cannot go on says so; it never stops silently."""

    def broken(last_sequence: int) -> None:
        raise KeyError(last_sequence)

    with running(WatchedLog(), on_durable=broken) as (writer, calls):
        writer.submit(batch(1))
        assert calls.failed.wait(PATIENCE_S)

    assert "has a bug and has stopped: KeyError(1)" in str(calls.failures[0])
    assert isinstance(calls.failures[0].__cause__, KeyError)


PROGRAM = """
import sys
from troth.persistence.data_directory import DataDirectory
from troth.persistence.files import RealFiles
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.writer import Writer

directory = DataDirectory.open(sys.argv[1], RealFiles(), created_at_ms=0, segment_bytes=65536)
list(directory.recover())
writer = Writer(directory.log, lambda sequence: print(sequence, flush=True), print)
writer.start()
number = directory.log.next_sequence
while True:
    if writer.statistics().submits_waiting_count < 50:
        writer.submit([LogRecord(0, number, b"%d" % number * 20)])
        number += 1
"""


@pytest.mark.slow
def test_kill_9_of_a_real_process_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A real process, real files, real threads; killed while writing, three times."""
    path = tmp_path / "data"
    acknowledged = 0
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged % 1000 > 900:
                    process.kill()
        directory = DataDirectory.open(path, RealFiles(), created_at_ms=0)
        records = list(directory.recover())
        directory.close()

        assert len(records) >= acknowledged
        assert records == [
            (number, LogRecord(0, number, b"%d" % number * 20))
            for number in range(1, len(records) + 1)
        ]
    assert acknowledged > 900


def test_memory_is_waited_for_before_anything_is_written() -> None:
    log = WatchedLog()
    log.memory_errors_count = 3
    with running(log) as (writer, calls):
        writer.submit(batch(1))
        writer.close()
    assert log.batches == [batch(1)]
    assert calls.durable == [1]
    assert calls.failures == []


def test_memory_that_does_not_come_ends_the_writer() -> None:
    log = WatchedLog()
    log.memory_errors_count = 10**9
    calls = Calls()
    writer = Writer(log, calls.on_durable, calls.on_failure, patience_s=0.1)
    writer.start()
    writer.submit(batch(1))

    assert calls.failed.wait(PATIENCE_S)
    writer.close()
    (failure,) = calls.failures
    assert isinstance(failure, MemoryRanOut)
    assert "memory ran out before a batch could be written to the log" in str(failure)
    assert calls.durable == []
