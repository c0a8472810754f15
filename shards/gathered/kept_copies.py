"""Snapshots that an engine keeps of a server of several groups: each group has its own.

They are no cut through all groups, and need not be: a group begins with its own snapshot and goes
on with its own log, as with its own checkpoints.
"""

from collections.abc import Awaitable, Callable
from typing import Final, final

from msgspec import Struct

from troth.shards.errors import OutOfReach
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.upkeep.snapshotter import KeptCopy

from .asking import ask_all


class CopyKept(Struct, frozen=True, array_like=True):
    """A group's snapshot in the engine."""

    size_bytes: int
    created_at_ms: int


TAKE: Final = ProcessCall("snapshot.keep", type(None), CopyKept)


@final
class KeptCopies:
    """Takes the snapshots of all groups. `own` takes this group's, once this process serves."""

    def __init__(self, calls: ProcessCalls) -> None:
        self.own: Callable[[], Awaitable[KeptCopy | None]] | None = None
        self._calls = calls
        calls.handle(TAKE, self._take_own)

    async def _take_own(self, _process: int, _asked: None) -> CopyKept:
        kept = None if self.own is None else await self.own()
        if kept is None:
            raise OutOfReach  # this process is about to serve
        return CopyKept(kept.size_bytes, kept.created_at_ms)

    async def take_all(self) -> KeptCopy:
        """Take one of each group; return their size and when the oldest was. Raises ShardsError."""
        taken = await ask_all(self._calls, TAKE, None)
        return KeptCopy(
            sum(one.size_bytes for one in taken), min(one.created_at_ms for one in taken)
        )
