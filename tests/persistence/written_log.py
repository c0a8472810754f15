"""A small log of real records on a simulated disk, and ways to damage it, for the tools' tests."""

from collections.abc import Callable

from tests.twins.simulated_files import SimulatedFiles
from troth.core import records
from troth.core.model import PromiseState, Value
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header
from troth.persistence.wal.log import LogRecord

from .lives import PATH, open_directory, segment_paths

START_MS = 1_700_000_000_000
BATCHES = ((10,), (20, 1, 200), (5,), (500,), (300, 300), (700,), (5, 5, 5), (1900,), (30,), (40,))
"""The sizes of the values in each batch; with `RESTART_BEFORE`, several segments and epochs."""

RESTART_BEFORE = 6


def completed(sequence: int, size_bytes: int) -> records.Record:
    """A record of a given size that says when it was, 1 s after the one before."""
    at = START_MS + 1000 * sequence
    value = Value(data="d" * size_bytes)
    return records.PromiseCompleted(f"p{sequence}", PromiseState.RESOLVED, value, None, at, at)


def append_to(files: SimulatedFiles, batches: list[list[LogRecord]], *, sealed: bool) -> None:
    """Open the directory, append, and close it or end the process."""
    directory = open_directory(files)
    list(directory.recover())
    for batch in batches:
        directory.log.append(batch, directory.log.next_sequence)
    if sealed:
        directory.close()
    files.end_process()


def written(*, sealed: bool = True) -> tuple[SimulatedFiles, list[LogRecord]]:
    """A directory with `BATCHES` in it, and all its records."""
    files = SimulatedFiles()
    batches: list[list[LogRecord]] = []
    sequence = 0
    for sizes in BATCHES:
        batch = []
        for size in sizes:
            sequence += 1
            body = records.encode(completed(sequence, size))
            batch.append(LogRecord(sequence % 3, sequence, body))
        batches.append(batch)
    append_to(files, batches[:RESTART_BEFORE], sealed=True)
    append_to(files, batches[RESTART_BEFORE:], sealed=sealed)
    return files, [record for batch in batches for record in batch]


def _flip(segment: int, offset: int) -> Callable[[SimulatedFiles], None]:
    def damage(files: SimulatedFiles) -> None:
        path = segment_paths(files)[segment]
        files.flip_bit(path, offset % files.size(path), 3)

    return damage


def _remove(segment: int) -> Callable[[SimulatedFiles], None]:
    def damage(files: SimulatedFiles) -> None:
        files.remove(segment_paths(files)[segment])

    return damage


def _truncate(segment: int, size_bytes: int) -> Callable[[SimulatedFiles], None]:
    def damage(files: SimulatedFiles) -> None:
        file = files.open(segment_paths(files)[segment])
        file.truncate(size_bytes)
        file.sync()

    return damage


def _remove_all(files: SimulatedFiles) -> None:
    for path in segment_paths(files):
        files.remove(path)


def _foreign(files: SimulatedFiles) -> None:
    header = SegmentHeader(b"x" * 16, 2, 1, 0)
    files.overwrite(segment_paths(files)[2], 0, encode_segment_header(header))


def _last_batch_of_a_segment(files: SimulatedFiles) -> None:
    """Only the next segment says that this batch was durable."""
    path = segment_paths(files)[0]
    files.overwrite(path, len(files.read(path).rstrip(b"\0")) - 60, bytes(60))


def _several(files: SimulatedFiles) -> None:
    for segment, offset in ((1, SEGMENT_HEADER_BYTES + 50), (3, 30), (4, 100)):
        _flip(segment, offset)(files)


DAMAGES: dict[str, Callable[[SimulatedFiles], None]] = {
    "a batch in the first segment": _flip(0, SEGMENT_HEADER_BYTES + 3),
    "a later batch": _flip(0, SEGMENT_HEADER_BYTES + 200),
    "a batch in the middle": _flip(2, SEGMENT_HEADER_BYTES + 50),
    "a sealed last batch": _flip(-1, -50),
    "the last batch of a segment": _last_batch_of_a_segment,
    "the first header": _flip(0, 20),
    "a header": _flip(2, 20),
    "a truncated segment": _truncate(2, SEGMENT_HEADER_BYTES + 100),
    "a truncated header": _truncate(3, 40),
    "an empty first segment": _truncate(0, 0),
    "the first segment is missing": _remove(0),
    "a segment is missing": _remove(2),
    "all segments are missing": _remove_all,
    "a segment of another directory": _foreign,
    "several places": _several,
}


def damaged(name: str) -> tuple[SimulatedFiles, list[LogRecord]]:
    """A directory with one of `DAMAGES`, and the records that were in it."""
    files, all_records = written()
    DAMAGES[name](files)
    # All of it is on disk: a crash later brings nothing back that was there before.
    files.sync_directory(f"{PATH}/groups/0/log")
    for path in segment_paths(files):
        files.overwrite(path, 0, b"")
    return files, all_records


__all__ = ["BATCHES", "DAMAGES", "PATH", "append_to", "completed", "damaged", "written"]
