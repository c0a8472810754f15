"""Which ids in memory begin in a certain way, without an index that every promise pays for.

The ids of a shard are joined to texts of some hundred ids, in the order of creation, on the first
question; to look for a beginning in such a text takes a few nanoseconds an id. Only ids that are
newer than the last text are looked at one by one. Ids of promises that have left memory stay in a
text until most of them have; the caller looks whether the promise is there.
"""

from collections.abc import Iterator
from typing import Final, final

from troth.core.state.shard_state import ShardState

TEXT_COUNT: Final = 500
"""How many ids make a text."""
SEPARATOR: Final = "\0"


@final
class IdTexts:
    """The texts of one shard."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._texts: list[str] = []
        self._unusual: list[str] = []  # ids with a separator in them
        self._until_serial = -1
        self._ids_count = 0

    def beginning_with(self, state: ShardState, beginning: str) -> Iterator[list[str]]:
        """Yield ids of promises in memory that begin so, a text's at a time; some may be gone.

        Between two lists others may have their turn.
        """
        if self._ids_count > 2 * len(state.promise_index) + TEXT_COUNT:
            self._forget()  # most of them have left memory
        rest = self._extend(state)
        while rest is None:
            yield []
            rest = self._extend(state)
        texts = list(self._texts)
        yield [name for name in self._unusual + rest if name.startswith(beginning)]
        for text in texts:
            yield _found(text, beginning)

    def _extend(self, state: ShardState) -> list[str] | None:
        """Make one more text, or return the ids that are in none if they are too few for one."""
        until, names = state.promise_index.next_ids(self._until_serial, TEXT_COUNT)
        if len(names) < TEXT_COUNT and not state.promise_index.has_above(until):
            return names
        self._until_serial = until
        self._ids_count += len(names)
        text = SEPARATOR.join(names)
        if text.count(SEPARATOR) >= len(names):
            self._unusual += [name for name in names if SEPARATOR in name]
            text = SEPARATOR.join([name for name in names if SEPARATOR not in name])
        self._texts.append(f"{SEPARATOR}{text}{SEPARATOR}")
        return None


def _found(text: str, beginning: str) -> list[str]:
    wanted = SEPARATOR + beginning
    names: list[str] = []
    start = text.find(wanted)
    while 0 <= start < len(text) - 1:
        end = text.index(SEPARATOR, start + 1)
        names.append(text[start + 1 : end])
        start = text.find(wanted, end)
    return names
