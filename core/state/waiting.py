"""Who waits for what: pairs of ids, each once, in the order in which they were added.

Most promises have one waiter at most, and there may be many promises: such a pair is one entry of a
dictionary. Only where several wait for the same promise they have a dictionary of their own.
"""

from collections.abc import Iterator
from itertools import islice


class Waiting:
    """Waiters by what they wait for."""

    __slots__ = ("_one", "_several", "count")

    def __init__(self) -> None:
        self._one: dict[str, str] = {}
        self._several: dict[str, dict[str, None]] = {}
        self.count = 0

    def add(self, awaited: str, waiter: str) -> bool:
        """Add a pair; return whether it is new."""
        several = self._several.get(awaited)
        if several is None:
            only = self._one.get(awaited)
            if only is None:
                self._one[awaited] = waiter
                self.count += 1
                return True
            if only == waiter:
                return False
            del self._one[awaited]
            several = self._several[awaited] = {only: None}
        elif waiter in several:
            return False
        several[waiter] = None
        self.count += 1
        return True

    def discard(self, awaited: str, waiter: str) -> bool:
        """Remove a pair; return whether it was there."""
        several = self._several.get(awaited)
        if several is not None:
            if waiter not in several:
                return False
            del several[waiter]
            if not several:
                del self._several[awaited]
        elif self._one.get(awaited) == waiter:
            del self._one[awaited]
        else:
            return False
        self.count -= 1
        return True

    def take(self, awaited: str) -> tuple[str, ...]:
        """Remove and return all that wait for this, in the order in which they were added."""
        only = self._one.pop(awaited, None)
        if only is not None:
            self.count -= 1
            return (only,)
        several = self._several.pop(awaited, None)
        if several is None:
            return ()
        self.count -= len(several)
        return tuple(several)

    def first(self, awaited: str, count: int) -> list[str]:
        """Return the first that wait for this, at most `count`."""
        several = self._several.get(awaited)
        if several is not None:
            return list(islice(several, count))
        only = self._one.get(awaited)
        return [] if only is None or not count else [only]

    def has(self, awaited: str, waiter: str) -> bool:
        """Return whether the pair is there."""
        several = self._several.get(awaited)
        return self._one.get(awaited) == waiter if several is None else waiter in several

    def count_of(self, awaited: str) -> int:
        """Return how many wait for this."""
        several = self._several.get(awaited)
        return int(awaited in self._one) if several is None else len(several)

    def waiters_of(self, awaited: str) -> tuple[str, ...]:
        """Return all that wait for this, in the order in which they were added."""
        only = self._one.get(awaited)
        return tuple(self._several.get(awaited, ())) if only is None else (only,)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield all pairs, those of one awaited id in their order."""
        yield from self._one.items()
        for awaited, waiters in self._several.items():
            for waiter in waiters:
                yield awaited, waiter
