"""A data directory on a simulated disk, as the shards see it: no threads, no real time."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.twins.handed_over import handing_over
from tests.twins.simulated_files import SimulatedFiles
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import Store
from troth.persistence.data_directory import DataDirectory, LogEndDoubt, open_identity
from troth.persistence.placement import PlacementRule
from troth.persistence.wal.log import LogRecord, LogStatistics
from troth.persistence.wal.segmented_log import InlineExecutor, SegmentedLog
from troth.shards.committer import BatchWriter, Committer

PATH = "/data"


def _constant_bytes(count: int) -> bytes:
    return bytes(index % 256 for index in range(count))


class SimulatedStorage:
    """The twin of `storage.DirectoryStorage`; `writer_for(log, committer)` makes the writer."""

    place = "a simulated disk"
    directory: Path | None = None

    def __init__(
        self,
        files: SimulatedFiles,
        shard_count: int,
        writer_for: Callable[[SegmentedLog, Committer], BatchWriter],
        *,
        segment_bytes: int = 64 * 1024,
        store: Store | None = None,
        group: int = 0,
        groups_count: int = 1,
    ) -> None:
        """Open one group of the directory. Raises a `DataDirectoryError` as the real one does."""
        self._writer_for = writer_for
        path, lock, _ = open_identity(
            PATH,
            files,
            shard_count,
            groups_count,
            created_at_ms=1_700_000_000_000,
            random_bytes=_constant_bytes,
        )
        self._directory = DataDirectory.open_group(
            lock, path, files, group, segment_bytes=segment_bytes, executor=InlineExecutor()
        )
        self.checkpoints: Checkpoints | None = None
        if store is not None:
            self.checkpoints = Checkpoints(
                store,
                self._directory.identity.data_id,
                self._directory.shards,
                handing_over(store),
            )

    def check(self) -> None:
        self._directory.check()

    @property
    def shard_count(self) -> int:
        return self._directory.shard_count

    @property
    def group(self) -> int:
        return self._directory.group

    @property
    def group_shards(self) -> tuple[int, ...]:
        return self._directory.identity.group_shards

    @property
    def placement(self) -> PlacementRule:
        return self._directory.identity.placement

    @property
    def secret(self) -> bytes:
        return self._directory.secret

    @property
    def data_id(self) -> bytes:
        """What tells this directory's files from those of others."""
        return self._directory.identity.data_id

    @property
    def log(self) -> SegmentedLog:
        """The log, when recovery has ended."""
        return self._directory.log

    @property
    def next_sequence(self) -> int:
        return self._directory.log.next_sequence

    def trim(self, to_sequence: int) -> None:
        self._directory.log.trim(to_sequence)

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        position = 0 if self.checkpoints is None else self.checkpoints.position
        yield from self._directory.recover(position + 1)
        assert self.next_sequence > position, "checkpoints never know more than the log"

    def make_writer(self, committer: Committer) -> BatchWriter:
        return self._writer_for(self._directory.log, committer)

    def statistics(self) -> LogStatistics:
        return self._directory.log.statistics()

    def torn(self) -> tuple[int, str | None]:
        report = self._directory.report
        return report.torn_bytes_cut, report.torn_file

    def doubt(self) -> LogEndDoubt | None:
        return self._directory.report.doubt

    def close(self) -> None:
        self._directory.close()
