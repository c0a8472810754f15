"""Labels whose values come from clients, such as receivers: bounded, and without a rank.

The first values that appear since the start keep their label; later ones are counted together, as
`other`. So a series never changes its meaning, and none vanishes while the server runs.
"""

from collections.abc import Mapping
from typing import Final, final

from troth.core.state.activity import OTHER

LIMIT_COUNT: Final = 20
__all__ = ["OTHER", "FirstComers"]


@final
class FirstComers:
    """The values of one label that have a series of their own."""

    def __init__(self, limit_count: int = LIMIT_COUNT) -> None:
        """Know none yet."""
        self._limit_count = limit_count
        self._known: dict[str, None] = {}

    def label(self, value: str) -> str:
        """Return what stands for a value."""
        if value in self._known:
            return value
        if len(self._known) < self._limit_count:
            self._known[value] = None
            return value
        return OTHER

    def fold(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return a number for each label: sums, and 0 for values that are not there any more."""
        folded = dict.fromkeys((*self._known, OTHER), 0.0)
        for value, number in numbers.items():
            label = self.label(value)
            folded[label] = folded.get(label, 0.0) + number
        return folded
