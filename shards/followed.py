"""A storage whose log is in an engine that several servers share: one owns it, others stand by.

Its records may go on to come for days. `streams/` has it; this is what the rest knows of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

MakeCheckpoint = Callable[[int], None]
"""Makes a checkpoint of all records up to a sequence, which have been applied, and no later one."""


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A server's part in a log that is a stream.

    `number` is that of the last frame that it knows, `silence_ms` how long ago it was heard or, by
    its owner, sent. `skew_ms` is how far the owner's clock was ahead when it was last heard.
    """

    is_owner: bool
    is_standing_by: bool
    epoch: int
    number: int
    silence_ms: int
    skew_ms: int


@dataclass(frozen=True, slots=True)
class UpkeepStatistics:
    """What upkeep has done since the start. `snapshot_at_ms` is 0 if there is no snapshot."""

    snapshots_count: int = 0
    failures_count: int = 0
    trimmed_frames_count: int = 0
    snapshot_at_ms: int = 0
    snapshot_bytes: int = 0


@runtime_checkable
class FollowedStorage(Protocol):
    """A storage whose records may go on to come for days, with checkpoints in the meantime."""

    make_checkpoint: MakeCheckpoint | None

    @property
    def time_ms(self) -> int:
        """The time that the last one who wrote the records has told clients, in ms since 1970."""
        ...  # pragma: no cover

    def stream_statistics(self) -> StreamStatistics:
        """Return this server's part in the log; in any thread."""
        ...  # pragma: no cover
