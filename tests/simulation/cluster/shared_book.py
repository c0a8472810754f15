"""What the engine of a simulated cluster keeps of it: members, and who owns which group."""

from collections.abc import Sequence
from typing import final

import trio

from troth.persistence.streams.cluster import (
    BookSeen,
    ClusterDescription,
    GroupSeen,
    HolderSeen,
    MemberSeen,
    ReaderSeen,
)
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.sharing import Wishes

from .engine import ClusterEngine


@final
class SimulatedBook:
    """A `ClusterBook` that all nodes share. Who is cut off from the engine does not ask it."""

    name = "a simulated cluster"

    def __init__(self, engines: Sequence[ClusterEngine]) -> None:
        self._engines = engines
        self._members: dict[str, tuple[MemberSeen, float]] = {}
        self._holders: dict[int, tuple[str, int, float]] = {}

    def create(self, new: ClusterDescription) -> ClusterDescription:
        """Nobody makes one here."""
        return new

    def description(self) -> ClusterDescription | None:
        """Nobody asks: all nodes read the same."""
        return None

    def finalize(self, features: int) -> bool:
        """All nodes read the same."""
        return features > FEATURES

    def note_member(
        self,
        node: str,
        address: str,
        version: str,
        mesh: str | None = None,
        features: int = FEATURES,
        home: str | None = None,
    ) -> None:
        """See `ClusterBook`."""
        member = MemberSeen(node, address, version, 0, mesh, features, home)
        self._members[node] = member, trio.current_time()

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:  # noqa: ARG002
        """See `ClusterBook`."""
        known = self._holders.get(group)
        if known is None or known[1] < epoch:
            self._holders[group] = node, epoch, trio.current_time()

    def members(self) -> list[MemberSeen]:
        """See `ClusterBook`."""
        found = [self._members[node] for node in sorted(self._members)]
        return [member._replace(seen_ms=_ago_ms(at_s)) for member, at_s in found]

    def holders(self) -> list[HolderSeen]:
        """See `ClusterBook`."""
        found = [(group, *self._holders[group]) for group in sorted(self._holders)]
        return [HolderSeen(group, node, epoch, _ago_ms(s)) for group, node, epoch, s in found]

    def look(self) -> BookSeen:
        """See `ClusterBook`."""
        return BookSeen(self.holders(), self.members(), self.wishes(), FEATURES)

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        """See `ClusterBook`."""
        return {
            group: tuple(
                ReaderSeen(node, number, _ago_ms(noted_ms / 1000))
                for node, (number, noted_ms) in sorted(engine.keeping.readers.items())
            )
            for group, engine in enumerate(self._engines)
        }

    def wishes(self) -> Wishes:
        """No operator wishes anything."""
        return Wishes()

    def wish(self, before: Wishes, after: Wishes) -> bool:
        """No operator wishes anything."""
        return before == after

    def groups(self) -> list[GroupSeen]:
        """Nobody looks at them as a whole."""
        return []

    def close(self) -> None:
        """Do nothing."""


def _ago_ms(at_s: float) -> int:
    return int((trio.current_time() - at_s) * 1000)
