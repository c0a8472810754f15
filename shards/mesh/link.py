"""A link: what this process asks and tells one other, and what comes back. No I/O.

The owner of the connection calls `opened`, `received`, `closed` and now and then `look`, and sends
what `take` returns. The link is up when the other end has said who it is.

- A question is answered once: with the other's reply, or an error. When the link breaks, what was
  in flight is refused with `LinkBroken`: it may have been done or not. Only what may be asked again
  (`is_repeatable`) is asked again, as soon as there is a link, until its time is over.
- New questions wait for a link that is down, for `LINK_WAIT_MS`, or `LINK_PATIENCE_MS` if they come
  from clients that cannot be told of it; then they are refused with `OutOfReach`. So are those that
  there is no room for. What a process refuses because it stops waits for the next one, too.
- A process that stops says when its group has (`Kind.LAST`). What it has not answered by then was
  not carried out, and waits for the next one: nothing is in doubt.
- Calls (`calls.py`) are as questions are; they wait for a link that is down as long as they say.
- Messages from outboxes are sent only while the link is up. Each receipt is passed on; a link that
  breaks counts as one, since who waits for it must not wait for a process that is gone.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol, TypeGuard, final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from troth.core.commands import Command, Receive
from troth.core.limits import (
    LINK_OUTGOING_LIMIT_BYTES,
    LINK_PATIENCE_MS,
    LINK_PING_MS,
    LINK_SILENCE_MS,
    LINK_WAIT_MS,
    LINK_WAITING_LIMIT_COUNT,
    MAILBOX_LIMIT_COUNT,
    PROCESS_CALLS_LIMIT_COUNT,
)
from troth.core.workflow_commands import EnsurePromise, SettlePromise
from troth.shards.errors import LinkBroken, OutOfReach, Overloaded, ShardsError, Stopping
from troth.shards.held import HeldMessages, Notice
from troth.shards.turns import Asker
from troth.shards.waiting import AfterReceipts

from .codec import decode_answers, encode_content
from .frames import (
    FrameFlag,
    Kind,
    LinkDamaged,
    LinkFrame,
    LinkReader,
    decode_numbers,
    encode_frame,
    encode_named,
    encode_numbers,
)
from .outgoing_frames import OutgoingFrames
from .owners import Owners
from .place import ProcessPlace, checked_hello, encode_hello
from .refusals import error_of

_ASK: Final = Kind.ASK
_PARCELS: Final = Kind.PARCELS
_NOT_ASKED: Final = "an answer to a question that was not asked"
_REPEATABLE: Final = frozenset({EnsurePromise, SettlePromise})

_log = structlog.get_logger("troth.mesh")


def is_repeatable(command: Command) -> TypeGuard[EnsurePromise | SettlePromise]:
    """Return whether a command may be asked again without knowing whether it was carried out."""
    return type(command) in _REPEATABLE


class _Question(Struct, eq=False, gc=False):
    """A question and who asked; after `until_s` it is refused, if it cannot be asked by then."""

    index: int
    command: Command
    asker: Asker
    place: int
    held: HeldMessages | None
    until_s: float


class CallAsker(Protocol):
    """Who waits for the answer to a call; exactly one of both is called, once."""

    def answer(self, body: bytes) -> None:
        """Take the answer."""
        ...  # pragma: no cover

    def refuse(self, error: ShardsError) -> None:
        """Take why there is none."""
        ...  # pragma: no cover


class _Call(Struct, eq=False, gc=False):
    """A call and who asked; after `until_s` it is refused, if it cannot be asked by then."""

    content: bytes
    asker: CallAsker
    until_s: float


@final
class MeshLink:
    """This process's end of what it asks process `peer`. `now_s` is a monotonic clock.

    `wake` is called when there is something to send outside of `received`. `when_up` is called
    when the link has come up, before anything else is sent, with the other's incarnation;
    `when_down` when a link that was up has ended. Whom `owners` say to be succeeded is not asked.
    """

    def __init__(
        self,
        place: ProcessPlace,
        peer: int,
        *,
        now_s: Callable[[], float],
        wake: Callable[[], None],
        when_up: Callable[["MeshLink", int], None],
        when_down: Callable[["MeshLink"], None] = lambda _: None,
        owners: Owners | None = None,
        questions_limit_count: int = MAILBOX_LIMIT_COUNT,
        outgoing_limit_bytes: int = LINK_OUTGOING_LIMIT_BYTES,
    ) -> None:
        self.peer = peer
        self.is_up = False
        self.incarnation = 0
        """That of the other process, as it was when the link came up last."""
        self._parted_s = float("-inf")
        self._place = place
        self._owners = owners
        self._now_s = now_s
        self._wake = wake
        self._when_up = when_up
        self._when_down = when_down
        self._questions_limit_count = questions_limit_count
        self._outgoing_limit_bytes = outgoing_limit_bytes
        self._is_open = False
        self._may_ask = False
        """Whether questions go out: the link is up, and the other group has not stopped."""
        self._reader = LinkReader()
        self._outgoing = OutgoingFrames(wake)
        self._released: list[int] = []
        self._last_correlation = 0
        self._in_flight: dict[int, _Question] = {}
        self._waiting: deque[_Question] = deque()
        self._calls: dict[int, _Call] = {}
        self._waiting_calls: deque[_Call] = deque()
        self._receipts: dict[int, AfterReceipts] = {}
        self._heard_s = self._said_s = now_s()

    # What this process says

    def ask(
        self, index: int, command: Command, asker: Asker, place: int, held: HeldMessages | None
    ) -> None:
        """Ask a shard there. Raises Overloaded; then nothing was asked."""
        if not self._may_ask or type(command) in _REPEATABLE:
            self._ask_with_patience(index, command, asker, place, held)
            return
        in_flight, outgoing = self._in_flight, self._outgoing
        if (
            len(in_flight) >= self._questions_limit_count
            or outgoing.whole_bytes + len(outgoing.together) > self._outgoing_limit_bytes
        ):
            raise Overloaded
        # As `_send_question`, which is not called since most questions are sent here.
        correlation = self._last_correlation + 1
        outgoing.put_together(_ASK, (correlation, index, held is not None, command))
        self._last_correlation = correlation
        in_flight[correlation] = _Question(index, command, asker, place, held, 0.0)

    def _ask_with_patience(
        self, index: int, command: Command, asker: Asker, place: int, held: HeldMessages | None
    ) -> None:
        """Ask something that may have to wait for the link."""
        patience_ms = LINK_PATIENCE_MS if is_repeatable(command) else LINK_WAIT_MS
        until_s = self._now_s() + patience_ms / 1000
        question = _Question(index, command, asker, place, held, until_s)
        if self._may_ask:
            if self.is_full:
                raise Overloaded
            self._send_question(question)
        elif len(self._waiting) >= LINK_WAITING_LIMIT_COUNT:
            raise OutOfReach
        else:
            self._waiting.append(question)

    @property
    def is_full(self) -> bool:
        """Return whether a question would be refused."""
        if not self._may_ask:
            return len(self._waiting) >= LINK_WAITING_LIMIT_COUNT
        outgoing = self._outgoing
        is_long = outgoing.whole_bytes + len(outgoing.together) > self._outgoing_limit_bytes
        return is_long or len(self._in_flight) >= self._questions_limit_count

    def tell(self, index: int, command: Command) -> None:
        """Tell a shard there something, if the link is up."""
        if self.is_up:
            body, flags = encode_content(command)
            self._outgoing.put(encode_frame(Kind.TELL, body, 0, index, flags))

    def post(
        self, index: int, message: Receive, held: HeldMessages | None, gate: AfterReceipts | None
    ) -> None:
        """Send a message from an outbox, if the link is up; then the gate expects the receipt."""
        if not self.is_up:
            return
        body, flags = encode_content(message)
        self._last_correlation = correlation = self._last_correlation + 1
        if gate is not None:
            gate.expect()
            self._receipts[correlation] = gate
        if held is not None:
            flags |= FrameFlag.HOLDS
            held.add((Notice(partial(self._release, correlation)),))
        self._outgoing.put(encode_frame(Kind.POST, body, correlation, index, flags))

    def return_pass(self, pass_id: str) -> None:
        """Say that a pass is over; if the link is broken, it runs out there."""
        if self.is_up:
            self._outgoing.put(encode_frame(Kind.RETURNED, pass_id.encode()))

    def call(self, name: str, body: bytes, asker: CallAsker, wait_ms: int) -> None:
        """Ask the process itself. Raises Overloaded or OutOfReach; then nothing was asked."""
        call = _Call(encode_named(name, body), asker, self._now_s() + wait_ms / 1000)
        if self.is_up:
            if len(self._calls) >= PROCESS_CALLS_LIMIT_COUNT:
                raise Overloaded
            self._send_call(call)
        elif not wait_ms or len(self._waiting_calls) >= PROCESS_CALLS_LIMIT_COUNT:
            raise OutOfReach
        else:
            self._waiting_calls.append(call)

    def note(self, name: str, body: bytes) -> None:
        """Tell the process itself something, if the link is up."""
        if self.is_up:
            self._outgoing.put(encode_frame(Kind.NOTE, encode_named(name, body)))

    def parcel(self, parcel: tuple[Any, ...]) -> int:
        """Hand the process something, while the link is up; how many bytes it takes."""
        outgoing = self._outgoing
        before_bytes = outgoing.whole_bytes + len(outgoing.together)
        outgoing.put_together(_PARCELS, parcel)
        return outgoing.whole_bytes + len(outgoing.together) - before_bytes

    def _send_call(self, call: _Call) -> None:
        self._last_correlation = correlation = self._last_correlation + 1
        self._calls[correlation] = call
        self._outgoing.put(encode_frame(Kind.CALL, call.content, correlation))

    def _send_question(self, question: _Question) -> None:
        self._last_correlation = correlation = self._last_correlation + 1
        holds = question.held is not None
        self._outgoing.put_together(_ASK, (correlation, question.index, holds, question.command))
        self._in_flight[correlation] = question

    def _release(self, correlation: int) -> None:
        """Release the messages to workers that wait there; a broken link releases them."""
        if self.is_up:
            if not self._released:
                self._wake()
            self._released.append(correlation)

    # The connection

    def opened(self) -> None:
        """Greet the other end of a new connection."""
        assert not self._is_open, "a link has one connection at a time"
        self._is_open = True
        self._reader = LinkReader()
        self._heard_s = self._said_s = self._now_s()
        self._outgoing.put(encode_frame(Kind.HELLO, encode_hello(self._place)))

    def received(self, data: bytes) -> None:
        """Take what the other end has said. Raises LinkDamaged: the connection is to be closed."""
        self._heard_s = self._now_s()
        for frame in self._reader.read(data):
            if self.is_up:
                self._take(frame)
            elif frame.kind == Kind.HELLO:
                hello = checked_hello(frame.body, self._place, self.peer, self._owners)
                self._came_up(hello.incarnation)
            else:
                raise LinkDamaged("it does not say who it is")

    def take(self) -> bytes:
        """Return what is to be sent now; it counts as said."""
        if self._released:
            released, self._released = self._released, []
            self._outgoing.put(encode_frame(Kind.RELEASED, encode_numbers(released)))
        outgoing = self._outgoing.take()
        if outgoing:
            self._said_s = self._now_s()
        return outgoing

    def look(self) -> bool:
        """Look at the time, some times a second; return whether the connection is still good.

        If not, it is to be closed.
        """
        now_s = self._now_s()
        self._refuse_late(now_s)
        if not self._is_open:
            return True
        if now_s - self._heard_s > LINK_SILENCE_MS / 1000 or self._is_succeeded:
            return False
        if now_s - self._said_s >= LINK_PING_MS / 1000 and not self._outgoing:
            self._outgoing.put(encode_frame(Kind.PING))
        return True

    @property
    def _is_succeeded(self) -> bool:
        """Return whether another process serves the group by now, elsewhere."""
        owners = self._owners
        return owners is not None and self.is_up and self.incarnation < owners.epoch_of(self.peer)

    def closed(self) -> None:
        """Note that the connection has ended, or could not be made good."""
        was_up = self.is_up
        self._is_open = self.is_up = self._may_ask = False
        self._outgoing.forget()
        self._released = []
        in_flight, self._in_flight = self._in_flight, {}
        receipts, self._receipts = self._receipts, {}
        again: list[_Question] = []
        now_s = self._now_s()
        for question in in_flight.values():
            command = question.command
            if is_repeatable(command) and now_s < question.until_s:
                question.command = replace(command, is_again=True)
                again.append(question)
            else:
                question.asker.refuse(LinkBroken())
        self._waiting.extendleft(reversed(again))
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.asker.refuse(LinkBroken())
        for gate in receipts.values():
            gate.received()
        if was_up:
            self._parted_s = now_s
            self._when_down(self)

    def refuse_all(self, error: type[OutOfReach | LinkBroken] = OutOfReach) -> None:
        """Refuse what waits: this process ends."""
        waiting, self._waiting = self._waiting, deque()
        for question in waiting:
            question.asker.refuse(error())
        calls, self._waiting_calls = self._waiting_calls, deque()
        for call in calls:
            call.asker.refuse(error())

    @property
    def away_s(self) -> float:
        """Return how long the link has been down: 0 if it is up, infinite if it never was."""
        return 0.0 if self.is_up else self._now_s() - self._parted_s

    @property
    def is_quiet(self) -> bool:
        """Return whether no question is open."""
        return not self._in_flight and not self._waiting

    def _refuse_late(self, now_s: float) -> None:
        """Refuse what has waited for too long. Those in flight have no such time."""
        late = [one for one in self._waiting if one.until_s <= now_s]
        if late:
            self._waiting = deque(one for one in self._waiting if one.until_s > now_s)
            for question in late:
                question.asker.refuse(OutOfReach())
        late_calls = [one for one in self._waiting_calls if one.until_s <= now_s]
        if late_calls:
            self._waiting_calls = deque(one for one in self._waiting_calls if one.until_s > now_s)
            for call in late_calls:
                call.asker.refuse(OutOfReach())

    def _await_next(self, question: _Question) -> None:
        """Keep a question for the next process: this one stops, and did nothing about it.

        All that is asked until the link ends is refused so: the order stays.
        """
        if len(self._waiting) >= LINK_WAITING_LIMIT_COUNT:
            question.asker.refuse(OutOfReach())
            return
        if not question.until_s:
            question.until_s = self._now_s() + LINK_WAIT_MS / 1000
        self._waiting.append(question)

    def _came_up(self, incarnation: int) -> None:
        self.is_up, self.incarnation = True, incarnation
        _log.info("linked", peer_process=self.peer, incarnation=incarnation)
        self._when_up(self, incarnation)
        self._may_ask = True
        waiting, self._waiting = self._waiting, deque()
        while waiting:
            self._send_question(waiting.popleft())
        calls, self._waiting_calls = self._waiting_calls, deque()
        while calls:
            self._send_call(calls.popleft())

    # What comes back

    def _take(self, frame: LinkFrame) -> None:
        kind, correlation = frame.kind, frame.correlation
        if kind == Kind.REPLY:
            self._take_answers(frame)
        elif kind == Kind.RESULT:
            self._answered_call(correlation).asker.answer(frame.body)
        elif kind == Kind.REFUSE:
            error = error_of(frame.body)
            call = self._calls.pop(correlation, None)
            if call is not None:
                call.asker.refuse(error)
                return
            question = self._answered(correlation)
            if isinstance(error, Stopping):
                self._await_next(question)
            else:
                question.asker.refuse(error)
        elif kind == Kind.LAST:
            self._may_ask = False
            in_flight, self._in_flight = self._in_flight, {}
            for question in in_flight.values():
                self._await_next(question)
        elif kind == Kind.RECEIVED:
            self._note_received(decode_numbers(frame.body))
        elif kind != Kind.PING:
            raise LinkDamaged(f"a frame of kind {kind} has no place in an answer")

    def _take_answers(self, frame: LinkFrame) -> None:
        in_flight = self._in_flight
        for correlation, holds, reply in decode_answers(frame.body, frame.flags):
            question = in_flight.pop(correlation, None)
            if question is None:
                raise LinkDamaged(_NOT_ASKED)
            if holds and question.held is not None:
                question.held.add((Notice(partial(self._release, correlation)),))
            question.asker.answer(question.place, reply)

    def _answered(self, correlation: int) -> _Question:
        question = self._in_flight.pop(correlation, None)
        if question is None:
            raise LinkDamaged(_NOT_ASKED)
        return question

    def _answered_call(self, correlation: int) -> _Call:
        call = self._calls.pop(correlation, None)
        if call is None:
            raise LinkDamaged("an answer to a call that was not made")
        return call

    def _note_received(self, correlations: Iterable[int]) -> None:
        for correlation in correlations:
            gate = self._receipts.pop(correlation, None)
            if gate is not None:
                gate.received()
