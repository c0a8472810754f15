"""Promises that are folded in the middle of random histories, which must not change anything.

The tags of what a start has loaded are read there, too, a few at a time.
"""

from typing import Final

from troth.core.state.late_tags import read_tags
from troth.core.state.shard_state import ShardState

FOLDED_EACH_COUNT: Final = 5
"""So many steps from one folding to the next."""
TAGS_READ_COUNT: Final = 3


class Folds:
    """Folds what a shard had some steps ago, and still has."""

    def __init__(self) -> None:
        """Begin with nothing old."""
        self._old_serial = 0
        self._steps_count = 0

    def after_step(self, state: ShardState) -> None:
        """Fold now and then."""
        self._steps_count += 1
        if self._steps_count % FOLDED_EACH_COUNT == 0:
            while state.promises.fold_some(state.promise_index, self._old_serial):
                pass
            self._old_serial = max(self._old_serial, state.largest_serial)
            read_tags(state, TAGS_READ_COUNT)
