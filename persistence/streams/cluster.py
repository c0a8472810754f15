"""What an engine keeps of a cluster: several groups, each with a stream, and nodes that serve them.

A cluster's name and shape are fixed when it is made. All else here is for people and for routing:
who may write to a stream is decided by the stream alone (`ownership.py`).
"""

from typing import NamedTuple, Protocol

from troth.persistence.identity import Identity

from .features import FEATURES
from .sharing import Wishes


class ClusterDescription(NamedTuple):
    """A cluster: its name, and what `troth.json` says of a directory, the same for all groups.

    `features` says what its members may write (`features.py`).
    """

    name: str
    identity: Identity
    features: int = FEATURES


class ReaderSeen(NamedTuple):
    """How far a node is in a group's stream: from which frame on it would read if it started now.

    `seen_ms` is how long ago it has said so, in ms. One that has not read all there is has said it
    some time ago, or is not shown.
    """

    node: str
    number: int
    seen_ms: int


class GroupSeen(NamedTuple):
    """One group: its owner, if that is known, its epoch, and the number of its last frame.

    `incarnation` is that of the owner's process. `snapshot_ms` is the age of the newest snapshot,
    in ms; None if there is none.
    """

    group: int
    epoch: int
    node: str | None
    incarnation: int | None
    last_number: int
    snapshot_ms: int | None
    readers: tuple[ReaderSeen, ...]


class MemberSeen(NamedTuple):
    """A node: where clients reach it, its version, and how long ago it was there, in ms.

    `mesh` is where other nodes reach it, `host:port`; None if it shares groups with none.
    `features` says what it can read (`features.py`). `home` is the machine and the directory of its
    server; no two servers have the same.
    """

    node: str
    address: str
    version: str
    seen_ms: int
    mesh: str | None = None
    features: int = FEATURES
    home: str | None = None


class HolderSeen(NamedTuple):
    """Who owns a group, as far as it was noted: in which epoch, and since when, in ms ago."""

    group: int
    node: str
    epoch: int
    since_ms: int


class BookSeen(NamedTuple):
    """What is looked at all the time: owners of groups, nodes that were there, wishes.

    `features` is what members may write; 0 if there is no cluster.
    """

    holders: list[HolderSeen]
    members: list[MemberSeen]
    wishes: Wishes
    features: int


class ClusterBook(Protocol):
    """What is kept of one cluster. For one thread at a time.

    All calls block for a limited time, and raise StreamUnreachable or StreamRefused.
    """

    @property
    def name(self) -> str:
        """The place, for people; without any password."""
        ...  # pragma: no cover

    def create(self, new: ClusterDescription) -> ClusterDescription:
        """Make a cluster with all its streams, or nothing; return the one that is there then."""
        ...  # pragma: no cover

    def description(self) -> ClusterDescription | None:
        """Return what cluster is there; None if there is none."""
        ...  # pragma: no cover

    def note_member(
        self,
        node: str,
        address: str,
        version: str,
        mesh: str | None = None,
        features: int = FEATURES,
        home: str | None = None,
    ) -> None:
        """Note that a node is there; see `MemberSeen`."""
        ...  # pragma: no cover

    def finalize(self, features: int) -> bool:
        """Raise what members may write to `features`; return whether that was changed.

        Nothing changes if they may already, or if a node that was there within an hour reads less.
        """
        ...  # pragma: no cover

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        """Note who owns a group's stream, unless a later epoch was noted."""
        ...  # pragma: no cover

    def members(self) -> list[MemberSeen]:
        """Return all nodes that were there, by name."""
        ...  # pragma: no cover

    def holders(self) -> list[HolderSeen]:
        """Return the groups that an owner was noted for, in their order."""
        ...  # pragma: no cover

    def look(self) -> BookSeen:
        """Return what is there now: it is asked for some times a second by each process."""
        ...  # pragma: no cover

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        """Return how far nodes have read, by group."""
        ...  # pragma: no cover

    def wishes(self) -> Wishes:
        """Return what the operator wishes."""
        ...  # pragma: no cover

    def wish(self, before: Wishes, after: Wishes) -> bool:
        """Change the wishes, unless they are not those `before`; return whether that was done."""
        ...  # pragma: no cover

    def groups(self) -> list[GroupSeen]:
        """Return all groups, in their order."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Release the connection; the next call connects again."""
        ...  # pragma: no cover


class WholeCluster(NamedTuple):
    """All that is kept of a cluster; without a description there is none."""

    description: ClusterDescription | None
    groups: list[GroupSeen]
    members: list[MemberSeen]
    wishes: Wishes = Wishes()


def whole_cluster(book: ClusterBook) -> WholeCluster:
    """Return all that is kept of a cluster. Raises StreamUnreachable or StreamRefused."""
    description = book.description()
    if description is None:
        return WholeCluster(None, [], [])
    return WholeCluster(description, book.groups(), book.members(), book.wishes())
