"""The watch over several nodes: the stream says what is durable, nodes what they appended."""

from typing import Any

from tests.simulation.invariants import Watch
from tests.simulation.ledger import require
from troth.persistence.wal.log import LogRecord

from .engine import ClusterEngine


class WatchOfNodes(Watch):
    """Knows all records of the stream that a node has said to be durable, or has read as owner."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.views: list[NodeWatch] = []

    def reached(self, position: int, engine: ClusterEngine, group: int = 0) -> None:
        """A node knows that all up to here is durable. Raises BrokenPromise."""
        engine.settle()
        require(
            position <= len(engine.records),
            f"record {position} is called durable, and the stream has {len(engine.records)}",
        )
        log = self.log_of(group)
        for sequence in range(len(log) + 1, position + 1):
            entry = engine.records[sequence - 1]
            require(
                any(view.has_appended(sequence, entry, group) for view in self.views),
                f"record {sequence} was appended by no node: {entry}",
            )
            log.append(entry)
        self.durable(max(position, self.durable_counts[group]), group)


class NodeWatch:
    """What one life of a node tells the watch; for the rest it is the watch of all."""

    def __init__(
        self, watch: WatchOfNodes, name: str, engine: ClusterEngine, group: int = 0
    ) -> None:
        self._watch = watch
        self._name = name
        self._engine = engine
        self._group = group
        self._first = 0
        self._checked = 0
        self._entries: list[LogRecord] = []
        watch.views.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def recovered(self, next_sequence: int, _: object) -> None:
        """The node owns the stream, which had so many records at its claim."""
        lost_count = self._watch.durable_counts[self._group] + 1 - next_sequence
        require(lost_count <= 0, f"{lost_count} durable records are lost at {self._name}")
        self._watch.reached(next_sequence - 1, self._engine, self._group)
        self._first = self._checked = next_sequence

    def appended(self, entries: list[LogRecord], group: int = 0) -> None:  # noqa: ARG002
        """The node has handed these to its committer."""
        self._entries += entries

    def has_appended(self, sequence: int, entry: LogRecord, group: int) -> bool:
        """Whether the node has appended this in this place of a group's stream."""
        place = sequence - self._first
        return (
            group == self._group
            and self._first > 0
            and 0 <= place < len(self._entries)
            and self._entries[place] == entry
        )

    def durable(self, position: int, group: int = 0) -> None:
        """The node takes it that all up to here is durable. Raises BrokenPromise."""
        self._watch.reached(position, self._engine, self._group)
        for sequence in range(self._checked, position + 1):
            entry = self._engine.records[sequence - 1]
            require(
                self.has_appended(sequence, entry, group),
                f"{self._name} calls record {sequence} durable, where another's stands",
            )
        self._checked = max(self._checked, position + 1)
