"""The other end of a link: another process asks, and this process's shards answer. No I/O.

What comes in a pass goes into the mailboxes, and the owner of the connection runs one turn for all
of it. What the turn answers immediately, and receipts of messages, are there for `take` after it;
other answers when the log is durable. When the connection ends, commands are carried out all the
same (I3), and messages to workers that waited for its word go.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol, final

from msgspec import Struct

from troth.core.commands import Command, Receive
from troth.core.limits import LINK_PING_MS, LINK_SILENCE_MS
from troth.core.replies import Reply
from troth.shards.errors import ShardsError
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker

from .barrier import Barrier
from .calls import ProcessCalls
from .codec import decode_command, decode_questions
from .frames import (
    FrameFlag,
    Kind,
    LinkDamaged,
    LinkFrame,
    LinkReader,
    PeerSucceeded,
    decode_named,
    decode_numbers,
    encode_frame,
    encode_numbers,
)
from .outgoing_frames import OutgoingFrames
from .owners import Owners
from .passes import GivenPasses
from .place import Greeting, ProcessPlace, checked_hello, encode_hello
from .refusals import name_of

_REPLY: Final = Kind.REPLY


class AskedGroup(Protocol):
    """What the answering end needs of the shards of this process; see `shards.Shards`."""

    @property
    def hold(self) -> Callable[[], HeldMessages]:
        """Make what one request's messages to workers wait in."""
        ...  # pragma: no cover

    def submit_to(
        self, index: int, command: Command, held: HeldMessages | None, asker: Asker
    ) -> None:
        """Put a command of a client into a shard's mailbox. Raises ShardsError."""
        ...  # pragma: no cover

    def tell_shard(self, index: int, command: Command, held: HeldMessages | None = None) -> None:
        """Put an internal command into a shard's mailbox."""
        ...  # pragma: no cover

    def with_leaf(self, reply: Reply) -> Reply:
        """Complete a reply. Raises StorageFailed."""
        ...  # pragma: no cover


class AnswerBack(Struct, eq=False, gc=False):
    """The asker of one question that came by a link: what it is told goes back."""

    end: "Answering"
    correlation: int
    held: HeldMessages | None

    def answer(self, place: int, reply: Reply) -> None:
        """Send the reply back."""
        end, held = self.end, self.held
        if end.barrier.is_closed:
            end.barrier.hold(partial(self.answer, place, reply))
            return
        if end.is_closed:
            if held is not None:
                held.release()
            return
        end.open_count -= 1
        if reply.claimed is not None:
            try:
                reply = end.group.with_leaf(reply)
            except ShardsError as error:
                end.say_refused(self.correlation, error)
                return
        if held is None or not held.will_hold:
            end.outgoing.put_together(_REPLY, (self.correlation, False, reply))
            return
        end.outgoing.put_together(_REPLY, (self.correlation, True, reply))
        end.held[self.correlation] = held

    def refuse(self, error: ShardsError) -> None:
        """Send the error back."""
        self.end.refuse(self.correlation, error)


@final
class Answering:
    """This process's end of what another one asks. `now_s` is a monotonic clock.

    `wake` is called when there is something to send outside of `received`, `keep_up_with` with the
    time at which something was sent that this group is to carry out. `peer` is the number
    that the other process has proved to have, if it had to. One that `owners` say to be succeeded
    is not heard.
    """

    def __init__(
        self,
        place: ProcessPlace,
        group: AskedGroup,
        passes: GivenPasses,
        calls: ProcessCalls,
        barrier: Barrier,
        *,
        now_s: Callable[[], float],
        wake: Callable[[], None],
        keep_up_with: Callable[[int], None],
        peer: int | None = None,
        owners: Owners | None = None,
    ) -> None:
        self.peer: Greeting | None = None
        self._proved = peer
        self._owners = owners
        self._place = place
        self.group = group
        self._passes = passes
        self._calls = calls
        self.barrier = barrier
        self._now_s = now_s
        self._keep_up_with = keep_up_with
        self._own = place.shards_of(place.process)
        self._reader = LinkReader()
        self.outgoing = OutgoingFrames(wake)
        self._receipts: list[int] = []
        self.held: dict[int, HeldMessages] = {}
        self.is_closed = False
        self.open_count = 0
        self._has_said_last = False
        self._heard_s = self._said_s = now_s()

    # The connection

    def received(self, data: bytes) -> bool:
        """Take what has come; return whether there is something for a turn.

        Raises LinkDamaged: the connection is to be closed. What comes of a process whose group has
        a later owner may not be taken for that one's word.
        """
        if self._is_succeeded:
            raise PeerSucceeded(f"process {self.peer} was succeeded")
        self._heard_s = self._now_s()
        has_work = False
        for frame in self._reader.read(data):
            if self.peer is not None:
                has_work |= self._take(frame)
            elif frame.kind == Kind.HELLO:
                self.peer = checked_hello(frame.body, self._place, self._proved, self._owners)
                self.outgoing.put(encode_frame(Kind.HELLO, encode_hello(self._place)))
            else:
                raise LinkDamaged("it does not say who it is")
        return has_work

    def take(self) -> bytes:
        """Return what is to be sent now; it counts as said.

        After `received` it is called when the turn has been run, not before.
        """
        if self._receipts:
            receipts, self._receipts = self._receipts, []
            self.outgoing.put(encode_frame(Kind.RECEIVED, encode_numbers(receipts)))
        outgoing = self.outgoing.take()
        if outgoing:
            self._said_s = self._now_s()
        return outgoing

    def say_last(self) -> None:
        """Say that nothing further is carried out: the shards have stopped.

        Not said while a question is open that was carried out, and waits for other groups.
        """
        if not self.open_count and not self.is_closed and self.peer is not None:
            self._has_said_last = True
            self.outgoing.put(encode_frame(Kind.LAST))

    def look(self) -> bool:
        """Look at the time, some times a second; return whether the connection is still good."""
        now_s = self._now_s()
        if now_s - self._heard_s > LINK_SILENCE_MS / 1000 or self._is_succeeded:
            return False
        is_quiet = now_s - self._said_s >= LINK_PING_MS / 1000 and not self.outgoing
        if is_quiet and self.peer is not None:
            self.outgoing.put(encode_frame(Kind.PING))
        return True

    @property
    def _is_succeeded(self) -> bool:
        """Return whether another process serves the asker's group by now, elsewhere."""
        owners, peer = self._owners, self.peer
        if owners is None or peer is None:
            return False
        return peer.incarnation < owners.epoch_of(peer.process)

    def closed(self) -> None:
        """Note that the connection has ended: what waits for its word waits no longer."""
        self.is_closed = True
        self.outgoing.forget()
        self._receipts = []
        held, self.held = self.held, {}
        for messages in held.values():
            messages.release()

    # What comes

    def _take(self, frame: LinkFrame) -> bool:
        """Take one frame; return whether a turn is needed."""
        kind = frame.kind
        if kind == Kind.ASK:
            self._ask(frame)
            return True
        if kind == Kind.POST:
            self._receive(frame)
            return True
        if kind == Kind.TELL:
            self.group.tell_shard(self._own_index(frame), decode_command(frame.body, frame.flags))
            return True
        if kind == Kind.RELEASED:
            self._release(decode_numbers(frame.body))
        elif kind == Kind.RETURNED:
            self._passes.take_back(frame.body.decode())
            return True  # what has waited for it
        elif kind == Kind.CALL:
            self._begin_call(frame)
        elif kind == Kind.PARCELS:
            self._calls.brought(self._process, frame.body, frame.flags)
            return True  # what delivery reports
        elif kind == Kind.NOTE:
            self._calls.heard(self._process, *decode_named(frame.body))
            return True  # what it leads to
        elif kind != Kind.PING:
            raise LinkDamaged(f"a frame of kind {kind} has no place in a question")
        return False

    def _ask(self, frame: LinkFrame) -> None:
        """Hand questions to the shards."""
        if self._has_said_last:
            return  # who asks knows that it is not carried out
        own, hold, submit_to = self._own, self.group.hold, self.group.submit_to
        questions = decode_questions(frame.body, frame.flags)
        self.open_count += len(questions)
        for correlation, index, holds, command in questions:
            if index not in own:
                raise LinkDamaged(f"shard {index} is not in this group")
            held = hold() if holds else None
            try:
                submit_to(index, command, held, AnswerBack(self, correlation, held))
            except ShardsError as error:
                self.refuse(correlation, error)

    @property
    def _process(self) -> int:
        assert self.peer is not None, "it has said who it is"
        return self.peer.process

    def _begin_call(self, frame: LinkFrame) -> None:
        correlation = frame.correlation
        name, body = decode_named(frame.body)

        def answer(found: bytes) -> None:
            if not self.is_closed:
                self.outgoing.put(encode_frame(Kind.RESULT, found, correlation))

        def refuse(error: ShardsError) -> None:
            self.say_refused(correlation, error)

        self._calls.begin(self._process, name, body, answer, refuse)

    def _receive(self, frame: LinkFrame) -> None:
        message = decode_command(frame.body, frame.flags)
        if not isinstance(message, Receive) or self._is_own(message.source):
            raise LinkDamaged("a message that is not from an outbox of another group")
        self._keep_up_with(message.sent_ms)
        held = None
        if frame.flags & FrameFlag.HOLDS:
            held = self.held[frame.correlation] = self.group.hold()
        self.group.tell_shard(self._own_index(frame), message, held)
        self._receipts.append(frame.correlation)

    def _release(self, correlations: Iterable[int]) -> None:
        for correlation in correlations:
            held = self.held.pop(correlation, None)
            if held is not None:
                held.release()

    def _own_index(self, frame: LinkFrame) -> int:
        if not self._is_own(frame.index):
            raise LinkDamaged(f"shard {frame.index} is not in this group")
        return frame.index

    def _is_own(self, index: int) -> bool:
        return index in self._own

    # What goes back; see `AnswerBack`

    def refuse(self, correlation: int, error: ShardsError) -> None:
        """Refuse a question."""
        self.open_count -= 1
        self.say_refused(correlation, error)

    def say_refused(self, correlation: int, error: ShardsError) -> None:
        """Say that a question or a call has been refused."""
        if not self.is_closed:
            self.outgoing.put(encode_frame(Kind.REFUSE, name_of(error), correlation))
