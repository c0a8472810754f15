"""Repairing: whatever happens on the way, nothing is cut that is not saved, and it can go on."""

import base64
import errno
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.core import records
from troth.persistence.errors import (
    DataDirectoryLocked,
    DataDirectoryUnreadable,
    DataDirectoryUnwritable,
    PersistenceError,
    UnknownFormatVersion,
)
from troth.persistence.inspection.log_dropped import UNFINISHED_SUFFIX
from troth.persistence.inspection.log_repair import (
    LogRepair,
    RepairInterrupted,
    RepairPlan,
    RepairRefused,
)
from troth.persistence.inspection.log_tools import verify
from troth.persistence.wal.frames import SegmentHeader, encode_segment_header
from troth.persistence.wal.log import LogRecord

from .lives import PATH, open_directory, recover, segment_paths
from .written_log import DAMAGES, append_to, damaged, written

DROPPED = f"{PATH}/dropped.jsonl"
NOW_MS = 1_800_000_000_000
SEEDS_PER_CRASH = 4
SLOW_NAMES = tuple(DAMAGES)


def repaired(
    files: SimulatedFiles, dropped_path: str = DROPPED, from_sequence: int = 1
) -> RepairPlan:
    """Plan and carry out a repair that is needed."""
    with LogRepair(files, PATH) as repair:
        plan = repair.plan(from_sequence)
        assert plan is not None
        repair.carry_out(plan, dropped_path, NOW_MS)
    return plan


def log_files(files: SimulatedFiles) -> dict[str, bytes]:
    """The content of the segments by name."""
    return {path.rpartition("/")[2]: files.read(path) for path in segment_paths(files)}


def lines(files: SimulatedFiles, path: str = DROPPED) -> list[dict[str, Any]]:
    """The lines of a file of what was dropped; checks that it is whole."""
    found = [json.loads(line) for line in files.read(path).splitlines()]
    assert found[0]["kind"] == "dropped"
    assert found[-1]["kind"] == "end"
    assert found[-1]["records"] == sum(line["kind"] == "record" for line in found)
    return found


def put_back(kept: dict[str, bytes], dropped: list[dict[str, Any]]) -> dict[str, bytes]:
    """The segments as they were, from what was kept and what was dropped."""
    whole = {name: bytearray(content) for name, content in kept.items()}
    for line in dropped:
        if line["kind"] in ("bytes", "zeros"):
            content = whole.setdefault(line["file"], bytearray())
            end = line["offset"] + line["length"]
            content.extend(bytes(max(0, end - len(content))))
            if line["kind"] == "bytes":
                content[line["offset"] : end] = base64.b64decode(line["data"])
    return {name: bytes(content) for name, content in whole.items()}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_repaired_log_opens_with_what_was_before_the_damage(name: str) -> None:
    files, all_records = damaged(name)
    before = log_files(files)
    report = verify(files, PATH)

    plan = repaired(files)

    assert verify(files, PATH).is_sound
    kept = log_files(files)
    dropped = lines(files)
    offsets = {path.rpartition("/")[2]: offset for path, offset in plan.parts}
    saved = put_back({}, dropped)
    for segment, content in before.items():
        kept_bytes = offsets.get(segment, len(content))
        assert saved.get(segment, content)[kept_bytes:] == content[kept_bytes:]
        assert kept_bytes == 0 or kept[segment] == content[:kept_bytes]
    kept_count = plan.next_sequence - 1
    assert [record for _, record in recover(files)] == all_records[:kept_count]
    assert report.later_records_count == dropped[-1]["records"]
    found = [line for line in dropped if line["kind"] == "record"]
    for line in found:
        original = all_records[line["sequence"] - 1]
        assert (line["shard"], line["shard_sequence"]) == original[:2]
        assert line["record"]["id"] == f"p{line['sequence']}"
        assert len(line["record"]["value"]["data"]) + 50 < len(original.body)
    append_to(
        files, [[LogRecord(0, 1_000, records.encode(records.TaskReleased("t")))]], sealed=True
    )
    assert [sequence for sequence, _ in recover(files)][-1] == kept_count + 1


def test_the_first_line_says_what_happened_and_gaps_are_named() -> None:
    files, _ = damaged("several places")
    plan = repaired(files)

    first = lines(files)[0]

    assert first["format"] == "troth-dropped/1"
    assert first["written_at_ms"] == NOW_MS
    assert first["directory"] == PATH
    assert first["from_sequence"] == plan.next_sequence
    assert first["damage"]["offset"] == plan.damage.offset
    gaps = [line for line in lines(files) if line["kind"] == "gap"]
    assert len(gaps) == 3
    assert all("no valid batch in" in gap["problem"] for gap in gaps)


def test_records_that_cannot_be_decoded_are_saved_as_bytes() -> None:
    files = SimulatedFiles()
    append_to(files, [[LogRecord(0, 1, b"strange")]], sealed=True)
    files.flip_bit(segment_paths(files)[0], 20, 1)

    repaired(files)

    (line,) = [line for line in lines(files) if line["kind"] == "record"]
    assert base64.b64decode(line["body"]) == b"strange"


def test_a_plan_says_what_will_be_kept_and_lost() -> None:
    files, all_records = damaged("a batch in the middle")
    operations_count = files.operations_count
    with LogRepair(files, PATH) as repair:
        plan = repair.plan()

    assert plan is not None
    assert files.operations_count == operations_count
    assert not plan.keeps_nothing
    assert plan.cut is not None
    assert plan.cut[0] == plan.damage.file == plan.parts[0][0]
    assert plan.size_bytes == sum(files.size(path) for path, _ in plan.parts) - plan.cut[1]
    assert plan.report.later_records_count == len(all_records) - plan.next_sequence - 1


@pytest.mark.parametrize("name", ["the first header", "all segments are missing"])
def test_a_plan_that_keeps_nothing_says_so(name: str) -> None:
    files, _ = damaged(name)
    with LogRepair(files, PATH) as repair:
        plan = repair.plan()

    assert plan is not None
    assert plan.keeps_nothing
    assert plan.cut is None


def test_what_is_needed_must_follow_what_is_kept() -> None:
    """What a log keeps below the records that are needed is of no use, so it begins anew there."""
    files, _ = damaged("a batch in the first segment")

    plan = repaired(files, from_sequence=5)

    assert plan.keeps_nothing
    directory = open_directory(files)
    assert list(directory.recover(5)) == []
    assert directory.log.next_sequence == 5


# --- with checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a batch in the first segment", "the first header", "a header", "a truncated segment"]
)
def test_damage_in_what_checkpoints_cover_loses_nothing(name: str) -> None:
    """The segments in front of the one that is needed go, and all that is needed stays."""
    files, all_records = damaged(name)
    paths = segment_paths(files)
    needed = int(paths[4].rpartition("/")[2].removesuffix(".log"))
    before = log_files(files)

    plan = repaired(files, from_sequence=needed)

    assert plan.loses_nothing
    assert not plan.keeps_nothing
    assert plan.covered == paths[:4]
    assert segment_paths(files) == paths[4:]
    assert [record for _, record in recover(files, needed)] == all_records[needed - 1 :]
    assert put_back(log_files(files), lines(files)).items() >= before.items()


def test_damage_on_both_sides_of_where_checkpoints_end() -> None:
    files, all_records = damaged("several places")
    paths = segment_paths(files)
    needed = int(paths[2].rpartition("/")[2].removesuffix(".log"))

    plan = repaired(files, from_sequence=needed)

    assert not plan.loses_nothing
    assert plan.covered == paths[:2]
    assert segment_paths(files) == [paths[2]]
    assert [record for _, record in recover(files, needed)] == (
        all_records[needed - 1 : plan.next_sequence - 1]
    )


def test_damage_behind_where_checkpoints_end_keeps_what_is_in_front_of_it() -> None:
    files, _ = damaged("a batch in the middle")

    plan = repaired(files, from_sequence=2)

    assert plan.covered == []
    assert not plan.keeps_nothing
    assert recover(files)[-1][0] == plan.next_sequence - 1


@pytest.mark.parametrize("needed", [17, 30])
def test_a_log_that_ends_before_the_checkpoints_begins_anew_behind_them(needed: int) -> None:
    files, all_records = written()
    assert needed > len(all_records) + 1

    plan = repaired(files, from_sequence=needed)

    assert plan.keeps_nothing
    assert not plan.loses_nothing  # what came after the checkpoints is not there
    directory = open_directory(files)
    assert list(directory.recover(needed)) == []
    assert directory.log.next_sequence == needed
    assert lines(files)[-1]["records"] == len(all_records)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a batch in the first segment", "several places", "a header"])
def test_a_crash_while_covered_segments_are_removed(name: str) -> None:
    for operation in range(1, 1000):
        files, all_records = damaged(name)
        needed = int(segment_paths(files)[3].rpartition("/")[2].removesuffix(".log"))
        with LogRepair(files, PATH) as repair:
            planned = repair.plan(needed)
        assert planned is not None
        before = log_files(files)
        files.crash_before_operation = files.operations_count + operation
        is_finished = False
        try:
            repaired(files, from_sequence=needed)
            is_finished = True
        except SimulatedCrash:
            assert operation < 100
        for seed in range(SEEDS_PER_CRASH):
            survivor = files.crash(Random(f"{name}/{operation}/{seed}"))
            if log_files(survivor) != before:
                assert lines(survivor)
            if not verify(survivor, PATH, needed).is_sound:
                repaired(survivor, DROPPED + ".again", needed)
            left = [record for _, record in recover(survivor, needed)]
            assert left == all_records[needed - 1 : planned.next_sequence - 1], (operation, seed)
        if is_finished:
            return
    raise AssertionError("the repair never came to its end")


# --- what is refused ------------------------------------------------------------------------------


def refused(files: SimulatedFiles, error: type[PersistenceError], path: str = DROPPED) -> str:
    """Check that the repair is refused and changes nothing; return the message."""
    before = files.contents()
    with pytest.raises(error) as caught:
        repaired(files, path)
    assert files.contents() == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_sound_log_is_not_touched(sealed: bool) -> None:
    files, _ = written(sealed=sealed)
    if not sealed:
        path = segment_paths(files)[-1]
        files.overwrite(path, len(files.read(path).rstrip(b"\0")) - 20, bytes(20))
    before = files.contents()

    with LogRepair(files, PATH) as repair:
        assert repair.plan() is None

    assert files.contents() == before
    recover(files)  # and it is not locked any more


def test_a_log_in_use_is_refused() -> None:
    files, _ = damaged("a batch in the middle")
    lock = files.lock(PATH)

    assert "in use by another process" in refused(files, DataDirectoryLocked)
    lock.close()
    repaired(files)


def test_a_directory_that_cannot_be_locked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = damaged("a batch in the middle")

    def no_lock(directory: str) -> None:
        raise OSError(errno.ENOLCK, "No locks available", directory)

    monkeypatch.setattr(files, "lock", no_lock)

    assert "cannot be locked (No locks available)" in refused(files, DataDirectoryUnreadable)


def test_records_of_another_version_are_not_cut() -> None:
    files = SimulatedFiles()
    append_to(files, [[LogRecord(0, 1, b'["from-the-future/1"]')]], sealed=True)

    message = refused(files, RepairRefused)

    assert "start the version that wrote it" in message
    assert "record 1 is of a type unknown" in message


def test_a_newer_segment_behind_the_damage_is_not_dropped() -> None:
    files, _ = damaged("a batch in the first segment")
    header = SegmentHeader(bytes(range(16)), 2, 6, 0, format_version=2)
    files.overwrite(segment_paths(files)[1], 0, encode_segment_header(header))

    refused(files, UnknownFormatVersion)


def test_a_missing_log_directory_cannot_be_repaired() -> None:
    files, _ = damaged("all segments are missing")
    files.remove_directory(f"{PATH}/groups/0/log")

    assert "Restore a backup" in refused(files, RepairRefused)


def test_an_existing_file_is_not_overwritten() -> None:
    files, _ = damaged("a batch in the middle")
    files.make_directory(f"{PATH}/taken")

    assert "exists already" in refused(files, RepairRefused, f"{PATH}/troth.json")
    assert "is a directory" in refused(files, RepairRefused, f"{PATH}/taken")
    assert "No such file" in refused(files, DataDirectoryUnwritable, "/nowhere/file")


def test_the_name_for_what_is_dropped_is_free() -> None:
    files, _ = damaged("a batch in the first segment")
    with LogRepair(files, PATH) as repair:
        plan = repair.plan()
        assert plan is not None
        assert repair.dropped_path(plan) == f"{PATH}/dropped-from-1.jsonl"
        for name in ("dropped-from-1.jsonl", "dropped-from-1-2.jsonl"):
            files.create(f"{PATH}/{name}")
        assert repair.dropped_path(plan) == f"{PATH}/dropped-from-1-3.jsonl"


def test_a_full_disk_is_refused_before_anything_is_cut() -> None:
    files, _ = damaged("a batch in the first segment")
    for free_bytes in (0, 10, 2000):
        files.capacity_bytes = files.used_bytes() + free_bytes

        assert "No space left on device" in refused(files, DataDirectoryUnwritable)

    files.capacity_bytes = None
    repaired(files)


def test_a_segment_that_cannot_be_read_cannot_be_saved_so_it_is_not_dropped() -> None:
    files, _ = damaged("a batch in the first segment")
    for _ in range(2):
        files.fail("read", errno.EIO, path_part=segment_paths(files)[2])

    assert "cannot be read (Input/output error)" in refused(files, DataDirectoryUnreadable)


# --- interruptions --------------------------------------------------------------------------------


def check_after_interruption(
    files: SimulatedFiles, before: dict[str, bytes], all_records: list[LogRecord], where: str
) -> None:
    """The log is as it was, or what was dropped is whole; and it can be repaired to the same."""
    if log_files(files) != before:
        put_back({}, lines(files))
    report = verify(files, PATH)
    kept_count = report.next_sequence - 1
    if not report.is_sound:
        plan = repaired(files, DROPPED + ".again")
        kept_count = plan.next_sequence - 1
        assert verify(files, PATH).is_sound, where
    dropped = list(dropped_lines(files))
    assert [record for _, record in recover(files)] == all_records[:kept_count], where
    # Both files together, and what is kept, are all there was.
    whole = put_back({}, dropped)
    for name, content in before.items():
        kept = log_files(files).get(name, b"")
        saved = whole.get(name, b"")
        assert content[len(kept.rstrip(b"\0")) :].strip(b"\0") in saved, where


def dropped_lines(files: SimulatedFiles) -> Iterator[dict[str, Any]]:
    for path in (DROPPED, DROPPED + ".again"):
        if files.exists(path):
            yield from lines(files, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_NAMES)
def test_a_crash_in_every_operation(name: str) -> None:
    crashes_count = finished_count = 0
    for operation in range(1, 1000):
        files, all_records = damaged(name)
        before = log_files(files)
        files.crash_before_operation = files.operations_count + operation
        try:
            repaired(files)
            finished_count += 1
        except SimulatedCrash:
            crashes_count += 1
        for seed in range(SEEDS_PER_CRASH):
            where = f"operation {operation} {files.history[-1:]}, seed {seed}"
            survivor = files.crash(Random(f"{name}/{operation}/{seed}"))
            check_after_interruption(survivor, before, all_records, where)
        if finished_count:
            break

    assert finished_count == 1
    assert crashes_count >= 6


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    ("operation", "skip_count"),
    [
        *(("create", 0), ("write_at", 0), ("sync", 0), ("rename", 0), ("sync_directory", 0)),
        *(("remove", 0), ("remove", 1), ("sync_directory", 1), ("truncate", 0), ("sync", 1)),
    ],
)
def test_an_error_of_the_disk_in_any_operation(operation: str, skip_count: int, error: int) -> None:
    files, all_records = damaged("a later batch")
    before = log_files(files)
    files.fail(operation, error, skip_count=skip_count)

    with pytest.raises((DataDirectoryUnwritable, RepairInterrupted)) as caught:
        repaired(files)

    assert len(str(caught.value).splitlines()) == 1
    if isinstance(caught.value, RepairInterrupted):
        assert f"is in {DROPPED}" in str(caught.value)
        assert lines(files)
    else:
        assert log_files(files) == before
        if files.exists(DROPPED):  # only the sync of its name failed
            files.remove(DROPPED)
    check_after_interruption(files, before, all_records, operation)


def test_remains_of_an_interrupted_repair_are_replaced() -> None:
    files, _ = damaged("a later batch")
    file = files.create(DROPPED + UNFINISHED_SUFFIX)
    file.write_at(0, b"x" * 100_000)

    repaired(files)

    assert lines(files)
    assert not files.exists(DROPPED + UNFINISHED_SUFFIX)


@settings(max_examples=150, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 5000), st.binary(min_size=1, max_size=80)),
        min_size=1,
        max_size=4,
    )
)
def test_any_damage_can_be_repaired_without_losing_a_byte(
    places: list[tuple[int, int, bytes]],
) -> None:
    files, all_records = written()
    for segment, offset, content in places:
        path = segment_paths(files)[segment % len(segment_paths(files))]
        place = offset % files.size(path)
        files.overwrite(path, place, content[: files.size(path) - place])
    before = log_files(files)

    with LogRepair(files, PATH) as repair:
        plan = repair.plan()
        if plan is not None:
            repair.carry_out(plan, DROPPED, NOW_MS)

    kept_count = verify(files, PATH).next_sequence - 1
    assert [record for _, record in recover(files)] == all_records[:kept_count]
    if plan is not None:
        dropped = put_back({}, lines(files))
        for path, offset in plan.parts:
            name = path.rpartition("/")[2]
            assert dropped.get(name, b"")[offset:] == before[name][offset:]
