"""What an engine keeps next to a stream, in memory: who reads, and snapshots.

Several nodes may share one; what it trims goes from a `SimulatedEngine`.
"""

from typing import final

from troth.core.limits import STREAM_READER_GONE_MS
from troth.persistence.streams.stream import SnapshotDescription, StreamUnreachable

from .simulated_stream import SimulatedEngine


@final
class SimulatedKeeping:
    """A `StreamKeeping`. `fails_at` is the number of a piece that it refuses."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.now_ms = 0
        self.readers: dict[str, tuple[int, int]] = {}
        self.starting: frozenset[str] = frozenset()
        self.newest: SnapshotDescription | None = None
        self.places: list[dict[tuple[int, int], bytes]] = [{}, {}]
        self.fails_at: int | None = None

    def note_reader(self, node: str, number: int, *, is_starting: bool = False) -> None:
        self.readers[node] = (number, self.now_ms)
        self.starting = self.starting | {node} if is_starting else self.starting - {node}

    def needed_number(self) -> int | None:
        oldest_ms = self.now_ms - STREAM_READER_GONE_MS
        return min(
            (number for number, seen_ms in self.readers.values() if seen_ms > oldest_ms),
            default=None,
        )

    def trim(self, number: int, epoch: int) -> int:
        engine = self.engine
        if epoch != engine.epoch:
            return 0
        before, engine.trimmed_count = engine.trimmed_count, max(number - 1, engine.trimmed_count)
        return engine.trimmed_count - before

    def snapshot(self) -> SnapshotDescription | None:
        return self.newest

    def begin_snapshot(self, epoch: int) -> int:
        place = 0 if self.newest is None else 1 - self.newest.place
        if epoch == self.engine.epoch:
            self.places[place].clear()
        return place

    def add_piece(self, place: int, identifier: int, number: int, piece: bytes, epoch: int) -> None:
        if epoch != self.engine.epoch or number == self.fails_at:
            raise StreamUnreachable("it is refused")
        self.places[place][identifier, number] = piece

    def piece(self, place: int, identifier: int, number: int) -> bytes | None:
        return self.places[place].get((identifier, number))

    def finish_snapshot(self, description: SnapshotDescription, epoch: int) -> None:
        if epoch != self.engine.epoch:
            raise StreamUnreachable("it is refused")
        self.newest = description

    def close(self) -> None:
        """Do nothing."""
