"""The first few of many, in order, without sorting them all: for pages over what has no index."""

from collections.abc import Iterable
from typing import Any, Generic, Protocol, Self, TypeVar, final


class Comparable(Protocol):
    """What has an order."""

    def __lt__(self, other: Any, /) -> bool: ...


Place = TypeVar("Place", bound=Comparable)


@final
class Smallest(Generic[Place]):
    """Keeps the smallest `limit_count` places after `after`, and one more to tell whether there are
    others.

    What is larger than all kept ones costs a comparison, so most of what is offered costs little.
    """

    def __init__(self, limit_count: int, after: Place | None) -> None:
        self._keep_count = limit_count + 1
        self._after = after
        self._kept: list[Place] = []
        self._cut: Place | None = None

    def offer(self, places: Iterable[Place]) -> Self:
        """Take places; none comes twice."""
        after, cut = self._after, self._cut
        if after is not None:
            places = [place for place in places if after < place]
        if cut is not None:
            places = [place for place in places if place < cut]
        self._kept.extend(places)
        if len(self._kept) > self._keep_count:
            self._kept.sort()
            del self._kept[self._keep_count :]
            self._cut = self._kept[-1]
        return self

    @property
    def cut(self) -> Place | None:
        """Return what comes after all that is wanted; None as long as everything is."""
        return self._cut

    def found(self) -> tuple[list[Place], bool]:
        """Return the places in their order, and whether there are more."""
        kept = sorted(self._kept)
        return kept[: self._keep_count - 1], len(kept) >= self._keep_count


def chunks(names: list[Any], count: int) -> Iterable[list[Any]]:
    """Cut a list into parts."""
    return (names[first : first + count] for first in range(0, len(names), count))
