"""When promises that wait are folded (`promise_table.py`): when they are old, or many.

What has nothing but its data, and no task, is folded when it is created. Of the rest, every other
second all that was there two seconds before is folded. So a promise that completes within two
seconds costs nothing here, and memory follows what waits, not when the next checkpoint is made.

A server that gets more than it completes has too many for that before they are two seconds old. The
memory they take as objects would not come back: what is freed lies between what stays. So when
there are more than a few thousand objects, and each time so much more has been written, all but the
newest are folded.
"""

from typing import Final, final

import trio

from troth.shards.shards import Shards
from troth.shards.together import shared_end_s

FOLDING_INTERVAL_S: Final = 2.0
UNFOLDED_LIMIT_COUNT: Final = 4_096
"""About 2 MB. Beyond it promises are folded sooner."""
LOOK_AFTER_COUNT: Final = UNFOLDED_LIMIT_COUNT // 4
"""So many records are written between two looks at how many there are."""
_PASS_SHARE_S: Final = 0.001
"""The time that folding may take in a pass of the loop."""


@final
class Folder:
    """Folds the promises of one server."""

    def __init__(self, shards: Shards) -> None:
        """Initialize; nothing is old yet."""
        self._states = shards.states()
        self._committer = shards.committer
        self._old = [-1] * len(self._states)
        self._seen = [-1] * len(self._states)

    async def run(self) -> None:
        """Fold what is old, or too much, until canceled."""
        while True:
            end_s = shared_end_s(FOLDING_INTERVAL_S)
            while True:
                with trio.move_on_at(end_s) as waiting:
                    await self._committer.wait_records(LOOK_AFTER_COUNT)
                if waiting.cancelled_caught:
                    break
                seen, self._seen = self._seen, self._last_serials()
                if self.unfolded_count > UNFOLDED_LIMIT_COUNT:
                    await self._fold_through(seen)
            old, self._old = self._old, self._last_serials()
            await self._fold_through(old)

    @property
    def unfolded_count(self) -> int:
        """The number of pending promises that are objects."""
        return sum([state.pending_count - state.promises.folded_count for state in self._states])

    def _last_serials(self) -> list[int]:
        return [state.largest_serial for state in self._states]

    async def _fold_through(self, serials: list[int]) -> None:
        """Fold what each shard had up to a serial."""
        end_s = trio.current_time() + _PASS_SHARE_S
        for state, serial in zip(self._states, serials, strict=True):
            table = state.promises
            if table.folded_count == state.pending_count:
                table.folded_through = max(table.folded_through, serial)
            while table.folded_through < serial:
                if not table.fold_some(state.promise_index, serial):
                    break
                if trio.current_time() >= end_s:
                    await trio.lowlevel.checkpoint()
                    end_s = trio.current_time() + _PASS_SHARE_S
