"""When promises that wait are folded (`core/state/promise_table.py`): seconds after they were made.

Every other second all that was there two seconds before is folded, a slice in a pass of the loop.
So a promise that completes within two seconds costs nothing here, and memory follows what waits,
not when the next checkpoint is made.
"""

from typing import Final, final

import trio

from troth.core.state.shard_state import ShardState
from troth.shards.shards import Shards
from troth.shards.together import shared_end_s

FOLDING_INTERVAL_S: Final = 2.0


@final
class Folder:
    """Folds the promises of one server."""

    def __init__(self, shards: Shards) -> None:
        """Initialize; nothing is old yet."""
        self._states = shards.states()
        self._old = [-1] * len(self._states)

    async def run(self) -> None:
        """Fold what is old, until canceled."""
        while True:
            await trio.sleep_until(shared_end_s(FOLDING_INTERVAL_S))
            for place, state in enumerate(self._states):
                await self._fold(state, self._old[place])
                self._old[place] = state.largest_serial

    async def _fold(self, state: ShardState, through_serial: int) -> None:
        table = state.promises
        while table.folded_through < through_serial:
            if not table.fold_some(state.promise_index, through_serial):
                break
            await trio.lowlevel.checkpoint()
