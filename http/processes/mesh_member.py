"""What a process has that serves a data directory or a cluster with others: the mesh, its links.

Nothing of this is made for a server of one process. `parts.py` gives the mesh to the shards, and
`serve.py` runs the links between the group's recovery and the first request: so a process that can
be reached has its group, and one that serves can reach the others, or says that it cannot.
"""

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar, final

import structlog
import trio

from troth.core.commands import Command
from troth.core.limits import CLUSTER_AWAY_MS
from troth.http.api.context import Api
from troth.http.links.node_links import NodeLinks
from troth.http.links.strangers import Strangers
from troth.http.links.stream_carrier import StreamCarrier
from troth.http.settings.settings import Settings
from troth.http.sockets.lane import Lane
from troth.http.sockets.link_sockets import LinkSockets
from troth.http.sockets.listener import SocketListener
from troth.http.sockets.relayed_streams import StreamRelay
from troth.http.sockets.stream_homes import StreamHomes
from troth.http.supervision.seated import Seated
from troth.shards.delivery.polls import Polls
from troth.shards.errors import LinkBroken, OutOfReach
from troth.shards.gathered.cuts import GroupStorage
from troth.shards.guard.trust import ClusterTrust, Party
from troth.shards.mesh.dialect_notes import DialectNotes
from troth.shards.mesh.homes import MessageHomes
from troth.shards.mesh.mesh import Mesh
from troth.shards.mesh.place import ProcessPlace
from troth.shards.shards import Shards
from troth.shards.storage import OwnedStorage
from troth.shards.turns import Outgoing

from .mesh_files import read_mesh_files
from .passing_on import PassingOn

HELD_S: Final = 2.0
"""How long connections to a process that starts wait for it before they are told that it does."""

RETRY_S: Final = 0.1
"""The pause before something is asked of all processes again, when one of them is away."""

_AWAY_S: Final = CLUSTER_AWAY_MS / 1000

Answered = TypeVar("Answered")

_log = structlog.get_logger("troth.processes")


@final
class MeshMember:
    """This process among those of its server."""

    def __init__(self, seated: Seated, storage: GroupStorage, settings: Settings) -> None:
        seat = seated.seat
        self.seated = seated
        self._settings = settings
        self._storage = storage
        self._lane: Lane | None = None
        self._links: LinkSockets | None = None
        self.place = ProcessPlace(
            process=seat.process,
            group_shards=storage.group_shards,
            data_id=storage.data_id.hex(),
            links_directory=seat.mesh_directory,
            incarnation=seat.incarnation,
        )
        self.mesh = Mesh(
            self.place,
            now_s=time.monotonic,
            wake=self._wake,
            questions_limit_count=settings.mailbox_limit_count,
        )
        self.homes = MessageHomes(self.place, self.mesh.calls, settings.targets)
        self.streams = StreamHomes(self.place)
        self.is_drained: Callable[[], bool] = lambda: False
        """Whether this node is to give its groups to others."""

    def attach(
        self, shards: Shards, delivery: Outgoing, polls: Polls, report: Callable[[Command], None]
    ) -> None:
        """Learn what this process's shards are, and what delivers here. Before they run.

        `report` takes what delivery says of messages of this group.
        """
        self.mesh.attach(shards.states, shards.shard_of, shards.go_on, shards.clock)
        self.homes.attach(delivery, report, shards.shard_of)
        DialectNotes(self.mesh.calls, polls, self._hurry)

    def bring_streams(self, listeners: Sequence[SocketListener], api: Api) -> None:
        """Bring workers' streams of these ports to the homes of their groups."""
        api.stream_relay = StreamRelay(self.streams)
        for number, listener in enumerate(listeners):
            listener.bring_streams(self.streams, number)

    def owned(self, epoch: int) -> None:
        """Learn in which epoch this process owns its group; before anything is said.

        It is the process's incarnation where nodes share groups: there no supervisor knows all.
        """
        self.place.incarnation = epoch
        self.homes.owned(epoch)

    def make_passing_on(self, url: str) -> PassingOn:
        """Make what passes clients on to owners while this process stands by.

        As it owns no group it has no epoch: 0 says nothing of who owns what.
        """
        nodes = self._node_links(incarnation=0)
        assert nodes is not None, "other nodes have some of the groups"
        carrier, count = StreamCarrier(nodes), self.place.count
        return PassingOn(self.streams, carrier, self.mesh.owners, count, url)

    def _node_links(self, incarnation: int | None = None) -> NodeLinks | None:
        """Return what leads to other nodes, if those have some of the groups.

        `incarnation` is what they are told, if it is not this process's.
        """
        settings = self._settings
        if settings.mesh_listen is None:
            return None
        assert isinstance(self._storage, OwnedStorage), "its log is in an engine"
        assert settings.cluster is not None, "checked with the settings"
        secret, tls = read_mesh_files(settings)
        if incarnation is None:
            incarnation = self.place.incarnation
        return NodeLinks(
            trust=ClusterTrust(settings.cluster, secret),
            own=Party(self._storage.node, self.place.process, incarnation),
            owners=self.mesh.owners,
            listening=self.seated.mesh,
            directory=Path(self.place.links_directory),
            tls=tls,
            strangers=Strangers(time.monotonic),
            now_s=time.monotonic,
        )

    async def run(
        self,
        shards: Shards,
        lane: Lane,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep links with all others, in the lane's passes, until canceled. The shards run.

        Raises OSError if this process cannot listen for the others.
        """
        self._lane = lane
        # What others hear of accounts, and of all else, has to be true when they hear it.
        self.mesh.calls.may_answer = shards.committer.may_answer
        nodes = self._node_links()
        self._links = links = LinkSockets(self.mesh, shards, lane, nodes)
        lane.serve_links(links)
        self.mesh.when_let_go = links.let_go
        self.seated.on_peers.append(links.try_now)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.mesh.errands.run)
            await nursery.start(self.mesh.calls.run)
            await nursery.start(self.homes.run)
            await nursery.start(links.run)
            if nodes is not None:
                self.streams.carrier = carrier = StreamCarrier(nodes)
                await nursery.start(carrier.run)
            self.seated.listening()
            task_status.started()

    async def take_streams(
        self,
        listeners: Sequence[SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take streams whose home is here, from all others, until canceled."""

        def adopt(number: int, connected: socket.socket, peer: str | None, received: bytes) -> None:
            listeners[number].adopt(connected, peer, received)

        assert self._links is not None, "links come first"
        self._links.adopt_stream = adopt
        await self.streams.run(listeners, task_status=task_status)

    def say_last(self) -> None:
        """Tell the others that the group has stopped: what they ask waits for the next process."""
        if self._links is not None:
            self._links.say_last()

    def refuse_all(self) -> None:
        """Refuse what was asked of other processes: this one ends."""
        if self._links is not None:
            self._links.end()

    def _wake(self) -> None:
        if self._lane is not None:
            self._lane.stir()

    def _hurry(self) -> None:
        if self._links is not None:
            self._links.hurry()

    def are_ready(self) -> bool:
        """Return whether all processes of the server serve, as far as this one knows.

        Where nodes share the groups: whether there is one for each, wherever, or was until a while
        ago. All nodes would be unready at the same time otherwise, whenever a group moves or one of
        them dies, and clients would lose the groups that go on, too. A drained node is not ready,
        so that clients go elsewhere before its groups do.
        """
        if self._settings.mesh_listen is None:
            return self.seated.are_ready
        links = self.mesh.links.values()
        return not self.is_drained() and all(link.away_s < _AWAY_S for link in links)

    async def until_all_answer(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Ask all processes something, again and again until each of them answers."""
        is_said = False
        while True:
            try:
                return await ask()
            except (OutOfReach, LinkBroken):
                if not is_said:
                    is_said = True
                    _log.info("waiting for the other processes")
                    self.seated.status("waiting for the other processes")
                await trio.sleep(RETRY_S)
