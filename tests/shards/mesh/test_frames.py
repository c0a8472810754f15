"""Frames and what is in them: read as they were written, or refused."""

from random import Random

import pytest

from tests.shards.stage import FAR_MS, WORKER
from troth.core.catalog import Account, Token
from troth.core.codes import Code
from troth.core.commands import Command, CreateCallback, CreatePromise, ListEntries, Receive
from troth.core.model import PENDING, ClaimRequest, Fence, Promise, Task, TaskKind, Trace, Value
from troth.core.records import PromiseMessage
from troth.core.replies import Claimed, PromisePage, Reply
from troth.core.workflow_commands import EnsurePromise, SearchWorkflows
from troth.core.workflows import WorkflowFence, WorkflowState
from troth.shards.errors import (
    CallFailed,
    LinkBroken,
    OutOfReach,
    Overloaded,
    ShardsError,
    Stopping,
    StorageFailed,
)
from troth.shards.hashing import HOMES
from troth.shards.mesh.codec import (
    COMMANDS,
    decode_answers,
    decode_command,
    decode_questions,
    encode_content,
)
from troth.shards.mesh.frames import (
    FrameFlag,
    Kind,
    LinkDamaged,
    LinkReader,
    decode_numbers,
    encode_frame,
    encode_numbers,
)
from troth.shards.mesh.outgoing_frames import TOGETHER_LIMIT_BYTES, OutgoingFrames
from troth.shards.mesh.place import ProcessPlace, checked_hello, encode_hello
from troth.shards.mesh.refusals import error_of, name_of

VALUE = Value({"key": "text"}, "aGVsbG8=")
EXAMPLES: tuple[Command, ...] = (
    CreatePromise(
        "order",
        FAR_MS,
        VALUE,
        {"resonate:invoke": WORKER},
        "key",
        True,
        Trace("00-a", "b"),
        Fence("__invoke:x", 3),
        ClaimRequest("pid", 10),
    ),
    CreateCallback("a", "b", FAR_MS, {"type": "poll", "data": [1, None, 1.5, {"x": "y"}]}),
    ListEntries(Token, None),
    ListEntries(Account, "account"),
    Receive(3, 7, PromiseMessage("run", FAR_MS, VALUE, {})),
    EnsurePromise("a", FAR_MS, fence=WorkflowFence("b", 2)),
    SearchWorkflows(WorkflowState.ACQUIRED, 10, 20, 30),
)


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: type(command).__name__)
def test_commands_are_read_as_they_were_written(command: Command) -> None:
    assert decode_command(*encode_content(command)) == command


def test_every_command_of_clients_can_be_sent() -> None:
    assert set(HOMES) <= set(COMMANDS)


def test_numbers_of_any_size_are_read_as_they_were_written() -> None:
    command = CreateCallback("a", "b", FAR_MS, {"large": 10**40})
    body, flags = encode_content(command)
    assert flags == FrameFlag.JSON
    assert decode_command(body, flags) == command


def test_replies_are_read_as_they_were_written() -> None:
    promise = Promise("order", 5, PENDING, FAR_MS, 1, VALUE)
    task = Task("__invoke:order", TaskKind.INVOKE, "order", "order", WORKER, FAR_MS, 1, None)
    for reply in (
        Reply(Code.PROMISE_NOT_FOUND),
        Reply(Code.OK, promise=promise, task=task, count=3),
        Reply(Code.CREATED, claimed=Claimed(TaskKind.RESUME, "a", "b", promise, None)),
        Reply(Code.OK, promises=PromisePage((promise, promise), 7)),
        Reply(Code.OK, codes=(Code.OK, Code.AWAITED_NOT_FOUND)),
    ):
        outgoing = OutgoingFrames(lambda: None)
        outgoing.put_together(Kind.REPLY, (1, True, reply))
        (frame,) = LinkReader().read(outgoing.take())
        ((_, _, read),) = decode_answers(frame.body, frame.flags)
        assert read == reply
        assert read.promise is None or read.promise.state is PENDING


def test_questions_that_follow_one_another_are_one_frame() -> None:
    """What msgpack cannot write is in one of its own; nothing changes places."""
    woken: list[int] = []
    outgoing = OutgoingFrames(lambda: woken.append(len(outgoing)))
    large = CreateCallback("a", "b", FAR_MS, {"large": 10**40})
    commands = [*EXAMPLES, large, large, *EXAMPLES]
    for number, command in enumerate(commands):
        outgoing.put_together(Kind.ASK, (number, 3, number % 2 == 0, command))
        assert len(outgoing) > woken[0] == 0
    outgoing.put(encode_frame(Kind.RETURNED, b"pass"))
    outgoing.put_together(Kind.ASK, (99, 3, False, large))
    assert woken == [0]
    frames = list(LinkReader().read(outgoing.take()))
    assert [frame.kind for frame in frames] == [Kind.ASK] * 4 + [Kind.RETURNED, Kind.ASK]
    assert [frame.flags for frame in frames] == [0, FrameFlag.JSON, FrameFlag.JSON, 0, 0, 2]
    read = [
        question
        for frame in frames
        if frame.kind == Kind.ASK
        for question in decode_questions(frame.body, frame.flags)
    ]
    assert [question[3] for question in read] == [*commands, large]
    assert [question[:3] for question in read[:-1]] == [
        (number, 3, number % 2 == 0) for number in range(len(commands))
    ]
    assert (outgoing.take(), len(outgoing)) == (b"", 0)


def test_what_is_put_together_does_not_become_too_long() -> None:
    outgoing = OutgoingFrames(lambda: None)
    command = CreatePromise("order", FAR_MS, Value(None, "x" * (TOGETHER_LIMIT_BYTES // 2)))
    for _ in range(8):
        outgoing.put_together(Kind.ASK, (1, 0, False, command))
    frames = list(LinkReader().read(outgoing.take()))
    assert sum(len(decode_questions(frame.body, 0)) for frame in frames) == 8
    assert max(len(frame.body) for frame in frames) < 3 * TOGETHER_LIMIT_BYTES


def test_what_cannot_be_written_leaves_nothing_behind() -> None:
    outgoing = OutgoingFrames(lambda: None)
    outgoing.put_together(Kind.REPLY, (1, False, Reply(Code.OK, count=1)))
    with pytest.raises(NotImplementedError):
        outgoing.put_together(Kind.REPLY, (2, False, Reply(Code.OK, count=object())))  # type: ignore[arg-type]
    outgoing.put_together(Kind.REPLY, (3, False, Reply(Code.OK, count=3)))
    (frame,) = LinkReader().read(outgoing.take())
    assert [one[0] for one in decode_answers(frame.body, 0)] == [1, 3]
    outgoing.put_together(Kind.REPLY, (4, False, Reply(Code.OK)))
    outgoing.forget()
    assert outgoing.take() == b""


def test_what_follows_something_that_could_not_be_written_wakes() -> None:
    woken: list[int] = []
    outgoing = OutgoingFrames(lambda: woken.append(1))
    with pytest.raises(NotImplementedError):
        outgoing.put_together(Kind.REPLY, (1, False, Reply(Code.OK, count=object())))  # type: ignore[arg-type]
    assert outgoing.take() == b""
    woken.clear()
    outgoing.put_together(Kind.REPLY, (2, False, Reply(Code.OK)))
    assert woken == [1]


def test_what_is_put_together_is_of_one_kind() -> None:
    outgoing = OutgoingFrames(lambda: None)
    for kind in (Kind.ASK, Kind.PARCELS, Kind.PARCELS, Kind.ASK):
        outgoing.put_together(kind, (1, 2, 3, False, None))
    frames = LinkReader().read(outgoing.take())
    assert [frame.kind for frame in frames] == [Kind.ASK, Kind.PARCELS, Kind.ASK]


def test_frames_are_found_however_they_come() -> None:
    luck = Random(1)
    written = [
        (kind, flags, luck.randrange(1024), luck.randrange(2**60), luck.randbytes(size))
        for kind in Kind
        for flags in range(4)
        for size in (0, 1, 1_000)
    ]
    stream = b"".join(
        encode_frame(kind, body, correlation, index, flags)
        for kind, flags, index, correlation, body in written
    )
    for _ in range(20):
        reader = LinkReader()
        found = []
        rest = stream
        while rest:
            count = luck.randint(1, 40)
            for frame in reader.read(rest[:count]):
                head = Kind(frame.kind), frame.flags, frame.index, frame.correlation
                found.append((*head, frame.body))
            rest = rest[count:]
        assert found == written


@pytest.mark.parametrize(
    "stream",
    [b"\xff" * 16, b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 16, encode_frame(Kind.ASK)[:4] * 4],
)
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(LinkDamaged):
        list(LinkReader().read(stream))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\xa4None", b"{}", b"\x91\xa4Nope"])
def test_what_is_no_command_is_refused(body: bytes) -> None:
    for flags in (0, FrameFlag.JSON):
        with pytest.raises(LinkDamaged):
            decode_command(body, flags)
        with pytest.raises(LinkDamaged):
            decode_answers(body, flags)
        with pytest.raises(LinkDamaged):
            decode_questions(body, flags)


def test_lists_of_numbers() -> None:
    assert decode_numbers(encode_numbers([1, 2**60, 0])) == [1, 2**60, 0]
    with pytest.raises(LinkDamaged):
        decode_numbers(b"\x00" * 7)


@pytest.mark.parametrize(
    "kind",
    [Overloaded, Stopping, OutOfReach, LinkBroken, CallFailed],
    ids=lambda kind: kind.__name__,
)
def test_errors_keep_their_kind(kind: type[ShardsError]) -> None:
    assert type(error_of(name_of(kind()))) is kind
    with pytest.raises(LinkDamaged):
        error_of(b"KeyboardInterrupt")


def test_a_log_that_has_failed_is_to_others_as_a_process_that_has_died() -> None:
    assert type(error_of(name_of(StorageFailed()))) is LinkBroken


def place(process: int = 0, data_id: str = "data", count: int = 3) -> ProcessPlace:
    """Return the place of a process."""
    return ProcessPlace(process, (2,) * count, data_id, "", 1)


def test_only_processes_of_the_same_server_are_linked() -> None:
    here = place(0)
    assert checked_hello(encode_hello(place(1)), here, 1).process == 1
    for other, peer in ((place(1, "other"), 1), (place(2), 1), (place(0), None), (place(7), None)):
        with pytest.raises(LinkDamaged):
            checked_hello(encode_hello(other), here, peer)
    with pytest.raises(LinkDamaged):
        checked_hello(b"\x00", here, None)


def test_shards_of_groups_follow_one_another() -> None:
    uneven = ProcessPlace(1, (3, 1, 2), "data", "", 1)
    assert uneven.groups == (0, 0, 0, 1, 2, 2)
    assert [list(uneven.shards_of(group)) for group in range(3)] == [[0, 1, 2], [3], [4, 5]]
