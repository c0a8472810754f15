"""Turns: the joint results of several shards, and what is held back until the log is durable.

In a turn one shard, or all that one caller has asked together, step their machines. Their records
become one append to the log. Replies, messages to workers and acknowledgments leave when these
records are durable (I1), turn after turn; so does the reply to a read, because what it shows may
not be durable yet. A shard that has changed nothing in a turn need not wait for the others' records
(`answer_sooner`).

Messages to shards of the same group are handed over immediately: their records come later in the
same log. Those to other groups leave when the records are durable, and the answer to the command
that caused them waits until they have been received there (`waiting.AfterReceipts`).

Replies leave first: a client does not wait until the messages of earlier turns have been handed to
delivery. The messages themselves leave in order.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, final

from msgspec import Struct

from troth.core.commands import Acknowledge, Command, Receive
from troth.core.limits import SLICE_COUNT
from troth.core.machine import Machine, Step
from troth.core.replies import Message, Reply
from troth.persistence.wal.log import NewRecord

from .committer import Committer
from .errors import ShardsError, StorageFailed
from .held import HeldMessages
from .passes import Pass
from .waiting import AfterReceipts


class Outgoing(Protocol):
    """Where messages to workers go; `delivery.Delivery` is the real one."""

    def send(self, message: Message) -> None:
        """Take over a message."""
        ...  # pragma: no cover

    def withdraw(self, task_id: str) -> None:
        """Forget a task's message."""
        ...  # pragma: no cover

    def finished(self, promise_ids: list[str]) -> None:
        """Note that executions are finished, whatever finished them; once for each."""
        ...  # pragma: no cover


class Asker(Protocol):
    """The receiver of replies to commands: a `Waiter`, or a callback."""

    def answer(self, place: int, reply: Reply) -> None:
        """Take the reply to the command asked at this place. Never raises, never blocks."""
        ...  # pragma: no cover

    def refuse(self, error: ShardsError) -> None:
        """Take an error instead of the replies. Never raises, never blocks."""
        ...  # pragma: no cover


class Seat(Protocol):
    """A shard of the server as those who ask it see it: a `Shard`, or the way to it."""

    index: int

    @property
    def is_full(self) -> bool:
        """Return whether `put` would refuse a command."""
        ...  # pragma: no cover

    def put(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Take a client's command; `run_turn` is called soon. Raises Overloaded."""
        ...  # pragma: no cover

    def ask(self, command: Command, asker: Asker, place: int, held: HeldMessages | None) -> None:
        """Do as `put`; `run_turn` need not be called. Raises Overloaded."""
        ...  # pragma: no cover

    def tell(self, command: Command, held: HeldMessages | None = None) -> None:
        """Take an internal command; `run_turn` is called soon."""
        ...  # pragma: no cover

    def run_turn(self, now_ms: int, turn: "Turn") -> None:
        """Run this shard's part of a turn, if it is of this group."""
        ...  # pragma: no cover


class Elsewhere(Protocol):
    """The other groups of a server, as this one sees them; `mesh` has the real ones.

    With one group there is nothing of the kind.
    """

    group: int
    own: range
    """The indexes of this group's shards."""

    def seats(self, own: Sequence[Seat]) -> Sequence[Seat]:
        """Return what is asked for each shard of the server, by index; `own` are this group's."""
        ...  # pragma: no cover

    def make_machine(self, *parts: Any) -> Machine:
        """Make the machine of one of this group's shards, as `Machine` is made."""
        ...  # pragma: no cover

    def is_free(self, promise_id: str) -> bool:
        """Return whether it is known that no task of another group is about a promise."""
        ...  # pragma: no cover

    @property
    def far(self) -> Machine:
        """The machine that looks like a shard with what is known just now of others' promises."""
        ...  # pragma: no cover

    def has(self, index: int) -> bool:
        """Return whether a shard is in another group."""
        ...  # pragma: no cover

    def group_of(self, index: int) -> int:
        """Return the group that a shard is in."""
        ...  # pragma: no cover

    def let_go(self, release: Callable[[], None]) -> None:
        """Release what has become durable; what that says to other groups leaves in one piece."""
        ...  # pragma: no cover

    def post(
        self, target: int, message: Receive, held: HeldMessages | None, gate: AfterReceipts | None
    ) -> None:
        """Send a message whose record is durable, if its receiver lives.

        The gate expects the receipt then.
        """
        ...  # pragma: no cover


Entry = tuple[Command, Asker | None, int, HeldMessages | None]
"""A command in a mailbox; who asked, which of the asker's replies it gives, and the request that
messages to workers wait for. An internal one has an asker if it carries on with a client's."""

Post = tuple[int, Receive, HeldMessages | None, AfterReceipts | None]
"""A message to a shard of another group, what its messages to workers wait for there, and whose
answer waits until it is received."""

ANSWERS_SLICE_COUNT: Final = 64
"""Answers that are released even if clients' part of the pass is used up."""

Messages = tuple[Sequence[str], Sequence[Message], HeldMessages | None]
"""What one step means for delivery: tasks to withdraw, then messages to send, and the request that
these wait for. Steps stay apart, because a later one may withdraw what an earlier one sends."""


class Turn(Struct):
    """What a turn has led to: records, and what waits until the log is durable at `position`.

    `acknowledgments` are by the shards that have received and those they have received from.
    """

    position: int = 0
    records: list[NewRecord] = []
    answers: list[tuple[Asker, int, Reply]] = []
    messages: list[Messages] = []
    acknowledgments: dict[tuple[int, int], int] = {}
    finished: list[str] = []
    posts: list[Post] = []


@final
class Turns:
    """The turns that wait for the log, in its order. `post` puts a command into a shard's mailbox.

    A turn's positions count from the end of the log when it is committed, so no other turn may be
    committed between its first record and `commit`; nothing in a turn waits.
    """

    def __init__(
        self,
        committer: Committer,
        outgoing: Outgoing,
        post: Callable[[int, Command, HeldMessages | None], None],
        current_pass: Pass,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._committer = committer
        self._outgoing = outgoing
        self._post = post
        self._held_back: deque[Turn] = deque()
        self._unsent: deque[Turn] = deque()  # durable and answered; messages are left
        self._pass = current_pass
        self._durable_position = 0

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is held back."""
        return not self._held_back and not self._unsent

    def commit(self, turn: Turn) -> None:
        """Append the turn's records; let the rest go when they are durable."""
        committer = self._committer
        if committer.failure is not None:
            self.refuse(turn, StorageFailed())
            return
        is_awaited = bool(turn.answers or turn.messages or turn.finished or turn.posts)
        if turn.records:
            committer.append(turn.records, is_awaited=is_awaited)
            turn.records = []
        elif not (is_awaited or turn.acknowledgments):
            return
        turn.position = committer.position
        if committer.is_answerable(turn.position) and not self._held_back:
            self._let_go(turn)
        elif is_awaited:
            committer.want()  # it shows what may still lie there
            self._held_back.append(turn)
        elif turn.acknowledgments:
            self._held_back.append(turn)

    def post(
        self, step: Step, held: HeldMessages | None, turn: Turn, internal: deque[Entry]
    ) -> None:
        """Hand a step's messages to other shards, or hold them back if they are for other groups.

        Then so is the answer to the command: it is the turn's last one, or `internal` is what the
        command goes on in.
        """
        elsewhere = self._elsewhere
        gate: AfterReceipts | None = None
        if held is not None:
            held.will_hold = True
        for target, message in step.posts:
            if elsewhere is None or not elsewhere.has(target):
                self._post(target, message, held)
                continue
            if gate is None:
                gate = _gated(step, turn, internal)
            turn.posts.append((target, message, held, gate))

    def answer_sooner(self, turn: Turn, first: int, position: int) -> None:
        """Release the turn's answers from the `first` on when the log is durable up to `position`.

        That is for answers that show only the state before the turn.
        """
        committer = self._committer
        if committer.failure is not None:
            return  # they are refused with the rest
        if committer.is_answerable(position):
            answers = turn.answers[first:]
            del turn.answers[first:]
            for asker, place, reply in answers:
                asker.answer(place, reply)
        elif self._held_back and position <= self._held_back[-1].position:
            committer.want()  # what they were held back for may be in no hurry
            self._held_back[-1].answers += turn.answers[first:]
            del turn.answers[first:]

    def durable(self, position: int) -> None:
        """Release what waited for the log to be durable up to `position`.

        What the pass has no time for is left to `let_go_more`.
        """
        self._durable_position = position
        if self._elsewhere is None:
            self.let_go_more()
        else:
            self._elsewhere.let_go(self.let_go_more)

    def let_go_more(self) -> None:
        """Release what is durable: answers, then messages while there is time for them."""
        held_back = self._held_back
        answers_count = 0
        while self._may_answer_first:
            turn = held_back.popleft()
            answers_count += len(turn.answers)
            self._answer(turn)
            if answers_count >= ANSWERS_SLICE_COUNT and not self._pass.has_time_for_clients():
                break
        if self._unsent:
            self._send_more()

    def let_go_all(self) -> None:
        """Release all that is durable: there is no next pass."""
        while self.has_more:
            self.let_go_more()

    @property
    def has_more(self) -> bool:
        """Return whether something is durable and not yet released."""
        return bool(self._unsent) or self._may_answer_first

    @property
    def _may_answer_first(self) -> bool:
        """Return whether the first turn that is held back may be answered."""
        held_back = self._held_back
        return (
            bool(held_back)
            and held_back[0].position <= self._durable_position
            and self._committer.is_answerable(0)
        )

    def _let_go(self, turn: Turn) -> None:
        """Release all of a turn: what it sends takes as long as its steps did."""
        self._answer(turn)
        if self._unsent and self._unsent[0] is turn:
            self._send_all(self._unsent.popleft())

    def _answer(self, turn: Turn) -> None:
        """Release a turn's answers; its messages come behind those of earlier turns."""
        if turn.posts:
            self._send_posts(turn)
        for asker, place, reply in turn.answers:
            asker.answer(place, reply)
        for (receiver, source), sequence in turn.acknowledgments.items():
            self._post(source, Acknowledge(receiver, sequence), None)
        if turn.messages or turn.finished:
            self._unsent.append(turn)

    def _send_posts(self, turn: Turn) -> None:
        """Send the messages to other groups, whose records are durable now."""
        elsewhere = self._elsewhere
        assert elsewhere is not None, "only then there are other groups"
        for post in turn.posts:
            elsewhere.post(*post)

    def _send_more(self) -> None:
        """Send messages, at least a slice, as long as there is time."""
        unsent = self._unsent
        self._pass.begin_own()
        while unsent and self._send_some(unsent[0]):
            unsent.popleft()
            if not self._pass.has_time_for_own():
                break
        self._pass.end_own()

    def _send_some(self, turn: Turn) -> bool:
        """Send a turn's messages while there is time; whether none are left.

        The completion of one promise may send 10,000.
        """
        messages = turn.messages
        done_count = 0
        for one in messages:
            is_slice = len(one[1]) > 1 or not done_count % SLICE_COUNT
            if done_count and is_slice and not self._pass.has_time_for_own():
                break
            self._send(one)
            done_count += 1
        del messages[:done_count]
        if messages:
            return False
        self._send_all(turn)
        return True

    def _send_all(self, turn: Turn) -> None:
        """Send what messages a turn has left, and say which executions are finished."""
        for one in turn.messages:
            self._send(one)
        if turn.finished:
            self._outgoing.finished(turn.finished)

    def _send(self, messages: Messages) -> None:
        outgoing = self._outgoing
        withdrawals, sends, held = messages
        for task_id in withdrawals:
            outgoing.withdraw(task_id)
        if held is not None and not held.is_released:
            held.add(sends)
        else:  # in order with what takes them back
            for message in sends:
                outgoing.send(message)

    def refuse(self, turn: Turn, error: ShardsError) -> None:
        """Answer every asker in a turn with an error, once."""
        answers, turn.answers = turn.answers, []
        for asker, _, _ in answers:
            asker.refuse(error)

    def refuse_all(self, error: ShardsError) -> None:
        """Answer every asker that still waits with an error: the log has failed."""
        while self._held_back:
            self.refuse(self._held_back.popleft(), error)


def _gated(step: Step, turn: Turn, internal: deque[Entry]) -> AfterReceipts | None:
    """Make who asked for a step wait for receipts; return what they are told to, if there is one.

    Who asked is known by the reply, or by what the step goes on in. Replies may be shared: then
    the answer to the command before waits too, which does no harm.
    """
    if step.again is not None and internal and internal[-1][0] is step.again:
        command, asker, place, held = internal[-1]
        if asker is None:
            return None
        gate = AfterReceipts(asker)
        internal[-1] = (command, gate, place, held)
        return gate
    if step.again is None and turn.answers and turn.answers[-1][2] is step.reply:
        asker, place, reply = turn.answers[-1]
        gate = AfterReceipts(asker)
        turn.answers[-1] = (gate, place, reply)
        return gate
    return None
