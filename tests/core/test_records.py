"""Records outlive releases: what was written once must be readable, and mean the same, for ever.

`golden_records.jsonl` holds one encoded record a line. A line that is there never changes. To add
the lines of new samples, run this test with `TROTH_REWRITE=1` and look at the difference: only
additions may show up, anything else breaks the logs that are out there.
"""

import os
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core import bulk, catalog, executions
from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.model import (
    Callback,
    Lock,
    Promise,
    PromiseState,
    Schedule,
    TaskKind,
    Trace,
    Value,
)
from troth.core.workflows import WorkflowLease, WorkflowSeed

GOLDEN = Path(__file__).parent / "golden_records.jsonl"

NUMBER_MAX, NUMBER_MIN = 2**63 - 1, -(2**63)
VALUE = Value({"content-type": "text/plain", "ünï": "⏰"}, "aGVsbG8=")
TRACE = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")
RECEIVER = {"type": "poll", "data": {"group": "g", "id": None, "weights": [1, 2.5, True]}}
RESUME = Callback("__resume:r:l", TaskKind.RESUME, "l", "r", 5_000, "poll://any@g/w", 17, TRACE)
NOTIFY = Callback("__notify:l:s:1", TaskKind.NOTIFY, "l", "l", NUMBER_MAX, RECEIVER, 18)
PROMISE = r.PromiseMessage("s.1700000000000", 1_700_000_060_000, VALUE, {"a": "b"})
ROUTED = r.PromiseMessage(
    "s.1", 5, Value(), {"resonate:invoke": "poll://g"}, r.TaskSeed("poll://g", not_before=77)
)
SCHEDULE = Schedule(
    *("s", 3, "*/5 * * * *", "{{.id}}.{{.timestamp}}", 60_000, 1_700_000_000_001),
    *(1_700_000_100_000, "five minutes", {"x": "y"}, VALUE, {"resonate:invoke": "poll://g"}),
    *("key", 1_699_999_800_000),
)
IMPORTED = Promise(
    *("old", 11, PromiseState.REJECTED_CANCELED, 9, 5, VALUE, {"a": "b"}, "", VALUE, "key", 7),
    TRACE,
)
DEMANDS = catalog.Capabilities(30, 2, 512, 100, True)
ENTRIES: tuple[catalog.Entry, ...] = (
    catalog.Account("a" * 24, 1, 5, "ünï"),
    catalog.Account("a" * 24, 2, 5, "ünï", True),
    catalog.Token("b" * 24, 1, 6, "a" * 24, "c" * 64, (catalog.Scope.TASKS_READ,)),
    catalog.Token("b" * 24, 2, 6, "a" * 24, "c" * 64, (), "n", "p/", NUMBER_MAX, 99),
    catalog.Label("d" * 24, 1, 7, "a" * 24, "red", "#f00"),
    catalog.Function("e" * 24, 1, 8, "a" * 24, "web", catalog.FunctionKind.HTTP, url="https://x"),
    catalog.Function(
        *("e" * 24, 3, 8, "a" * 24, "code", catalog.FunctionKind.CODE, "words", ("d" * 24,)),
        *(catalog.Language.PYTHON, None, "f" * 24, True, DEMANDS),
    ),
    catalog.Build(
        *("f" * 24, 1, 9, "a" * 24, "e" * 24, catalog.BuildStatus.SUCCESS, "0" * 64, 1_000),
        *("amd64", (catalog.BuildStep(catalog.BuildStatus.PENDING, 9),), ("a line",)),
    ),
    catalog.Node("63f47d24-0000-4000-8000-dab5eb85451f", 1, 10, "a" * 24),
    catalog.Node(
        "63f47d24-0000-4000-8000-dab5eb85451f",
        *(2, 10, "a" * 24, "mine", (catalog.Language.JAVASCRIPT,), DEMANDS),
        *(4, True, True, True, True),
    ),
)
COUNTS = bulk.BulkCounts(7, 1, {"completed": 2, "changed": 1})
JOBS = (
    bulk.BulkJob(
        id="a1" * 12,
        revision=1,
        created_on=11,
        account_id="",
        made_by="user anna",
        subject=bulk.BulkSubject.PROMISES,
        action=bulk.BulkAction.CANCEL,
        filter=bulk.BulkFilter("order-*", ("PENDING",), {"team": "ü"}, (1, 2), (3, NUMBER_MAX)),
        asked={"id": "order-*", "tags[team]": "ü"},
        rate_count=1_000,
        through=(12,),
    ),
    bulk.BulkJob(
        id="a2" * 12,
        revision=3,
        created_on=11,
        account_id="a" * 24,
        made_by="user bert",
        subject=bulk.BulkSubject.TASKS,
        action=bulk.BulkAction.RETRY,
        filter=bulk.BulkFilter("*", ("stalled",), families=("rest",), receiver="x", process_id="p"),
        asked={},
        rate_count=20_000,
        through=(1, 2, 3, 4),
        value=VALUE,
        dry_run=True,
        id_prefix="order-",
        state=bulk.BulkState.FAILED,
        ended_on=14,
        matched_count=12,
        counts=COUNTS,
        examples=("order-1", "order-2"),
        problem="shard 1 could not count",
    ),
)
PLANS = (
    executions.ExecutionPlan(
        "a" * 24, "e" * 24, catalog.FunctionKind.HTTP, DEMANDS, url="https://x"
    ),
    executions.ExecutionPlan(
        *("a" * 24, "e" * 24, catalog.FunctionKind.CODE, DEMANDS),
        *(catalog.Language.PYTHON, "f" * 24),
    ),
)
TARGET = {"resonate:target": "poll://any@g"}
FIRED = w.WorkflowMessage("s.2", 5, 4, VALUE, TARGET, WorkflowSeed())
SAMPLES: tuple[r.Record, ...] = (
    r.PromiseCreated("p", 1, 10, 5, Value(), None, None, None, None),
    r.PromiseCreated(
        *('p/ü%:"\\\n\x00⏰', 2, NUMBER_MAX, 1_700_000_000_000, VALUE),
        *({"resonate:invoke": "poll://g", "resonate:timeout": "true"}, "", TRACE),
        r.TaskSeed(RECEIVER, "w1", 60_000, 1_700_000_060_000, 1_700_000_000_500),
    ),
    r.PromiseCreated("q", 3, NUMBER_MIN, 5, Value(), {}, "key", None, r.TaskSeed("nobody")),
    r.PromiseCompleted("p", PromiseState.RESOLVED, VALUE, "key", 11, 11),
    r.PromiseCompleted("p", PromiseState.REJECTED, Value(None, "eA=="), None, 12, 12),
    r.PromiseCompleted("p", PromiseState.REJECTED_CANCELED, Value({"a": "b"}), "", 13, 13),
    r.PromiseCompleted("p", PromiseState.REJECTED_TIMEDOUT, Value(), None, -5, 99),
    r.CompletionBegun("p", PromiseState.RESOLVED, VALUE, "key", 11, 11),
    r.CompletionBegun("p", PromiseState.REJECTED_TIMEDOUT, Value(), None, -5, 99),
    r.CompletionContinued("l", ["__resume:l:m"], ["__resume:r:l"], ["a/ü"], ["poll://any@g"]),
    r.CompletionContinued("l", [], [], [], []),
    r.PromiseImported(IMPORTED, None, 1_700_000_000_900),
    r.PromiseImported(
        Promise("w", 12, PromiseState.PENDING, NUMBER_MAX, 3), r.TaskSeed("poll://g"), 4
    ),
    r.PromisesDeleted(["p", "p/ü:1"], ["__invoke:p", "__notify:p/ü%3A1:s"], 3, 14),
    r.PromisesDeleted(["q"], [], 0, 15),
    r.CallbackCreated(RESUME),
    r.CallbackCreated(NOTIFY),
    r.TaskEnqueued("__invoke:p", 10_000),
    r.TaskDelivered("__notify:l:s:1"),
    r.TaskClaimed("__invoke:p", "w1", 60_000, 70_000),
    r.TaskReleased("__invoke:p"),
    r.TaskCompleted("__invoke:p", 71_000),
    r.TaskTimedOut("__resume:r:l"),
    r.TasksRenewed("w1", 72_000),
    r.ScheduleCreated(SCHEDULE),
    r.ScheduleCreated(Schedule("t", 4, "0 0 31 2 *", "t", 0, 7, None)),
    r.ScheduleChanged(msgspec.structs.replace(SCHEDULE, paused_on=1_700_000_000_777)),
    r.ScheduleDeleted("s"),
    r.ScheduleFired("s", 1_700_000_000_000, 1_700_000_300_000, PROMISE, 9, 1_700_000_000_004),
    r.ScheduleFired("s", 1_700_000_000_000, None, PROMISE, 9, 1_700_000_000_004),
    r.ScheduleSkipped("s", 1_700_000_600_000),
    r.ScheduleSkipped("s", None),
    r.LockAcquired(Lock("r/1", "e", "w1", 30_000, 100_000, 12)),
    r.LockReleased("r/1"),
    r.LocksRenewed("w1", 73_000),
    r.MessageReceived(3, 1, r.ResumeMessage(RESUME, 74_000), 0, 74_001),
    r.MessageReceived(15, NUMBER_MAX, PROMISE, 10, 74_002),
    r.MessageReceived(0, 2, ROUTED, 11, 74_003),
    r.MessagesAcknowledged(2, 7),
    *(r.EntryWritten(entry, 1_700_000_000_005) for entry in ENTRIES),
    r.EntryDeleted("e" * 24, 1_700_000_000_006),
    *(r.ExecutionCreated("troth:task/1", plan, 1_700_000_000_007) for plan in PLANS),
    r.ExecutionAssigned("troth:task/1", "n/ü", 1_700_000_000_008),
    r.ExecutionReported("troth:task/1", 1_700_000_000_009),
    r.ExecutionReported("troth:task/1", 1_700_000_000_010, 75),
    r.ExecutionReturned("troth:task/1", 1_700_000_000_011),
    r.PromisesDeleted(["w"], [], 0, 16, 7),
    r.ScheduleFired("s", 1_700_000_000_000, None, FIRED, 9, 1_700_000_000_004),
    r.MessageReceived(3, 9, FIRED, 12, 20),
    r.MessageReceived(3, 10, w.AwaitMessage("child", "root"), 0, 21),
    r.MessageReceived(3, 11, w.AwaitDroppedMessage("child", "root"), 0, 22),
    r.MessageReceived(3, 12, w.WakeMessage("root", "child"), 0, 23),
    w.WorkflowCreated("w", 13, NUMBER_MAX, 5, VALUE, TARGET),
    w.WorkflowCreated(
        *("w/ü", 14, 10, 5, Value(), TARGET, "key", TRACE),
        WorkflowSeed(None, WorkflowLease("p1", 60_000, 60_005, "create sr-1")),
    ),
    w.WorkflowImported("w", WorkflowSeed(1_700_000_000_500), 6),
    w.WorkflowAcquired("w", WorkflowLease("p1", 1, 505)),
    w.WorkflowsRenewed(["w", "w/ü"], 7),
    w.WorkflowReleased("w", 8),
    w.WorkflowReleased("w", 9, True),
    w.WorkflowSuspended("w", ["w.1", "w.2"], 10),
    w.WorkflowResumesCleared("w"),
    w.WorkflowHalted("w", 11),
    w.WorkflowContinued("w", 12),
    w.WorkflowWoken("w", "w.1", 13),
    w.AwaitRegistered("w.1", "w", 14),
    w.ListenerRegistered("w", "poll://uni@g/1", 15),
    w.ListenerTold("w", "poll://uni@g/1", 16),
    w.ListenerTold("w", "http://localhost/x", 17, True),
    r.LeasesRestarted(1_700_000_000_012, 10_000),
    r.LeasesRestarted(1_700_000_000_013, 10_000, was_set_back=True),
    *(r.EntryWritten(job, 1_700_000_000_014) for job in JOBS),
    r.BulkAdvanced("a1" * 12, (77,), COUNTS, 1_700_000_000_015),
    r.BulkAdvanced("a2" * 12, None, bulk.BulkCounts(), 1_700_000_000_016),
    r.BulkClosed("a1" * 12, 1_700_000_000_017),
)
RECORD_TYPES = get_args(r.Record)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that records are made of."""
    if isinstance(kind, UnionType):
        return st.one_of(*map(strategy, get_args(kind)))
    if get_origin(kind) is dict:
        return st.dictionaries(*map(strategy, get_args(kind)), max_size=3)
    if get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis:
        return st.tuples(*map(strategy, get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(strategy(get_args(kind)[0]), max_size=3).map(tuple)
    if get_origin(kind) is list:
        return st.lists(strategy(*get_args(kind)), max_size=3)
    if kind is object:
        plain = st.none() | st.booleans() | st.integers(NUMBER_MIN, NUMBER_MAX) | st.text()
        return st.lists(plain) | st.dictionaries(st.text(), plain) | plain
    if kind is int:
        return st.integers(NUMBER_MIN, NUMBER_MAX)
    if kind is str:
        return st.text()
    if kind is bool:
        return st.booleans()
    if kind is type(None):
        return st.none()
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert issubclass(kind, msgspec.Struct), kind
    return st.builds(kind, **{name: strategy(one) for name, one in get_type_hints(kind).items()})


def test_there_is_a_sample_of_every_record() -> None:
    assert {type(sample) for sample in SAMPLES} == set(RECORD_TYPES)


def test_records_are_written_as_they_always_were() -> None:
    """If this fails, this release writes logs that others cannot read, or reads theirs wrongly.

    A field that was added at an end shows up here; then the line without it is to be added below.
    """
    encoded = [r.encode(sample) for sample in SAMPLES]
    if os.environ.get("TROTH_REWRITE"):
        GOLDEN.write_bytes(b"".join(line + b"\n" for line in encoded))
    golden = GOLDEN.read_bytes().splitlines()

    assert encoded == golden
    assert [r.decode(line) for line in golden] == list(SAMPLES)


@given(st.one_of(*map(strategy, RECORD_TYPES)))
def test_every_record_reads_back_as_it_was(record: r.Record) -> None:
    encoded = r.encode(record)

    assert r.decode(encoded) == record
    assert b"\n" not in encoded


@pytest.mark.parametrize("sample", SAMPLES)
def test_fields_that_a_later_release_added_are_ignored(sample: r.Record) -> None:
    """So a release may be taken back, unless the new field mattered; then the tag changes."""
    longer = [*msgspec.json.decode(r.encode(sample)), "something", {"new": 1}]

    assert r.decode(msgspec.json.encode(longer)) == sample


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'["promises-deleted/1",["q"],[],0,15]',
            r.PromisesDeleted(["q"], [], 0, 15),
        ),
        (
            b'["promise-created/1","p",1,10,5,[],null,null,null,["nobody"]]',
            r.PromiseCreated("p", 1, 10, 5, Value(), None, None, None, r.TaskSeed("nobody")),
        ),
        (
            b'["callback-created/1",["__resume:r:l","resume","l","r",5,"x",17]]',
            r.CallbackCreated(
                Callback("__resume:r:l", TaskKind.RESUME, "l", "r", 5, "x", 17, None)
            ),
        ),
        (
            b'["lock-acquired/1",["r/1","e","w1",30000,100000]]',
            r.LockAcquired(Lock("r/1", "e", "w1", 30_000, 100_000)),
        ),
        (
            b'["schedule-created/1",["t",4,"@daily","t",0,7,null]]',
            r.ScheduleCreated(Schedule("t", 4, "@daily", "t", 0, 7, None)),
        ),
        (
            b'["schedule-created/1",["t",4,"0 0 31 2 *","t",0,7,null,"",null,[null,null],null,null,'
            b"null]]",
            r.ScheduleCreated(Schedule("t", 4, "0 0 31 2 *", "t", 0, 7, None)),
        ),
        (
            b'["promise-imported/1",["w",12,"PENDING",9,3,[null,null],null,null,[null,null],null,null,'
            b'null],["poll://g",null,0,0,null],4]',
            r.PromiseImported(
                Promise("w", 12, PromiseState.PENDING, 9, 3), r.TaskSeed("poll://g"), 4
            ),
        ),
        (
            b'["schedule-fired/1","s",4,null,["promise/1","s.1",5,[null,null],{},null],9,4]',
            r.ScheduleFired("s", 4, None, r.PromiseMessage("s.1", 5, Value(), {}), 9, 4),
        ),
        (
            b'["schedule-fired/1","s",4,null,["workflow/1","s.2",5,4,[null,null],{},[null,null]],9,4]',
            r.ScheduleFired(
                *("s", 4, None),
                w.WorkflowMessage("s.2", 5, 4, Value(), {}, WorkflowSeed()),
                *(9, 4),
            ),
        ),
    ],
)
def test_fields_with_a_default_may_be_missing(body: bytes, expected: r.Record) -> None:
    assert r.decode(body) == expected


def test_every_tag_is_a_name_and_a_version() -> None:
    tags = [kind.__struct_config__.tag for kind in (*RECORD_TYPES, *get_args(r.ShardMessage))]

    assert len(set(tags)) == len(tags)
    for tag in tags:
        name, _, version = tag.partition("/")
        assert name.replace("-", "").isalpha()
        assert version.isdigit()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'["promise-created/2","p"]',
        b'["task-released/1"]',
        b'["task-released/1",7]',
        b'["promise-completed/1","p","DONE",[],null,1,1]',
    ],
)
def test_what_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        r.decode(body)
