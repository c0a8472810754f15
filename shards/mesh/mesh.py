"""The mesh: all links of a process, as its shards see them (`turns.Elsewhere`). No I/O.

Each ordered pair of processes has a link: `links` are those by which this process asks others, and
`answering` makes the ends by which others ask it. Who moves the bytes (`http/sockets` does, and the
tests) calls `look` some times a second.

Messages from outboxes go out when their records are durable, each shard's in order. `_sent` has how
far; what another group has not acknowledged up to there is sent again whenever its link has come
up. What is not durable yet is not among it, and follows when it is.

Each says when it was sent, and the receiver goes by no time below that (README.md, "Time"). What is
sent again says the latest time at which its shard has sent anything.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

from troth.core.commands import Receive
from troth.core.limits import MAILBOX_LIMIT_COUNT
from troth.core.machine import Machine
from troth.core.state.shard_state import ShardState
from troth.persistence.placement import ShardOf
from troth.shards.clock import Clock
from troth.shards.held import HeldMessages
from troth.shards.turns import Seat
from troth.shards.waiting import AfterReceipts

from .acknowledgments import Acknowledgments
from .answering import Answering, AskedGroup
from .barrier import Barrier
from .calls import ProcessCalls
from .errands import Errands
from .link import MeshLink
from .owners import Owners
from .passes import GivenPasses, GroupMachine
from .place import ProcessPlace
from .seats import FarSeat, NearSeat


@final
class Mesh:
    """The other groups of a server. `now_s` is a monotonic clock; `wake` sees to it that what
    links and ends have to say is taken soon.
    """

    def __init__(
        self,
        place: ProcessPlace,
        *,
        now_s: Callable[[], float],
        wake: Callable[[], None],
        questions_limit_count: int = MAILBOX_LIMIT_COUNT,
    ) -> None:
        self.place = place
        self.group = place.process
        self.own = place.shards_of(place.process)
        self._groups = place.groups
        self._now_s = now_s
        self._wake = wake
        self._is_letting_go = False
        self.when_let_go: Callable[[], None] | None = None
        """Sends what links and ends have to say; then `wake` is not called for answers."""
        self._states: Callable[[], Sequence[ShardState]] = tuple
        self._sent: dict[tuple[int, int], int] = {}
        self._sent_ms: dict[int, int] = {}
        self._keep_up_with: Callable[[int], None] = lambda _: None
        self._acknowledgments = Acknowledgments()
        self._own_shards: Sequence[Seat] = ()
        self._far_seats: dict[int, FarSeat] = {}
        self.passes = GivenPasses(now_s)
        self.barrier = Barrier(now_s)
        self._again: dict[int, MeshLink] = {}
        self.errands = Errands(place, now_s, self._return_pass)
        self.owners = Owners()
        """Who serves the groups of a cluster; on one machine what they say of themselves."""
        self.links = {
            peer: MeshLink(
                place,
                peer,
                now_s=now_s,
                wake=self._wake_later,
                when_up=self._when_up,
                when_down=self._when_down,
                owners=self.owners,
                questions_limit_count=questions_limit_count,
            )
            for peer in range(place.count)
            if peer != place.process
        }
        self.calls = ProcessCalls(place.process, self.links)

    def attach(
        self,
        states: Callable[[], Sequence[ShardState]],
        shard_of: ShardOf,
        go_on: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Learn where the states of this group's shards are, and which shard an id has.

        `go_on` makes them take up what has waited for a pass; `clock` is theirs. All that is
        before anything comes up.
        """
        self._keep_up_with = clock.keep_up_with
        self._states = states
        self.passes.when_over = go_on
        seats: dict[int, Seat] = {shard.index: shard for shard in self._own_shards}
        seats.update(self._far_seats)
        in_order = [seats[index] for index in sorted(seats)]
        self.errands.attach(in_order, states(), shard_of, clock.now_ms)

    def look(self) -> None:
        """Look at the time, some times a second."""
        self.passes.are_out()
        self.barrier.look()
        self.calls.look()

    def _return_pass(self, index: int, pass_id: str) -> None:
        self.links[self._groups[index]].return_pass(pass_id)

    def _wake_later(self) -> None:
        """Call `wake`, unless `let_go` is about to send all that there is."""
        if not self._is_letting_go:
            self._wake()

    def answering(self, group: AskedGroup, peer: int | None = None) -> Answering:
        """Make the end of a link by which another process asks; its number, if it proved that."""
        return Answering(
            self.place,
            group,
            self.passes,
            self.calls,
            self.barrier,
            now_s=self._now_s,
            wake=self._wake_later,
            keep_up_with=self._keep_up_with,
            peer=peer,
            owners=self.owners,
        )

    # What the shards need: `turns.Elsewhere`

    def seats(self, own: Sequence[Seat]) -> Sequence[Seat]:
        """Return what is asked for each shard of the server, by index."""
        self._own_shards = own
        self._far_seats = {
            index: FarSeat(index, self.links[group], self._acknowledgments, self.barrier)
            for index, group in enumerate(self._groups)
            if group != self.group
        }
        seats: dict[int, Seat] = {shard.index: NearSeat(shard, self.errands) for shard in own}
        seats.update(self._far_seats)
        return [seats[index] for index in sorted(seats)]

    def make_machine(self, *parts: Any) -> Machine:
        """Make the machine of one of this group's shards, as `Machine` is made."""
        machine = GroupMachine(*parts)
        machine.passes, machine.now_s = self.passes, self._now_s
        return machine

    def is_free(self, promise_id: str) -> bool:
        """Return whether it is known that no task of another group is about a promise."""
        return self.errands.is_free(promise_id)

    @property
    def far(self) -> Machine:
        """The machine that looks like a shard with what is known just now of others' promises."""
        return self.errands.far

    def has(self, index: int) -> bool:
        """Return whether a shard is in another group."""
        return index not in self.own

    def group_of(self, index: int) -> int:
        """Return the group that a shard is in."""
        return self._groups[index]

    def let_go(self, release: Callable[[], None]) -> None:
        """Release what has become durable; what that says to other groups leaves in one piece."""
        if self.when_let_go is None:
            release()
            return
        self._is_letting_go = True
        try:
            release()
        finally:
            self._is_letting_go = False
        self.when_let_go()

    def post(
        self, target: int, message: Receive, held: HeldMessages | None, gate: AfterReceipts | None
    ) -> None:
        """Send a message whose record is durable, if its receiver lives."""
        if self.barrier.is_closed:
            if gate is not None:
                gate.expect()
            self.barrier.hold(partial(self._post_later, target, message, held, gate))
        else:
            source = message.source
            self._sent[source, target] = message.sequence
            self._sent_ms[source] = max(self._sent_ms.get(source, 0), message.sent_ms)
            self.links[self._groups[target]].post(target, message, held, gate)

    def _post_later(
        self, target: int, message: Receive, held: HeldMessages | None, gate: AfterReceipts | None
    ) -> None:
        """Send a message that the barrier has held; what its gate expected for that is over."""
        self.post(target, message, held, gate)
        if gate is not None:
            gate.received()

    def _when_up(self, link: MeshLink, incarnation: int) -> None:  # noqa: ARG002
        if not self.barrier.is_closed:
            self._send_again(link)
        elif link.peer not in self._again:
            self._again[link.peer] = link
            self.barrier.hold_first(partial(self._send_again, link))
        self.calls.came_up(link.peer)

    def _send_again(self, link: MeshLink) -> None:
        """Send again what another group may not have: messages, and acknowledgments."""
        self._again.pop(link.peer, None)
        targets = self.place.shards_of(link.peer)
        for source, command in self._acknowledgments.to(targets):
            link.tell(source, command)
        for state in self._states():
            index, sent_ms = state.index, self._sent_ms.get(state.index, 0)
            for target, sequence, message in state.outbox:
                if target in targets and sequence <= self._sent.get((index, target), 0):
                    link.post(target, Receive(index, sequence, message, sent_ms), None, None)

    def _when_down(self, link: MeshLink) -> None:
        self.calls.parted(link.peer)
