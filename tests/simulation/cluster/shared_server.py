"""One process of a node that shares groups with others: it owns its group, or stands by."""

import os
from typing import Any, cast, final

from tests.simulation.server import SHARD_COUNT
from tests.simulation.shared_parts import SharedParts
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.persistence.identity import Identity
from troth.shards.errors import ShardsError
from troth.shards.mesh.link import MeshLink
from troth.shards.mesh.place import ProcessPlace
from troth.shards.mesh.seats import FarSeat
from troth.shards.storage import GroupPlace
from troth.shards.streams.stream_group import StreamGroup
from troth.shards.turns import Asker

from .node_server import NodeServer

DATA_ID = bytes(16)


@final
class _FarAsker:
    """Hears an answer of another group before who has asked, and notes in which epoch it is."""

    def __init__(
        self, asker: Asker, link: MeshLink, command: Command, epochs: dict[int, int]
    ) -> None:
        self._asker = asker
        self._link = link
        self._command = command
        self._epochs = epochs

    def answer(self, place: int, reply: Reply) -> None:
        """See Asker."""
        self._epochs[id(self._command)] = self._link.incarnation
        self._asker.answer(place, reply)

    def refuse(self, error: ShardsError) -> None:
        """See Asker."""
        self._asker.refuse(error)


class SharedServer(NodeServer):
    """A server of one group among several. Making one stands by until it owns the group."""

    def __init__(self, *arguments: Any) -> None:
        self._epochs: dict[int, int] = {}
        super().__init__(*arguments)
        mesh, homes, shared = self._all_shared()
        mesh.place.incarnation = self.epoch
        homes.owned(self.epoch)
        shared.owned(self.epoch)
        for seat in mesh._far_seats.values():
            self._listen(seat)

    def _all_shared(self) -> tuple[Any, Any, SharedParts]:
        assert self.shared is not None, "there are several groups"
        return self.mesh, self.homes, self.shared

    def _of_group(self) -> dict[str, Any]:
        process: Any = self.node
        home = process.machine.directory
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home, os.O_RDONLY)
        group_shards = process.world.group_shards
        identity = Identity(DATA_ID, group_shards, 1_700_000_000_000, bytes(32))
        assert identity.shard_count == SHARD_COUNT
        group = StreamGroup(
            GroupPlace(os.fspath(home), process.group, lock),
            identity,
            process.next_incarnation(),
            process.turn.may_claim,
            turn=process.turn,
        )
        assert self.mesh is not None
        process.owners = self.mesh.owners
        return {"group": group}

    def _listen(self, seat: FarSeat) -> None:
        """Have answers of a shard of another group noted."""
        ask, link, epochs = seat.ask, seat._link, self._epochs

        def asked(command: Command, asker: Asker, place: int, held: Any) -> None:
            ask(command, _FarAsker(asker, link, command, epochs), place, held)

        seat.put = seat.ask = cast("Any", asked)

    def _make_stream_writer(self, committer: Any) -> Any:
        writer = super()._make_stream_writer(committer)
        assert self.mesh is not None
        self.mesh.calls.may_answer = committer.may_answer  # as `MeshMember.run`
        return writer

    def _group_asked(self, command: Command) -> int:
        world: Any = self.node.world
        group: int = world.group_of(command, self.group)
        return group

    def _epoch_answered(self, command: Command, group: int) -> int | None:
        far_epoch = self._epochs.pop(id(command), None)
        return self.epoch if group == self.group else far_epoch


def place_of(group: int, group_shards: tuple[int, ...]) -> ProcessPlace:
    """The place of a process that does not own its group yet."""
    return ProcessPlace(group, group_shards, DATA_ID.hex(), "", 0)
