"""What a process does in a cluster whose nodes share the groups: it finds out who is there.

It looks at what the engine keeps of the cluster (`ClusterBook`) some times a second:

- Who owns the other groups, and where that node is, is what links go by (`shards/mesh/owners.py`).
- Whose turn it is to claim this process's group, if it is free (`persistence/streams/sharing.py`).
- Whether its group is to go to another node, which stands by for it: then the supervisor ends this
  process, and starts it again to stand by. All nodes look at the same, and only the first group in
  their order that can go does, when the one before has its owner: one at a time, and at most one in
  `CLUSTER_MOVE_INTERVAL_MS`. A node that is drained says so (`GET /ready` is 503) for
  `CLUSTER_NOTICE_MS` before its groups go, so that a load balancer sends clients elsewhere.

It also notes that its node is there, unless another process of it has just done so. Nothing of this
decides who may write. What is out of date, or could not be had, costs time and nothing else.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, final

import structlog
import trio

from troth import __version__
from troth.core.limits import (
    CLUSTER_LIVING_MS,
    CLUSTER_MOVE_INTERVAL_MS,
    CLUSTER_NOTE_MS,
    CLUSTER_NOTICE_MS,
    CLUSTER_STANDING_BY_MS,
    CLUSTER_STAY_MS,
)
from troth.http.settings.kinds import Listen, ListenAddress
from troth.http.supervision.seated import Seated
from troth.persistence.streams.cluster import ClusterBook, HolderSeen, MemberSeen, ReaderSeen
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.sharing import ClaimTurn, Move, Sharing, Wishes
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable
from troth.shards.mesh.owners import Owner, Owners
from troth.shards.storage import OwnedStorage
from troth.shards.threads import in_thread

LOOK_S: Final = 0.25
"""How often it is looked who owns the groups."""

_NOTICE_S: Final = CLUSTER_NOTICE_MS / 1000
_NEXT_PROCESS_MS: Final = 200
"""How much longer each further process waits before it notes that the node is there."""

_log = structlog.get_logger("troth.processes")


class SeenCluster(NamedTuple):
    """What was found: owners of groups, nodes that are there, readers of groups, and wishes."""

    holders: Sequence[HolderSeen] = ()
    members: Sequence[MemberSeen] = ()
    readers: Mapping[int, tuple[ReaderSeen, ...]] = {}
    wishes: Wishes = Wishes()

    def living(self, node: str) -> frozenset[str]:
        """Return the nodes that share groups and live, `node` among them: that is the one here."""
        found = {one.node for one in self.members if one.mesh and one.seen_ms <= CLUSTER_LIVING_MS}
        return frozenset(found | {node})

    def standing_by(self) -> dict[int, frozenset[str]]:
        """Return the nodes that read all that the owner of each group writes."""
        return {
            group: frozenset(one.node for one in readers if one.seen_ms <= CLUSTER_STANDING_BY_MS)
            for group, readers in self.readers.items()
        }


@lru_cache(maxsize=256)
def _place(mesh: str) -> tuple[str, int]:
    """Return host and port of what a node has noted; it notes the same all the time."""
    address = Listen().from_text(mesh)
    return address.host, address.port


def next_to_go(seen: SeenCluster, sharing: Sharing) -> int | None:
    """Return the group that its owner is to leave now; None if none is."""
    if len(seen.holders) < sharing.groups_count:
        return None  # some have no owner yet
    for one in seen.holders:
        if one.node not in sharing.living or one.since_ms < CLUSTER_MOVE_INTERVAL_MS:
            return None
    since_ms = {one.group: one.since_ms for one in seen.holders}
    for group, target in sharing.moves():
        is_read = target in sharing.standing_by.get(group, ())
        if since_ms[group] >= CLUSTER_STAY_MS and is_read:
            return group
    return None


@final
class SharingMember:
    """This process in its cluster.

    `address` is where clients reach the node, `mesh` where other nodes do. `home` is its machine
    and directory. `turn` says when the group may be claimed, and `owners` what links go by; both
    learn what is found.
    """

    def __init__(
        self,
        seated: Seated,
        storage: OwnedStorage,
        turn: ClaimTurn,
        book: ClusterBook,
        owners: Owners,
        *,
        address: str,
        mesh: ListenAddress,
        home: str,
    ) -> None:
        self._seated = seated
        self._storage = storage
        self._turn = turn
        self._book = book
        self._owners = owners
        owners.here = storage.node
        self._address = address
        self._mesh = str(mesh)
        self._home = home
        self._seen = SeenCluster()
        self._agreed = 0
        """What members may write, as far as it is known."""
        self._asking = trio.Lock()
        self._using = threading.Lock()
        """Held by the thread that asks, which may go on after it was canceled."""
        self._has_warned = False
        self._drained_s: float | None = None
        """Since when it is known that this node is drained."""

    @property
    def is_drained(self) -> bool:
        """Return whether this node is to give its groups to others that are there."""
        return self._drained_s is not None

    @property
    def _group(self) -> int:
        return self._seated.seat.process

    async def watch_owner(self) -> None:
        """Look who is there and who owns what, and do what follows from it, until canceled."""
        is_following = is_standing_by = False
        try:
            while True:
                if self._storage.waits_for is not None:
                    if not is_following and self._seated.is_early:
                        is_following = True
                        self._seated.following()
                    elif not is_standing_by and not self._seated.is_early:
                        is_standing_by = True
                        self._seated.stands_by()
                if await self._ask(self._look):
                    self._learn()
                await trio.sleep(LOOK_S)
        finally:
            if self._using.acquire(blocking=False):
                self._book.close()
                self._using.release()

    async def run(self) -> None:
        """Note that this process owns its group."""
        epoch, seat = self._storage.epoch, self._seated.seat

        def note() -> None:
            self._book.note_owner(seat.process, self._storage.node, epoch, seat.incarnation)

        while not await self._ask(note):  # noqa: ASYNC110  the engine tells of nothing
            await trio.sleep(LOOK_S)

    async def _ask(self, act: Callable[[], None]) -> bool:
        """Do something with the book, in a thread; return whether it could be done.

        A process that ends does not wait for an engine that does not answer: until then others
        cannot have its seat, and it says no more that it lives.
        """

        def ask() -> None:
            with self._using:
                act()

        async with self._asking:
            try:
                await in_thread(ask, abandon_on_cancel=True)
            except (StreamUnreachable, StreamRefused) as error:
                if not self._has_warned:
                    _log.warning("it is not known which nodes are there", problem=str(error))
                self._has_warned = True
                return False
        self._has_warned = False
        return True

    def _look(self) -> None:
        book, node = self._book, self._storage.node
        found = book.look()
        seen = SeenCluster(found.holders, found.members, {}, found.wishes)
        # Who stands by only matters when a group is to go, which is rare.
        is_asked = self._storage.is_owned and self._sharing(seen).moves()
        self._seen = seen._replace(readers=book.readers()) if is_asked else seen
        last_ms = min((one.seen_ms for one in found.members if one.node == node), default=None)
        due_ms = CLUSTER_NOTE_MS - LOOK_S * 1000 / 2 + self._group * _NEXT_PROCESS_MS
        if last_ms is None or last_ms >= due_ms:
            book.note_member(node, self._address, __version__, self._mesh, home=self._home)
        if self._agreed < FEATURES:
            self._agreed = found.features
            self._storage.agree(self._agreed)

    def _sharing(self, seen: SeenCluster) -> Sharing:
        """Return what follows from what was found."""
        return Sharing(
            self._seated.seat.processes_count,
            {one.group: one.node for one in seen.holders},
            seen.living(self._storage.node),
            seen.wishes,
            seen.standing_by(),
        )

    def _learn(self) -> None:
        seen, node, group = self._seen, self._storage.node, self._group
        places = {one.node: _place(one.mesh) for one in seen.members if one.mesh}
        self._owners.places = places
        for one in seen.holders:
            if one.node in places:
                self._owners.learn(one.group, Owner(one.node, *places[one.node], one.epoch))
        sharing = self._sharing(seen)
        self._turn.rank = sharing.claimers(group, node).index(node)
        self._turn.is_expected = Move(group, node) in sharing.moves()
        now_s = trio.current_time()
        if node in sharing.takers:
            self._drained_s = None
        elif self._drained_s is None:
            self._drained_s = now_s
        is_noticed = self._drained_s is None or now_s >= self._drained_s + _NOTICE_S
        is_owner = self._storage.is_owned and sharing.holders.get(group) == node
        if is_owner and is_noticed and next_to_go(seen, sharing) == group:
            self._seated.leaves()
