"""Sums over all shards that cost little to ask for, however many shards there are.

What each shard had is remembered with a mark, and read again only when its mark has changed. Most
of a large server's shards are quiet at any moment, and to read all of one takes much longer than to
look at its mark.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar, final

from troth.core.state.counts import Counts

from .shard import Shard

Numbers = TypeVar("Numbers", bound=tuple[int, ...])


@final
class KnownSums(Generic[Numbers]):
    """The sums of the numbers that `read` returns for each shard.

    `mark` returns something that is different whenever they may be. `known` is what was read last.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        mark: Callable[[Shard], Any],
        read: Callable[[Shard], Numbers],
        zero: Numbers,
    ) -> None:
        """Know nothing yet: all numbers are those of `zero`."""
        self.known = [zero] * len(shards)
        self._sums: tuple[int, ...] = zero
        self._shards: Final = shards
        self._mark: Final = mark
        self._read: Final = read
        self._marks: list[Any] = [None] * len(shards)

    def look(self, first: int = 0, end: int | None = None) -> tuple[int, ...]:
        """Look at some shards, or at all; return the sums."""
        shards, known = self._shards, self.known
        marks = list(map(self._mark, shards[first:end]))
        seen = self._marks[first:end]
        changed = [
            number
            for number, (mark, before) in enumerate(zip(marks, seen, strict=True), first)
            if mark != before
        ]
        if not changed:
            return self._sums
        self._marks[first:end] = marks
        were = [known[number] for number in changed]
        are = [self._read(shards[number]) for number in changed]
        for number, numbers in zip(changed, are, strict=True):
            known[number] = numbers
        new_sums, old_sums = (map(sum, zip(*rows, strict=True)) for rows in (are, were))
        columns = zip(self._sums, new_sums, old_sums, strict=True)
        self._sums = tuple([total + new - old for total, new, old in columns])
        return self._sums


def known_counts(shards: Sequence[Shard]) -> KnownSums[tuple[int, ...]]:
    """Return the sums of what `Counts.numbers` gives: they change only by records."""
    return KnownSums(
        shards,
        attrgetter("sequence"),
        lambda one: one.machine.state.counts.numbers(),
        Counts.zero().numbers(),
    )
