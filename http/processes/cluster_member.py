"""What a process tells of itself in a cluster: that its node leads, owns a group, is there.

A node leads that owns group 0. Its other processes try to own their groups only then, so all groups
have one node, and one that stands by takes over all of them. The supervisor passes that on. Where
nodes share the groups, `sharing_member.py` takes the place of all that.

What is noted in the engine is for people, and for those who look for the owner of a group. If it
cannot be noted, that is tried again. `troth cluster finalize` goes by what nodes say that they
read, those that stand by too; as long as this version reads more than what members may write, each
process looks whether that has changed.
"""

from pathlib import Path
from typing import Final, final

import structlog
import trio

from troth import __version__
from troth.core.limits import CLUSTER_ALONE_MS
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.supervision.seat import OWNER
from troth.http.supervision.seated import Seated
from troth.persistence.streams.cluster import ClusterBook
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable
from troth.shards.storage import OwnedStorage, Storage
from troth.shards.threads import in_thread

from .cluster_view import ClusterView
from .mesh_member import MeshMember
from .sharing_member import SharingMember

LOOK_S: Final = 0.25
"""How often it is looked for whom this node stands by."""

NOTE_S: Final = 10.0
"""How often a node says that it is there."""
assert NOTE_S * 1000 < CLUSTER_ALONE_MS

_log = structlog.get_logger("troth.processes")


@final
class ClusterMember:
    """This process in its cluster. `address` is where clients reach the node.

    `home` is the node's machine and directory.
    """

    def __init__(
        self, seated: Seated, storage: OwnedStorage, book: ClusterBook, address: str, home: str
    ) -> None:
        self._seated = seated
        self._storage = storage
        self._book = book
        self._address = address
        self._home = home
        self._noting = trio.Lock()
        self._has_noted_owner = False
        self._has_warned = False
        self._agreed = 0
        """What members may write, as far as it is known."""

    @property
    def _is_first(self) -> bool:
        return self._seated.seat.process == OWNER

    async def watch_owner(self) -> None:
        """Tell the supervisor for whom this process waits, until it owns group 0 itself."""
        told_epoch = 0
        noted_at_s = float("-inf")
        while self._is_first and not self._storage.is_owned:
            if trio.current_time() >= noted_at_s + NOTE_S:
                await self._note()
                noted_at_s = trio.current_time()
            owner, epoch = self._storage.waits_for, self._storage.epoch
            if owner is not None and epoch > told_epoch:
                told_epoch = epoch
                self._seated.follows(owner, epoch)
            await trio.sleep(LOOK_S)

    async def run(self) -> None:
        """Say and note that the group is owned, and that the node is there, until canceled."""
        if self._is_first:
            self._seated.leading(self._storage.epoch)
        try:
            while self._is_first or not self._has_noted_owner or self._agreed < FEATURES:
                await self._note()
                await trio.sleep(NOTE_S)
        finally:
            self._book.close()

    async def _note(self) -> None:
        async with self._noting:
            await in_thread(self._note_now)

    def _note_now(self) -> None:
        seat, node, book = self._seated.seat, self._storage.node, self._book
        try:
            if self._storage.is_owned and not self._has_noted_owner:
                book.note_owner(seat.process, node, self._storage.epoch, seat.incarnation)
                self._has_noted_owner = True
            if self._is_first:
                book.note_member(node, self._address, __version__, home=self._home)
            if self._agreed < FEATURES:
                found = book.description()
                self._agreed = 0 if found is None else found.features
                self._storage.agree(self._agreed)
        except (StreamUnreachable, StreamRefused) as error:
            if not self._has_warned:
                _log.warning("it is not noted that this node is there", problem=str(error))
            self._has_warned = True


def make_cluster_member(
    settings: Settings, member: MeshMember, storage: Storage, address: str
) -> ClusterMember | SharingMember:
    """Make the part of a process whose log is in an engine."""
    from troth.shards.streams.stream_opening import cluster_book, home_of
    from troth.shards.streams.stream_storage import StreamStorage

    assert settings.log is not None, "a cluster is in an engine"
    assert isinstance(storage, StreamStorage)
    book, seated = cluster_book(settings.log), member.seated
    home = home_of(Path(seated.seat.data))
    if seated.seat.mesh_address is None:
        return ClusterMember(seated, storage, book, address, home)
    assert storage.turn is not None, "nodes share the groups"
    mesh = ListenAddress(*seated.seat.mesh_address)
    owners = member.mesh.owners
    sharing = SharingMember(
        seated, storage, storage.turn, book, owners, address=address, mesh=mesh, home=home
    )
    member.is_drained = lambda: sharing.is_drained
    return sharing


def make_cluster_view(settings: Settings) -> ClusterView:
    """Make what shows the cluster to those who look through this server."""
    from troth.shards.streams.stream_opening import cluster_book

    assert settings.log is not None, "a cluster is in an engine"
    return ClusterView(cluster_book(settings.log))
