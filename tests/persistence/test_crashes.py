"""Whatever the machine does: all that was acknowledged is there, and then at most one batch."""

import errno
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.errors import DataDirectoryError, LogFailed
from troth.persistence.wal.log import LogRecord

from .lives import SCRIPT, SEGMENT_BYTES, Life, opened

SEEDS_PER_CRASH = 6


def count_operations(steps: Sequence[tuple[object, ...]]) -> int:
    """Return how many operations a run without a crash takes."""
    files = SimulatedFiles()
    Life(files).play(steps)
    return files.operations_count


def crash_at(steps: Sequence[tuple[object, ...]], operation: int) -> Life:
    """Play until the power is lost in an operation."""
    files = SimulatedFiles()
    files.crash_before_operation = operation
    life = Life(files)
    assert life.played_until_crash(steps)
    return life


def resume(life: Life, files: SimulatedFiles) -> Life:
    """Return the same life with other files, so that one crash can have several outcomes."""
    other = Life(files)
    other.acknowledged = list(life.acknowledged)
    other.in_flight = list(life.in_flight)
    other.trimmed_to = life.trimmed_to
    return other


def failure_of(life: Life, steps: Sequence[tuple[object, ...]]) -> LogFailed | None:
    """Take steps in an open directory; return the failure of the log, if it fails."""
    try:
        life.play_on(steps)
    except LogFailed as failure:
        return failure
    return None


@pytest.mark.slow
def test_crash_in_every_operation_of_a_script() -> None:
    """A crash in any operation, with any part of the unsynced lost, loses nothing acknowledged."""
    operations_count = count_operations(SCRIPT)
    whole_batches_seen = 0
    for operation in range(1, operations_count + 1):
        life = crash_at(SCRIPT, operation)
        for seed in range(SEEDS_PER_CRASH):
            random = Random(f"{operation}/{seed}")
            survivor = resume(life, life.files.crash(random))
            try:
                survivor.play([("append", [50]), ("seal",), ("restart",), ("append", [1])])
                whole_batches_seen += len(survivor.acknowledged) > len(life.acknowledged) + 2
            except AssertionError as error:
                history = life.files.history[-3:]
                raise AssertionError(f"operation {operation} {history}, seed {seed}") from error

    assert operations_count > 100
    assert whole_batches_seen > 0  # the unacknowledged batch sometimes survives: both are met


@pytest.mark.slow
def test_crash_during_recovery_from_a_crash() -> None:
    """Recovery may be interrupted anywhere, again and again."""
    for operation in range(1, count_operations(SCRIPT) + 1):
        life = crash_at(SCRIPT, operation)
        random = Random(f"recovery/{operation}")
        crashes_count = 0
        for recovery_operation in range(1, 40):
            files = life.files.crash(random)
            files.crash_before_operation = recovery_operation
            survivor = resume(life, files)
            if not survivor.played_until_crash([("append", [60])]):
                break
            crashes_count += 1
            life = survivor
        survivor = resume(life, life.files.crash(random))
        survivor.play([("restart",)])
        assert crashes_count >= 4


@pytest.mark.parametrize("operation", ["write_at", "sync", "rename", "create", "sync_directory"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_disk_is_final(operation: str, error: int) -> None:
    """One failed call ends the log for good, though the next would succeed; nothing is lost."""
    failures_count = 0
    while True:
        files = SimulatedFiles()
        life = Life(files)
        life.play([])
        files.fail(operation, error, skip_count=failures_count)
        failure = failure_of(life, [("append", [100 + number]) for number in range(30)])
        if failure is None:
            break
        assert ("The disk is full" in str(failure)) == (error == errno.ENOSPC)
        assert len(str(failure).splitlines()) == 1
        operations_count = files.operations_count
        with pytest.raises(LogFailed):
            life.log.append([LogRecord(0, 999, b"")], life.log.next_sequence)
        with pytest.raises(LogFailed):
            life.log.seal()
        with pytest.raises(LogFailed):
            life.log.trim(5)
        assert life.log.statistics().failed
        assert life.directory is not None
        life.directory.close()
        assert files.operations_count == operations_count  # nothing was tried again
        for seed in range(4):
            random = Random(f"{failures_count}/{seed}")
            resume(life, files.crash(random)).play([("append", [1])])
        failures_count += 1

    assert failures_count >= 3


def test_a_full_disk_in_the_middle_of_a_batch() -> None:
    """ENOSPC stops the log with a message that says so; with space again, all is there."""
    files = SimulatedFiles(capacity_bytes=5000)
    life = Life(files)
    life.play([])

    with pytest.raises(LogFailed, match="The disk is full: free space"):
        life.play_on([("append", [150])] * 100)

    assert life.acknowledged
    files.end_process()
    files.capacity_bytes = None
    resume(life, files).play([("append", [10]), ("restart",)])


def test_a_full_disk_at_opening_changes_nothing() -> None:
    """If there is no room to begin a segment, opening is refused and everything is as before."""
    files = SimulatedFiles()
    life = Life(files)
    life.play([("append", [100]), ("append", [200]), ("kill",), ("append", [300])])
    files.end_process()
    before = files.contents()
    for free_bytes in (0, 63, 100, SEGMENT_BYTES - 1):
        files.capacity_bytes = files.used_bytes() + free_bytes

        with pytest.raises(DataDirectoryError, match="No space left on device"):
            resume(life, files).play([])

        files.end_process()
        assert files.contents() == before
    files.capacity_bytes = None
    resume(life, files).play([("append", [10])])


def test_a_failed_sync_is_not_repaired_by_a_later_one() -> None:
    """What the log wrote before a failed sync must not be acknowledged by any later call."""
    files = SimulatedFiles()
    with opened(files) as log:
        files.fail("sync", errno.EIO)
        with pytest.raises(LogFailed):
            log.append([LogRecord(0, 1, b"lost")], 1)
        for _ in range(3):
            with pytest.raises(LogFailed):
                log.append([LogRecord(0, 2, b"after")], log.next_sequence)

        assert log.next_sequence == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 500), min_size=1, max_size=4)),
        st.tuples(st.just("append"), st.lists(st.integers(500, 2500), min_size=1, max_size=2)),
        st.tuples(st.sampled_from(["seal", "seal", "kill", "restart", "trim"])),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    lives=st.lists(st.tuples(STEPS, st.integers(1, 80)), min_size=1, max_size=4), seed=st.integers()
)
def test_any_sequence_of_lives_and_crashes(
    lives: list[tuple[list[tuple[object, ...]], int]], seed: int
) -> None:
    """Random steps, a crash in a random operation, recovery, and again."""
    random = Random(seed)
    life = Life(SimulatedFiles())
    for steps, operation in lives:
        life.files.crash_before_operation = operation
        life.played_until_crash(steps)
        note(f"{life.files.history[-1:]} after {len(life.acknowledged)} records")
        life = resume(life, life.files.crash(random))
    life.play([("append", [10]), ("restart",)])
