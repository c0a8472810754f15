"""The two ends of a link, without a loop: what they refuse, what fills them, what damages them."""

from dataclasses import dataclass, field

import pytest
from msgspec import msgpack

from tests.shards.stage import FAR_MS, CalledBack
from troth.core.codes import Code
from troth.core.commands import CreatePromise, ReadPromise, Receive
from troth.core.limits import LINK_WAITING_LIMIT_COUNT, PROCESS_CALLS_LIMIT_COUNT
from troth.core.model import EMPTY_VALUE
from troth.core.records import PromiseMessage
from troth.core.replies import Reply
from troth.core.workflow_commands import EnsurePromise
from troth.shards.errors import LinkBroken, OutOfReach, Overloaded, ShardsError, Stopping
from troth.shards.held import HeldMessages
from troth.shards.mesh.answering import AnswerBack, Answering
from troth.shards.mesh.calls import ProcessNote
from troth.shards.mesh.codec import decode_questions, encode_content
from troth.shards.mesh.frames import (
    Kind,
    LinkDamaged,
    LinkReader,
    decode_named,
    encode_frame,
    encode_named,
    encode_numbers,
)
from troth.shards.mesh.link import MeshLink
from troth.shards.mesh.refusals import name_of
from troth.shards.waiting import AfterReceipts

from .test_calls import ADD, add
from .world import make_process

READ = ReadPromise("order")
MESSAGE = Receive(0, 1, PromiseMessage("order", FAR_MS, EMPTY_VALUE, {}))


@dataclass
class CallAnswer:
    """Keeps the answer to a call."""

    bodies: list[bytes] = field(default_factory=list)
    errors: list[ShardsError] = field(default_factory=list)

    def answer(self, body: bytes) -> None:
        """Keep the answer."""
        self.bodies.append(body)

    def refuse(self, error: ShardsError) -> None:
        """Keep the error."""
        self.errors.append(error)


class Pair:
    """Both ends of the link by which process 0 asks process 1; the test carries the bytes."""

    def __init__(self, *, limit_count: int = 1_000, limit_bytes: int = 1 << 20) -> None:
        self.now_s = 100.0
        self.here, self.there = make_process(0, (1, 1)), make_process(1, (1, 1))
        self.link = MeshLink(
            self.here.place,
            1,
            now_s=lambda: self.now_s,
            wake=lambda: None,
            when_up=lambda *_: None,
            questions_limit_count=limit_count,
            outgoing_limit_bytes=limit_bytes,
        )
        mesh = self.there.mesh
        self.end = Answering(
            self.there.place,
            self.there.shards,
            mesh.passes,
            mesh.calls,
            mesh.barrier,
            now_s=lambda: self.now_s,
            wake=lambda: None,
            keep_up_with=lambda _: None,
        )

    def greet(self) -> None:
        """Bring the link up."""
        self.link.opened()
        self.end.received(self.link.take())
        self.link.received(self.end.take())
        assert self.link.is_up


@pytest.fixture
async def pair() -> Pair:
    """A link that is up."""
    made = Pair()
    made.greet()
    return made


def asked(link: MeshLink, command: ReadPromise | EnsurePromise | CreatePromise) -> CalledBack:
    """Ask the other process's shard."""
    asker = CalledBack()
    link.ask(1, command, asker, 0, None)
    return asker


@pytest.mark.parametrize("command", [READ, EnsurePromise("order", FAR_MS)])
async def test_a_link_takes_as_many_questions_as_it_may(
    command: ReadPromise | EnsurePromise,
) -> None:
    pair = Pair(limit_count=2)
    pair.greet()
    asked(pair.link, command)
    assert not pair.link.is_full
    asked(pair.link, command)
    assert pair.link.is_full
    with pytest.raises(Overloaded):
        asked(pair.link, command)


async def test_a_link_takes_as_many_bytes_as_it_may() -> None:
    pair = Pair(limit_bytes=40)
    pair.greet()
    asked(pair.link, ReadPromise("order" * 20))
    with pytest.raises(Overloaded):
        asked(pair.link, READ)
    pair.link.take()
    asked(pair.link, READ)


async def test_a_link_that_is_down_keeps_so_many_questions_and_no_more() -> None:
    link = Pair().link
    for _ in range(LINK_WAITING_LIMIT_COUNT):
        asked(link, READ)
    assert link.is_full
    with pytest.raises(OutOfReach):
        asked(link, READ)


async def test_calls_are_bounded_whether_the_link_is_up_or_not(pair: Pair) -> None:
    away = Pair().link
    for link, error in ((pair.link, Overloaded), (away, OutOfReach)):
        for _ in range(PROCESS_CALLS_LIMIT_COUNT):
            link.call("add", b"", CallAnswer(), 1_000)
        with pytest.raises(error):
            link.call("add", b"", CallAnswer(), 1_000)


async def test_what_is_only_told_is_dropped_while_the_link_is_down() -> None:
    link = Pair().link
    link.tell(1, READ)
    link.note("say", b"")
    link.return_pass("0.1.1")
    gate = AfterReceipts(CalledBack())
    link.post(1, MESSAGE, None, gate)
    link._release(3)
    assert link.take() == b""


async def test_a_process_that_ends_refuses_what_waits() -> None:
    link = Pair().link
    question, call = asked(link, READ), CallAnswer()
    link.call("add", b"", call, 1_000)
    assert not link.is_quiet
    link.refuse_all()
    assert [type(error) for error in question.errors] == [OutOfReach]
    assert [type(error) for error in call.errors] == [OutOfReach]
    assert link.is_quiet


async def test_calls_that_wait_for_too_long_are_refused() -> None:
    pair = Pair()
    short, long = CallAnswer(), CallAnswer()
    pair.link.call("add", b"", short, 1_000)
    pair.link.call("add", b"", long, 9_000)
    pair.now_s += 2
    assert pair.link.look()
    assert [type(error) for error in short.errors] == [OutOfReach]
    assert long.errors == []
    pair.greet()  # the other waits until there is a link, and is asked then
    assert Kind.CALL in pair.link.take()[:6]


async def test_what_a_stopping_process_refuses_is_asked_of_the_next(pair: Pair) -> None:
    question = asked(pair.link, READ)
    pair.link.take()
    pair.link.received(encode_frame(Kind.REFUSE, name_of(Stopping()), 1))
    assert question.errors == []
    pair.link.closed()
    again = Pair()
    again.link = pair.link
    again.greet()
    assert b"order" in pair.link.take()


async def test_what_a_stopped_process_has_not_read_is_asked_of_the_next(pair: Pair) -> None:
    """It was not carried out, and its client is not told that nobody knows."""
    on_its_way = asked(pair.link, READ)
    sent = pair.link.take()
    pair.end.say_last()
    pair.link.received(pair.end.take())
    later = asked(pair.link, READ)
    assert pair.end.received(sent)
    pair.there.shards.run_turn()
    assert pair.end.take() == b"", "it carries out nothing further"
    pair.link.closed()
    assert on_its_way.errors == later.errors == []
    again = Pair()
    again.link = pair.link
    again.greet()
    (frame,) = LinkReader().read(pair.link.take())
    assert [command for *_, command in decode_questions(frame.body, 0)] == [READ, READ]


async def test_what_is_carried_out_and_not_answered_stays_in_doubt(pair: Pair) -> None:
    """As an answer that waits for receipts of another group: then the last word is not said."""
    open_one = asked(pair.link, READ)
    pair.end.received(pair.link.take())  # in the mailbox
    pair.end.say_last()
    assert pair.end.take() == b""
    pair.link.closed()
    assert [type(error) for error in open_one.errors] == [LinkBroken]


async def test_a_stopping_process_leaves_no_more_to_the_next_than_may_wait(pair: Pair) -> None:
    link = pair.link
    pair.now_s = 0.0
    askers = [asked(link, READ) for _ in range(1_000)]
    for number in range(1, 1_001):
        link.received(encode_frame(Kind.REFUSE, name_of(Stopping()), number))
    for _ in range(LINK_WAITING_LIMIT_COUNT - 1_000):
        askers.append(asked(link, READ))
        link.received(encode_frame(Kind.REFUSE, name_of(Stopping()), len(askers)))
    last = asked(link, READ)
    link.received(encode_frame(Kind.REFUSE, name_of(Stopping()), len(askers) + 1))
    assert [type(error) for error in last.errors] == [OutOfReach]
    assert not any(asker.errors for asker in askers)


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Kind.REPLY, b"\xc1"),
        encode_frame(Kind.REPLY, msgpack.encode([(7, False, Reply(Code.OK))])),
        encode_frame(Kind.RESULT, b"", 7),
        encode_frame(Kind.REFUSE, name_of(LinkBroken()), 7),
        encode_frame(Kind.REFUSE, b"NoSuchError", 1),
        encode_frame(Kind.RECEIVED, b"123"),
        encode_frame(Kind.POST, b"", 1),
    ],
    ids=["unreadable", "not asked", "result", "refusal", "error", "numbers", "kind"],
)
async def test_an_answer_that_cannot_be_ends_the_link(pair: Pair, frame: bytes) -> None:
    asked(pair.link, READ)
    pair.link.take()
    with pytest.raises(LinkDamaged):
        pair.link.received(frame)


async def test_a_receipt_of_something_else_is_passed_over(pair: Pair) -> None:
    pair.link.received(encode_frame(Kind.RECEIVED, encode_numbers([5, 9])))
    assert pair.link.is_up


@pytest.mark.parametrize("is_asker", [True, False], ids=["asker", "answerer"])
async def test_who_does_not_greet_first_is_not_heard(is_asker: bool) -> None:
    pair = Pair()
    pair.link.opened()
    with pytest.raises(LinkDamaged):
        (pair.link if is_asker else pair.end).received(encode_frame(Kind.PING))


MESSAGE_BODY, _ = encode_content(MESSAGE)
OWN_BODY, _ = encode_content(Receive(1, 1, MESSAGE.message))
READ_BODY, _ = encode_content(READ)


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Kind.ASK, msgpack.encode([(1, 0, False, READ)])),
        encode_frame(Kind.ASK, b"\xc1"),
        encode_frame(Kind.TELL, READ_BODY, 0, 5),
        encode_frame(Kind.POST, READ_BODY, 1, 1),
        encode_frame(Kind.POST, OWN_BODY, 1, 1),
        encode_frame(Kind.RELEASED, b"1"),
        encode_frame(Kind.CALL, b"\x09", 1),
        encode_frame(Kind.CALL, encode_named("no such call", b""), 1),
        encode_frame(Kind.NOTE, encode_named("no such note", b"")),
        encode_frame(Kind.NOTE, b"\x02\x00\xff\xff"),
        encode_frame(Kind.NOTE, encode_named("say", b"\xc1")),
        encode_frame(Kind.REPLY, b"", 1),
    ],
    ids=[
        "another group's shard",
        "unreadable",
        "no shard",
        "no message",
        "its own message",
        "numbers",
        "cut off",
        "call",
        "note",
        "name",
        "content",
        "kind",
    ],
)
async def test_a_question_that_cannot_be_ends_the_link(pair: Pair, frame: bytes) -> None:
    pair.there.mesh.calls.hear(ProcessNote("say", str), lambda *_: None)
    with pytest.raises(LinkDamaged):
        pair.end.received(frame)


async def test_a_call_is_refused_while_no_handler_can_run(pair: Pair) -> None:
    pair.there.mesh.calls.handle(ADD, add)
    answer = CallAnswer()
    pair.link.call("add", msgpack.encode([[1]]), answer, 0)
    pair.end.received(pair.link.take())
    pair.link.received(pair.end.take())
    assert [type(error) for error in answer.errors] == [Overloaded]


async def test_an_end_that_is_closed_says_nothing_and_keeps_nothing_back(pair: Pair) -> None:
    sent: list[object] = []
    held = HeldMessages(sent.extend)
    pair.end.closed()
    held.add(["message"])  # type: ignore[list-item]
    AnswerBack(pair.end, 1, held).answer(0, Reply(Code.OK))
    AnswerBack(pair.end, 2, None).answer(0, Reply(Code.OK))
    pair.end.refuse(3, Overloaded())
    assert sent == ["message"]
    assert pair.end.take() == b""


async def test_a_name_is_read_as_it_was_written() -> None:
    assert decode_named(encode_named("größe", b"123")) == ("größe", b"123")
