"""A log whose newest segment was zeroed ends too early, and looks like one that simply ends there.

Nothing in it is wrong; only what lies beside it can tell. Where it does, the start says so.
"""

from random import Random

import pytest

from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.data_directory import DataDirectory, LogEndDoubt
from troth.persistence.errors import DataDirectoryUnwritable, LogDamaged
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES
from troth.persistence.wal.log import LogRecord

from .lives import SCRIPT, SEGMENT_BYTES, open_directory, segment_paths
from .test_crashes import count_operations, crash_at

FIRST = "/data/groups/0/log/00000000000000000001.log"


def killed(*sizes: int) -> SimulatedFiles:
    """A directory whose server was killed after appending records of these sizes."""
    files = SimulatedFiles()
    directory = open_directory(files)
    list(directory.recover())
    for number, size in enumerate(sizes, 1):
        directory.log.append([LogRecord(0, number, bytes(size))], number)
    files.end_process()
    return files


def zero(files: SimulatedFiles, path: str) -> None:
    """Replace everything behind a segment's header by zeros."""
    files.overwrite(path, SEGMENT_HEADER_BYTES, bytes(files.size(path) - SEGMENT_HEADER_BYTES))


def started(files: SimulatedFiles) -> DataDirectory:
    """The directory, recovered and closed again."""
    directory = open_directory(files)
    list(directory.recover())
    directory.close()
    return directory


def doubt(files: SimulatedFiles) -> LogEndDoubt | None:
    """What a start says about the end of the log."""
    return started(files).report.doubt


def test_a_log_that_is_whole_raises_no_doubt() -> None:
    for sizes in ((), (100,), (700,), (700, 700), (700, 700, 100), (300, 300)):
        files = killed(*sizes)

        assert doubt(files) is None
        # Nor when it was closed in order.
        assert doubt(files) is None


def test_a_zeroed_segment_after_a_roll_over_is_said() -> None:
    files = killed(700, 700)
    last = "/data/groups/0/log/00000000000000000002.log"
    zero(files, last)

    assert doubt(files) == LogEndDoubt(last, 2, "it was begun for a batch, but holds none")
    # Once: the next start has nothing that says so.
    assert doubt(files) is None


def test_a_zeroed_segment_that_was_half_full_is_said() -> None:
    """The first one has none before it; but the next one had been prepared."""
    files = killed(300, 300)
    zero(files, FIRST)
    assert files.exists("/data/groups/0/log/next.tmp")

    found = doubt(files)

    assert found is not None
    assert (found.file, found.next_sequence) == (FIRST, 1)
    assert "next.tmp" in found.reason
    assert not files.exists("/data/groups/0/log/next.tmp")


def test_a_start_that_a_crash_ends_is_no_reason_for_doubt() -> None:
    """It makes a segment, too, before it has looked after the last one."""
    files = killed(100)
    files.fail("rename")
    with pytest.raises(DataDirectoryUnwritable):
        started(files)
    files.end_process()

    assert doubt(files) is None


def test_only_an_append_that_was_not_acknowledged_makes_an_intact_log_doubtful() -> None:
    """A crash at each operation, with each fate of what was not synced."""
    doubts_count = 0
    for operation in range(1, count_operations(SCRIPT) + 1):
        life = crash_at(SCRIPT, operation)
        for seed in range(6):
            survivor = life.files.crash(Random(seed))
            directory = open_directory(survivor)
            list(directory.recover(life.trimmed_to))
            directory.close()
            if directory.report.doubt is not None:
                doubts_count += 1
                assert life.in_flight, (operation, seed, life.files.history[-3:])

    assert doubts_count


def test_a_log_that_ends_before_the_checkpoint_is_refused_and_left_as_it_is() -> None:
    files = killed(100, 100)
    zero(files, FIRST)
    before = files.contents()
    directory = open_directory(files)

    with pytest.raises(LogDamaged, match="ends before sequence 2, which the checkpoints"):
        list(directory.recover(3))
    directory.close()

    assert files.contents() == before
    assert segment_paths(files)[0] == FIRST
    assert files.size(FIRST) == SEGMENT_BYTES
