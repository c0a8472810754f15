"""Watched promises of several processes: each tells the others what its clients watch.

A promise, and those whose tags name it, may be in any group. So all processes watch it, and tell
the one with the client what has changed, when that is durable. Notes are lost with a link; when it
has come up again, all that is watched is said once more, and counts instead of what was known.
"""

from collections.abc import Callable, Collection
from typing import Final, final

from msgspec import Struct

from troth.core.state.watching import Watch
from troth.shards.mesh.calls import ProcessCalls, ProcessNote

Pair = tuple[str, str]
"""A watched promise, and the prefix of ids that its watcher may hear of."""


class Watched(Struct, frozen=True, array_like=True):
    """What a process watches: what is new, what is not watched any more, or (`is_all`) all."""

    added: list[Pair]
    removed: list[Pair] = []
    is_all: bool = False


WATCHED: Final = ProcessNote("watched", Watched)
CHANGED: Final = ProcessNote("changed", list[Pair])


@final
class OtherWatchers:
    """What clients of other processes watch here, and clients of this one elsewhere.

    `heard` is called with what others say has changed.
    """

    def __init__(self, calls: ProcessCalls, watch: Watch) -> None:
        self.heard: Callable[[Collection[Pair]], None] = lambda _: None
        self._calls = calls
        self._watch = watch
        self._own: dict[Pair, None] = {}
        self._theirs: dict[int, set[Pair]] = {}
        calls.hear(WATCHED, self._hear_watched)
        calls.hear(CHANGED, self._hear_changed)
        calls.when_linked.append(self._say_all)

    def add(self, pair: Pair) -> None:
        """Tell others to watch for a first client of this process."""
        self._own[pair] = None
        self._calls.note_all(WATCHED, Watched([pair]))

    def remove(self, pair: Pair) -> None:
        """Tell others to stop: the last client has gone."""
        del self._own[pair]
        self._calls.note_all(WATCHED, Watched([], [pair]))

    def tell(self, changed: Collection[Pair]) -> None:
        """Tell others what has changed, and is durable, of what they watch."""
        for process, pairs in self._theirs.items():
            told = [pair for pair in changed if pair in pairs]
            if told:
                self._calls.note(process, CHANGED, told)

    def _say_all(self, process: int) -> None:
        self._calls.note(process, WATCHED, Watched(list(self._own), is_all=True))

    def _hear_watched(self, process: int, said: Watched) -> None:
        pairs = self._theirs.setdefault(process, set())
        wanted = set(said.added) if said.is_all else (pairs | set(said.added)) - set(said.removed)
        for pair in wanted - pairs:
            self._watch.add(*pair)
        for pair in pairs - wanted:
            self._watch.remove(*pair)
        self._theirs[process] = wanted

    def _hear_changed(self, _process: int, changed: list[Pair]) -> None:
        self.heard(changed)
