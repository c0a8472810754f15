"""What this group has acknowledged to others: said again whenever a link has come up.

An acknowledgment that a broken link has swallowed would else be missed until the other group sends
its messages again, which it does only when *its* link has been down.
"""

from collections.abc import Iterator
from typing import final

from troth.core.commands import Acknowledge


@final
class Acknowledgments:
    """The last acknowledgment from each shard of this group to each of others."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], Acknowledge] = {}

    def note(self, source: int, command: Acknowledge) -> None:
        """Note that the shard `source` is told that its messages are durably applied."""
        key = source, command.target
        before = self._last.get(key)
        if before is None or before.sequence < command.sequence:
            self._last[key] = command

    def to(self, sources: range) -> Iterator[tuple[int, Acknowledge]]:
        """Yield what some shards have been told."""
        for (source, _), command in self._last.items():
            if source in sources:
                yield source, command
