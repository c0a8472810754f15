"""Giving up what is damaged: cuts a log at its first damage, so that a server can start again.

Everything behind the damage was acknowledged and is lost to the server, so this is for operators
without a backup. Its order makes a crash at any point harmless:

1. Lock the directory, verify the whole log, and make a plan. A sound log is never touched.
2. Write all that will be dropped to a file, and sync it (`log_dropped.py`).
3. Remove the segments behind the damage, the last one first, each removal durable before the next:
   until all are gone, those left do not continue what is before them, which is damage too.
4. Cut the segment with the damage.
5. Remove segments that hold only what checkpoints cover, the first one first, if they are damaged:
   with them nothing is lost.
6. Begin an empty log where the checkpoints end if nothing is left.

Wherever this is interrupted, the log is either still damaged in the same place, and can be repaired
again, or is repaired; and from step 3 on the dropped part is whole in its file.
"""

import os
from dataclasses import dataclass
from typing import Self

from troth.persistence.errors import (
    UNCHANGED,
    DataDirectoryError,
    DataDirectoryLocked,
    DataDirectoryUnreadable,
    LogDamaged,
    PersistenceError,
)
from troth.persistence.files import FileLock, Files, lock_left
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES, SegmentHeader, decode_segment_header
from troth.persistence.wal.segments import (
    NEXT_NAME,
    prepare_segment,
    publish_segment,
    segment_path,
    write_header,
)

from .log_dropped import UNFINISHED_SUFFIX, Dropped, write_dropped
from .log_tools import LogReader, LogReport, later_segments, read_segment, verify


class RepairRefused(DataDirectoryError):
    """A refusal: cutting would not help, or would lose data needlessly; nothing was changed."""


class RepairInterrupted(PersistenceError):
    """The disk failed while the log was cut; what is dropped is safe in its file."""

    def __init__(self, path: str, error: OSError, dropped: str) -> None:
        super().__init__(
            f"{path} could not be cut: {error.strerror or error}. Everything that was dropped is "
            f"in {dropped}. Check the disk and run `troth log repair` again."
        )


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair would do."""

    report: LogReport  # of the log from the segment on that holds `from_sequence`
    damage: LogDamaged
    from_sequence: int  # what the log has to hold: everything before it is in the checkpoints
    next_sequence: int  # of the log after the repair: this record and all later ones are dropped
    parts: list[tuple[str, int]]  # segments, each with the offset from which it is dropped
    covered: list[str]  # damaged or in front of damage, and in the checkpoints: dropped too
    size_bytes: int  # of all that is dropped
    epoch: int  # the highest found in it

    @property
    def cut(self) -> tuple[str, int] | None:
        """The segment that stays, and its new length; None if whole segments are dropped."""
        if self.parts and self.parts[0][1] > 0:
            return self.parts[0]
        return None

    @property
    def loses_nothing(self) -> bool:
        """Return whether everything that is dropped is in the checkpoints."""
        return bool(self.covered) and not self.parts

    @property
    def keeps_nothing(self) -> bool:
        """Return whether the log will be empty."""
        return self.report.records_count == 0 or self.report.next_sequence != self.next_sequence


class LogRepair:
    """A data directory, locked to repair the log of a group. Use it in a `with` block."""

    def __init__(
        self, files: Files, path: str | os.PathLike[str], group: int | None = None
    ) -> None:
        """Lock the directory; with None there must be one group.

        Raises `DataDirectoryLocked`, `DataDirectoryUnreadable`, `UnknownFormatVersion` or
        `GroupsMismatch`.
        """
        self._files = files
        self._reader = LogReader(files, path, group)
        self._lock = _lock(files, self._reader.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def group(self) -> int:
        """The group whose log it is."""
        return self._reader.group

    @property
    def data_id(self) -> bytes:
        """The id of the data directory, which the checkpoints next to the log must have too."""
        return self._reader.identity.data_id

    def plan(self, from_sequence: int = 1) -> RepairPlan | None:
        """Verify the log and say what a repair would do; None if the log is sound.

        The log has to hold the records from `from_sequence` on. Raises `RepairRefused` where
        cutting does not help, and what `verify` raises.
        """
        report = self._verified(from_sequence)
        _refuse_unreadable_records(report)
        damage = report.break_in_log
        if damage is None:
            return None
        log_path = self._reader.log_path
        if not self._files.is_directory(log_path):
            raise RepairRefused(
                f"{log_path} is missing, so there is nothing to cut. {UNCHANGED} Restore a backup."
            )
        self._reader.list_segments()
        needed = self._verified(from_sequence, only_needed=True)
        broken = needed.break_in_log
        next_sequence = needed.next_sequence
        covered: list[str] = []
        if next_sequence < from_sequence:
            # What could be kept ends before what is needed, so nothing would continue it.
            parts = [(path, 0) for path in self._paths()]
            next_sequence = from_sequence
        else:
            parts = [] if broken is None else later_segments(self._reader, broken)
            if broken is None or (broken.file, broken.offset) != (damage.file, damage.offset):
                covered = self._covered(from_sequence)
        dropped = [*parts, *((path, 0) for path in covered)]
        size_bytes = sum(self._files.size(file) - offset for file, offset in dropped)
        return RepairPlan(
            needed,
            damage,
            from_sequence,
            next_sequence,
            parts,
            covered,
            size_bytes,
            self._epoch(dropped),
        )

    def _verified(self, from_sequence: int, *, only_needed: bool = False) -> LogReport:
        reader = self._reader
        return verify(
            *(self._files, reader.path, from_sequence), only_needed=only_needed, group=reader.group
        )

    def _paths(self) -> list[str]:
        log_path = self._reader.log_path
        return [segment_path(log_path, first) for first, _ in self._reader.segments]

    def _covered(self, from_sequence: int) -> list[str]:
        """Return the segments that hold nothing from `from_sequence` on."""
        followers = self._reader.segments[1:]
        return [
            path
            for path, follower in zip(self._paths(), followers, strict=False)
            if follower.first_sequence <= from_sequence
        ]

    def dropped_path(self, plan: RepairPlan) -> str:
        """Return a name in the data directory that is free for the file with what is dropped."""
        reader = self._reader
        of_group = f"group-{reader.group}-" if reader.identity.groups_count > 1 else ""
        base = f"{reader.path}/dropped-{of_group}from-{plan.next_sequence}"
        path, number = f"{base}.jsonl", 1
        while self._files.exists(path):
            number += 1
            path = f"{base}-{number}.jsonl"
        return path

    def carry_out(self, plan: RepairPlan, dropped_path: str, now_ms: int) -> Dropped:
        """Save what is dropped, then cut, and verify what is left.

        Raises `RepairRefused` if `dropped_path` is taken, `DataDirectoryUnwritable` if it cannot be
        written (nothing was changed then), and `RepairInterrupted` if the disk fails while cutting.
        """
        for path in (dropped_path, dropped_path + UNFINISHED_SUFFIX):
            if self._files.is_directory(path):
                raise RepairRefused(f"{path} is a directory. {UNCHANGED} Give a file name.")
        if self._files.exists(dropped_path):
            raise RepairRefused(
                f"{dropped_path} exists already. {UNCHANGED} Give the name of a new file."
            )
        parts = [*((path, 0) for path in plan.covered), *plan.parts]
        dropped = write_dropped(
            self._reader, parts, plan.damage, plan.next_sequence, dropped_path, now_ms
        )
        try:
            self._cut(plan)
        except OSError as error:
            raise RepairInterrupted(self._reader.log_path, error, dropped_path) from error
        left = self._verified(plan.from_sequence)
        assert left.is_sound, f"the repaired log is still damaged: {left.damages[0]}"
        assert left.next_sequence == plan.next_sequence
        return dropped

    def _cut(self, plan: RepairPlan) -> None:
        """Change the log; raises `OSError`."""
        log_path = self._reader.log_path
        for removed, _ in reversed([part for part in plan.parts if part[1] == 0]):
            self._files.remove(removed)
            self._files.sync_directory(log_path)
        if plan.cut is not None:
            path, size_bytes = plan.cut
            file = self._files.open(path)
            try:
                file.truncate(size_bytes)
                file.sync()
            finally:
                file.close()
        for removed in plan.covered:
            self._files.remove(removed)
            self._files.sync_directory(log_path)
        if not self._reader.list_segments():
            self._begin_empty_log(plan)

    def _begin_empty_log(self, plan: RepairPlan) -> None:
        """Make a segment without batches: it says that there is a log, and where it begins."""
        path = f"{self._reader.log_path}/{NEXT_NAME}"
        segment = prepare_segment(self._files, path, 0)
        header = SegmentHeader(self._reader.identity.data_id, plan.epoch, plan.next_sequence, 0)
        try:
            write_header(segment, header)
        finally:
            segment.close()
        publish_segment(self._files, self._reader.log_path, path, plan.next_sequence)

    def _epoch(self, parts: list[tuple[str, int]]) -> int:
        """Return the highest epoch in the headers of segments, at least 1."""
        starts = (read_segment(self._files, file)[:SEGMENT_HEADER_BYTES] for file, _ in parts)
        headers = filter(None, map(decode_segment_header, starts))
        return max((header.epoch for header in headers), default=1)


def _refuse_unreadable_records(report: LogReport) -> None:
    """Raise `RepairRefused` if the part that would be kept holds what this version cannot use."""
    if report.unreadable_count:
        first = next(place for place in report.damages if place.problem.startswith("record "))
        raise RepairRefused(
            f"{first.file}: {first.problem}. {UNCHANGED} The bytes of the log are whole there, so "
            "cutting would only lose what another version of Troth can read: start the version "
            "that wrote it, or a newer one."
        )


def _lock(files: Files, path: str) -> FileLock:
    try:
        return lock_left(files, path)
    except BlockingIOError as error:
        raise DataDirectoryLocked(path) from error
    except OSError as error:
        raise DataDirectoryUnreadable(
            path,
            f"cannot be locked ({error.strerror})",
            "Run this as the user the server runs as.",
        ) from error
