"""Reading and verifying a log from outside: everything is seen, nothing is changed."""

import errno

import msgspec
import pytest

from tests.twins.simulated_files import SimulatedFiles
from troth.core import records
from troth.core import workflow_records as w
from troth.core.bulk import BulkCounts
from troth.core.catalog import Account, Capabilities, FunctionKind
from troth.core.executions import ExecutionPlan
from troth.core.model import Callback, Lock, Promise, PromiseState, Schedule, TaskKind, Value
from troth.core.workflows import WorkflowLease, WorkflowSeed
from troth.persistence.errors import (
    DataDirectoryError,
    DataDirectoryUnreadable,
    LogDamaged,
    UnknownFormatVersion,
)
from troth.persistence.inspection.log_records import (
    DATA_SHOWN_CHARACTERS,
    read_record,
    record_fields,
    record_ids,
    record_time_ms,
    record_type,
)
from troth.persistence.inspection.log_tools import LogReport, Selection, dump, verify
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header
from troth.persistence.wal.log import LogRecord

from .lives import PATH, recover, segment_paths
from .written_log import (
    BATCHES,
    DAMAGES,
    START_MS,
    append_to,
    damaged,
    written,
)

CALLBACK = Callback("__resume:r:p", TaskKind.RESUME, "p", "r", 9, "w", 5)
RUN = w.WorkflowMessage("s.2", 9, 5, Value(), {}, WorkflowSeed())
MESSAGE = records.PromiseMessage("s.1", 9, Value(), {})
ARRIVED = Promise("p", 1, PromiseState.PENDING, 9, 5)


def dumped(files: SimulatedFiles, selection: Selection | None = None) -> list[int]:
    """The sequences of the selected records; checks that nothing was written."""
    operations_count = files.operations_count
    sequences = [entry.sequence for entry in dump(files, PATH, selection or Selection())]
    assert files.operations_count == operations_count
    return sequences


def verified(files: SimulatedFiles) -> LogReport:
    """The report; checks that nothing was written."""
    operations_count = files.operations_count
    report = verify(files, PATH)
    assert files.operations_count == operations_count
    return report


# --- records --------------------------------------------------------------------------------------

PLAN = ExecutionPlan("a", "f", FunctionKind.HTTP, Capabilities(), url="https://example.com")
FACTS: list[tuple[records.Record, set[str], int | None]] = [
    (records.PromiseCreated("p", 1, 9, 5, Value(), None, None, None, None), {"p"}, 5),
    (
        records.PromiseCreated("p", 1, 9, 5, Value(), None, None, None, records.TaskSeed("w")),
        {"p", "__invoke:p"},
        5,
    ),
    (records.PromiseCompleted("p", PromiseState.RESOLVED, Value(), None, 4, 6), {"p"}, 6),
    (records.CompletionBegun("p", PromiseState.RESOLVED, Value(), None, 4, 6), {"p"}, 6),
    (
        records.CompletionContinued("p", ["__resume:p:l"], ["__notify:p:s"], ["w"], ["poll://g"]),
        {"p", "__resume:p:l", "l", "__notify:p:s", "w"},
        None,
    ),
    (records.PromiseImported(ARRIVED, None, 6), {"p"}, 6),
    (records.PromiseImported(ARRIVED, records.TaskSeed("w"), 6), {"p", "__invoke:p"}, 6),
    (
        records.PromisesDeleted(["p", "q"], ["__invoke:p"], 1, 6),
        {"p", "q", "__invoke:p"},
        6,
    ),
    (records.CallbackCreated(CALLBACK), {"__resume:r:p", "p", "r"}, 5),
    (records.TaskEnqueued("__invoke:p", 7), {"__invoke:p", "p"}, None),
    (records.TaskDelivered("__notify:p:n"), {"__notify:p:n", "p"}, None),
    (records.TaskClaimed("__resume:r:p", "w", 1, 7), {"__resume:r:p", "r", "p"}, None),
    (records.TaskReleased("odd"), {"odd"}, None),
    (records.TaskCompleted("__invoke:p", 8), {"__invoke:p", "p"}, 8),
    (records.TaskTimedOut("__invoke:p"), {"__invoke:p", "p"}, None),
    (records.TasksRenewed("w", 8), set(), 8),
    (records.ScheduleCreated(Schedule("s", 1, "* * * * *", "s.{{}}", 9, 5, 60)), {"s"}, 5),
    (records.ScheduleDeleted("s"), {"s"}, None),
    (records.ScheduleFired("s", 60, 120, MESSAGE, 3, 61), {"s", "s.1"}, 61),
    (records.ScheduleSkipped("s", None), {"s"}, None),
    (records.ScheduleChanged(Schedule("s", 1, "* * * * *", "s.{{}}", 9, 5, 60)), {"s"}, None),
    (records.LockAcquired(Lock("l", "e", "w", 1, 7)), {"l"}, None),
    (records.LockReleased("l"), {"l"}, None),
    (records.LocksRenewed("w", 8), set(), 8),
    (records.MessageReceived(1, 2, MESSAGE, 3, 8), {"s.1"}, 8),
    (
        records.MessageReceived(1, 2, records.ResumeMessage(CALLBACK, 4), 3, 8),
        {"__resume:r:p", "p", "r"},
        8,
    ),
    (records.MessagesAcknowledged(1, 2), set(), None),
    (records.EntryWritten(Account("a", 1, 5, "n"), 8), {"a"}, 8),
    (records.EntryDeleted("a", 8), {"a"}, 8),
    (records.ExecutionCreated("troth:task/1", PLAN, 8), {"troth:task/1"}, 8),
    (records.ExecutionAssigned("troth:task/1", "n", 8), {"troth:task/1"}, 8),
    (records.ExecutionReported("troth:task/1", 8), {"troth:task/1"}, 8),
    (records.ExecutionReturned("troth:task/1", 8), {"troth:task/1"}, 8),
    (w.WorkflowCreated("__invoke:p", 1, 9, 5, Value(), {}), {"__invoke:p"}, 5),
    (w.WorkflowImported("r", WorkflowSeed(), 8), {"r"}, 8),
    (w.WorkflowAcquired("r", WorkflowLease("p", 1, 501)), {"r"}, None),
    (w.WorkflowsRenewed(["r", "s"], 8), {"r", "s"}, 8),
    (w.WorkflowReleased("r", 8), {"r"}, 8),
    (w.WorkflowSuspended("r", ["a", "b"], 8), {"r", "a", "b"}, 8),
    (w.WorkflowResumesCleared("r"), {"r"}, None),
    (w.WorkflowHalted("r", 8), {"r"}, 8),
    (w.WorkflowContinued("r", 8), {"r"}, 8),
    (w.WorkflowWoken("r", "a", 8), {"r", "a"}, 8),
    (w.AwaitRegistered("a", "r", 8), {"r", "a"}, 8),
    (w.ListenerRegistered("a", "poll://any@g", 8), {"a"}, 8),
    (w.ListenerTold("a", "poll://any@g", 8), {"a"}, 8),
    (records.ScheduleFired("s", 60, 120, RUN, 3, 61), {"s", "s.2"}, 61),
    (records.LeasesRestarted(8, 10_000), set(), 8),
    (records.BulkAdvanced("b", (3,), BulkCounts(done_count=2), 8), {"b"}, 8),
    (records.BulkClosed("b", 8), {"b"}, 8),
    (records.MessageReceived(1, 2, RUN, 3, 8), {"s.2"}, 8),
    (records.MessageReceived(1, 2, w.AwaitMessage("a", "r"), 0, 8), {"r", "a"}, 8),
    (records.MessageReceived(1, 2, w.AwaitDroppedMessage("a", "r"), 0, 8), {"r", "a"}, 8),
    (records.MessageReceived(1, 2, w.WakeMessage("r", "a"), 0, 8), {"r", "a"}, 8),
]


@pytest.mark.parametrize(("record", "ids", "time_ms"), FACTS, ids=lambda part: type(part).__name__)
def test_what_every_record_is_about(
    record: records.Record, ids: set[str], time_ms: int | None
) -> None:
    assert record_ids(record) == ids
    assert record_time_ms(record) == time_ms
    assert record_type(record) in records.encode(record).decode()
    assert read_record(records.encode(record)) == record
    assert set(record_fields(record)) <= set(record.__struct_fields__)


def test_an_entrys_type_is_told() -> None:
    entry = Account("a", 1, 5, "n")

    assert record_fields(records.EntryWritten(entry, 8))["entry"] == {
        "type": "account/1",
        **msgspec.structs.asdict(entry),
    }


def test_every_type_of_record_is_in_the_list_above() -> None:
    assert {type(record) for record, _, _ in FACTS} == set(records.Record.__args__)


def test_data_is_shortened_only_on_request() -> None:
    long = "d" * (DATA_SHOWN_CHARACTERS + 1)
    value = Value({"a": "b"}, long)
    record = records.PromiseCompleted("p", PromiseState.RESOLVED, value, None, 4, 6)

    assert record_fields(record)["value"] == {"headers": {"a": "b"}, "data": long}
    assert record_fields(record, whole_values=False)["value"] == {
        "headers": {"a": "b"},
        "data": long[:-1],
        "data_characters": len(long),
    }
    # Fields of a value that fits, of an entity inside, and of no value at all.
    fields = record_fields(records.CallbackCreated(CALLBACK), whole_values=False)
    assert fields["callback"]["promise_id"] == "p"
    assert "trace" not in fields["callback"]


# --- dump -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False])
def test_a_dump_has_every_record_in_order_with_its_place(sealed: bool) -> None:
    files, all_records = written(sealed=sealed)

    entries = list(dump(files, PATH, Selection()))

    assert [entry.log_record for entry in entries] == all_records
    assert [entry.sequence for entry in entries] == list(range(1, len(all_records) + 1))
    for entry in entries:
        body = entry.log_record.body
        start = entry.offset + 16  # behind the record's own header
        assert files.read(entry.file)[start : start + len(body)] == body


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(shard=1), [1, 4, 7, 10, 13]),
        (Selection(shard=7), []),
        (Selection(from_sequence=12), [12, 13, 14, 15]),
        (Selection(to_sequence=2), [1, 2]),
        (Selection(from_sequence=3, to_sequence=3), [3]),
        (Selection(from_sequence=99), []),
        (Selection(ids=frozenset({"p3", "p9", "other"})), [3, 9]),
        (Selection(since_ms=START_MS + 12_000), [12, 13, 14, 15]),
        (Selection(until_ms=START_MS + 3_000), [1, 2]),
        (Selection(since_ms=START_MS + 9_000, from_sequence=13), [13, 14, 15]),
        (Selection(frozenset({"p4", "p5"}), 1, START_MS, START_MS + 9_000, 2, 9), [4]),
    ],
)
def test_a_dump_leaves_out_what_was_not_asked_for(
    selection: Selection, expected: list[int]
) -> None:
    files, _ = written()

    assert dumped(files, selection) == expected


def test_a_record_without_a_time_is_as_old_as_the_one_before_it() -> None:
    files = SimulatedFiles()
    timeless = records.encode(records.TaskReleased("t"))
    timed = records.encode(records.TasksRenewed("w", START_MS))
    bodies = [timeless, timed, timeless]
    batches = [[LogRecord(0, number, body)] for number, body in enumerate(bodies, 1)]
    append_to(files, batches, sealed=True)

    assert dumped(files, Selection(since_ms=START_MS)) == [2, 3]
    assert dumped(files, Selection(until_ms=START_MS + 1)) == [1, 2, 3]
    assert dumped(files, Selection(until_ms=START_MS)) == [1]
    # The record with the time is in front of what is asked for, and is read all the same.
    assert dumped(files, Selection(since_ms=START_MS, from_sequence=3)) == [3]


def test_a_record_that_cannot_be_decoded_is_not_left_out_for_its_id() -> None:
    files = SimulatedFiles()
    append_to(files, [[LogRecord(0, 1, b'["from-the-future/1"]')]], sealed=True)

    (entry,) = dump(files, PATH, Selection(ids=frozenset({"p"})))

    assert entry.record is None


def test_a_dump_of_a_damaged_log_gives_what_is_before_the_damage() -> None:
    files, all_records = damaged("a batch in the middle")
    sound_count = verified(files).next_sequence - 1
    entries = dump(files, PATH, Selection())

    seen = [next(entries).log_record for _ in range(sound_count)]

    assert 0 < sound_count < len(all_records)
    assert seen == all_records[:sound_count]
    with pytest.raises(LogDamaged, match="is damaged at byte"):
        next(entries)


# --- a log in use ---------------------------------------------------------------------------------


def mixed(files: SimulatedFiles, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the next reading of the last segment see all but its first batch; list what is read."""
    path = segment_paths(files)[-1]
    whole = files.read(path)
    holed = whole[:SEGMENT_HEADER_BYTES] + bytes(50) + whole[SEGMENT_HEADER_BYTES + 50 :]
    contents = [holed]
    reads: list[str] = []
    read = files.read

    def reading(read_path: str) -> bytes:
        reads.append(read_path)
        return contents.pop() if read_path == path and contents else read(read_path)

    monkeypatch.setattr(files, "read", reading)
    return reads


@pytest.mark.parametrize("sealed", [True, False])
def test_a_batch_that_is_being_written_is_not_taken_for_damage(
    sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, all_records = written(sealed=sealed)
    reads = mixed(files, monkeypatch)

    last = segment_paths(files)[-1]

    assert dumped(files) == list(range(1, len(all_records) + 1))
    assert reads.count(last) == 2  # the mixed reading did happen

    mixed(files, monkeypatch)
    report = verified(files)
    assert report.is_sound
    assert report.records_count == len(all_records)
    # By the second mixing itself, and by the reading that replaced the mixed one.
    assert reads.count(last) == 4


def test_reading_goes_on_in_the_middle_without_repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    files, all_records = written()
    files.fail("read", errno.EIO, path_part=segment_paths(files)[3].rpartition("/")[2])

    assert dumped(files) == list(range(1, len(all_records) + 1))


def test_records_that_are_trimmed_while_they_are_read_are_missed_loudly() -> None:
    files, _ = written()
    entries = dump(files, PATH, Selection())
    next(entries)
    for path in segment_paths(files)[:3]:
        files.remove(path)

    with pytest.raises(DataDirectoryUnreadable, match="removed while they were being read"):
        list(entries)


def test_a_log_that_begins_later_can_be_dumped_but_is_not_sound_alone() -> None:
    files, _ = damaged("the first segment is missing")

    first = dumped(files)[0]

    assert first > 1
    report = verify(files, PATH)
    assert f"the records 1 to {first - 1} are missing" in report.damages[0].problem
    assert report.later_records_count == len(dumped(files))
    assert verify(files, PATH, from_sequence=first).is_sound


def test_a_log_that_ends_before_the_checkpoints_is_damaged() -> None:
    files, all_records = written()
    next_sequence = len(all_records) + 1

    assert verify(files, PATH, next_sequence).is_sound
    report = verify(files, PATH, next_sequence + 1)

    assert not report.is_sound
    assert f"it ends before record {next_sequence}, which" in report.damages[0].problem


# --- verify ---------------------------------------------------------------------------------------


def test_a_sound_log() -> None:
    files, all_records = written()

    report = verified(files)

    assert report.is_sound
    assert report.batches_count == len(BATCHES)
    assert report.records_count == len(all_records) == report.last_sequence
    assert (report.first_sequence, report.next_sequence) == (1, len(all_records) + 1)
    assert report.segments_count == len(segment_paths(files))
    assert report.size_bytes == sum(map(files.size, segment_paths(files)))
    assert report.last_time_ms == START_MS + 1000 * len(all_records)
    assert report.epoch == 3
    assert report.torn is None


def test_a_torn_end_is_reported_and_is_no_damage() -> None:
    files, all_records = written(sealed=False)
    path = segment_paths(files)[-1]
    end = len(files.read(path).rstrip(b"\0"))
    files.overwrite(path, end - 30, bytes(30))

    report = verified(files)

    assert report.is_sound
    assert report.records_count == len(all_records) - 1
    assert report.torn is not None
    assert report.torn.file == path
    assert report.torn_bytes == len(files.read(path).rstrip(b"\0")) - report.torn.offset > 0


@pytest.mark.slow
def test_verifying_agrees_with_recovery_about_every_damaged_byte() -> None:
    files, _ = written()
    refused_count = accepted_count = 0
    for path in segment_paths(files):
        for offset in range(0, files.size(path), 3):
            files.flip_bit(path, offset, offset % 8)
            report = verified(files)
            damage = None
            try:
                recovered_count = len(recover(files))
            except LogDamaged as error:
                damage = str(error)
                refused_count += 1
                files.flip_bit(path, offset, offset % 8)
            else:
                accepted_count += 1
                assert report.records_count == recovered_count
                files, _ = written()
            files.end_process()
            found = report.break_in_log
            assert (None if found is None else str(found)) == damage, (path, offset)

    assert refused_count > 500
    assert accepted_count > 10  # in seals


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_what_is_behind_it_is_counted(name: str) -> None:
    files, all_records = damaged(name)

    report = verified(files)

    assert not report.is_sound
    assert report.break_in_log is not None
    first = report.damages[0]
    assert (first.file, first.offset) == (report.break_in_log.file, report.break_in_log.offset)
    assert report.records_count == report.next_sequence - 1
    found_count = report.records_count + report.later_records_count
    assert found_count <= len(all_records)
    if name in ("a batch in the middle", "a header", "the first header"):
        # The records behind a header are all readable; the batch in the middle had two.
        assert found_count == len(all_records) - 2 * (name == "a batch in the middle")
        assert report.last_sequence == len(all_records)


def test_every_damaged_place_is_named() -> None:
    files, _ = damaged("several places")
    paths = segment_paths(files)

    report = verified(files)

    assert {damage.file for damage in report.damages} == {paths[1], paths[3], paths[4]}
    assert report.damages_count == len(report.damages)


def test_records_that_cannot_be_used_are_named_up_to_a_limit() -> None:
    files = SimulatedFiles()
    unknown = [LogRecord(0, number, b"[]") for number in range(1, 151)]
    append_to(files, [unknown], sealed=True)
    released = records.encode(records.TaskReleased("t"))
    append_to(files, [[LogRecord(16, 1, released), LogRecord(15, 1, released)]], sealed=True)

    report = verified(files)

    assert report.break_in_log is None
    assert report.unreadable_count == report.damages_count == 151
    assert len(report.damages) == 100
    assert "record 1 is of a type unknown to this version of Troth" in report.damages[0].problem
    assert not report.is_sound


def test_a_record_of_a_shard_that_does_not_exist_is_named() -> None:
    files = SimulatedFiles()
    append_to(files, [[LogRecord(16, 1, records.encode(records.TaskReleased("t")))]], sealed=True)

    (damage,) = verified(files).damages

    assert damage.problem == "record 1 is of shard 16, but there are only the shards 0 to 15"
    body = records.encode(records.TaskReleased("t"))
    assert files.read(damage.file)[damage.offset + 16 :].startswith(body)


def test_a_missing_log_directory_is_damage() -> None:
    files, _ = damaged("all segments are missing")
    files.remove_directory(f"{PATH}/groups/0/log")

    (damage,) = verified(files).damages

    assert (damage.file, damage.offset) == (f"{PATH}/groups/0/log", 0)
    assert "cannot be listed" in damage.problem


# --- directories that are none --------------------------------------------------------------------


def refused(files: SimulatedFiles, path: str, error: type[DataDirectoryError]) -> str:
    before = files.contents()
    with pytest.raises(error) as caught:
        verify(files, path)
    with pytest.raises(error):
        list(dump(files, path, Selection()))
    assert files.contents() == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_is_no_data_directory_is_refused() -> None:
    files, _ = written()
    files.make_directory("/empty")

    assert "/nowhere: does not exist." in refused(files, "/nowhere", DataDirectoryUnreadable)
    assert "/empty: holds no troth.json" in refused(files, "/empty", DataDirectoryUnreadable)
    file = f"{PATH}/troth.json"
    assert f"{file}: is not a directory" in refused(files, file, DataDirectoryUnreadable)


def test_a_damaged_identity_is_refused() -> None:
    files, _ = written()
    files.flip_bit(f"{PATH}/troth.json", 40, 1)

    assert "Restore troth.json from a backup" in refused(files, PATH, DataDirectoryUnreadable)


def test_a_segment_of_a_newer_format_is_not_judged() -> None:
    files, _ = written()
    header = SegmentHeader(bytes(range(16)), 2, 6, 0, format_version=2)
    files.overwrite(segment_paths(files)[1], 0, encode_segment_header(header))

    assert "has format version 2" in refused(files, PATH, UnknownFormatVersion)


def test_a_segment_of_a_newer_format_behind_damage_is_not_judged_either() -> None:
    files, _ = damaged("a batch in the first segment")
    header = SegmentHeader(bytes(range(16)), 2, 6, 0, format_version=2)
    files.overwrite(segment_paths(files)[1], 0, encode_segment_header(header))

    with pytest.raises(UnknownFormatVersion):
        verify(files, PATH)


def test_an_error_of_the_disk_is_not_taken_for_damage() -> None:
    files, _ = written()
    for _ in range(2):
        files.fail("read", errno.EIO, path_part=segment_paths(files)[1])

    with pytest.raises(DataDirectoryUnreadable, match=r"cannot be read \(Input/output error\)"):
        verify(files, PATH)


def test_an_identity_that_cannot_be_read_is_refused() -> None:
    files, _ = written()
    files.fail("read", errno.EACCES, path_part="troth.json")

    with pytest.raises(DataDirectoryUnreadable, match=r"cannot be read \(Permission denied\)"):
        verify(files, PATH)
