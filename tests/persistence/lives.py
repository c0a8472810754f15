"""Lives of a server on a simulated disk: what it acknowledged, and what must be there later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.persistence.data_directory import DataDirectory
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.segmented_log import InlineExecutor, SegmentedLog

PATH = "/data"
SEGMENT_BYTES = 1200  # a few batches each; more than two sectors

Numbered = tuple[int, LogRecord]


def constant_bytes(count: int) -> bytes:
    """Stand in for randomness where its value does not matter."""
    return bytes(range(count))


def open_directory(files: SimulatedFiles, shard_count: int | None = None) -> DataDirectory:
    """Open the directory with small segments and without threads."""
    return DataDirectory.open(
        PATH,
        files,
        shard_count,
        created_at_ms=1_700_000_000_000,
        random_bytes=constant_bytes,
        segment_bytes=SEGMENT_BYTES,
        executor=InlineExecutor(),
    )


@contextmanager
def opened(files: SimulatedFiles) -> Iterator[SegmentedLog]:
    """Recover and give the log; close cleanly at the end."""
    directory = open_directory(files)
    list(directory.recover())
    yield directory.log
    directory.close()


def recover(files: SimulatedFiles, from_sequence: int = 1) -> list[Numbered]:
    """Open, recover and close again; return what was recovered."""
    directory = open_directory(files)
    try:
        return list(directory.recover(from_sequence))
    finally:
        directory.close()


def segment_paths(files: SimulatedFiles) -> list[str]:
    """Return the segments' paths in order."""
    return [f"{PATH}/groups/0/log/{name}" for name in files.list_names(f"{PATH}/groups/0/log")]


class Life:
    """Plays steps against a directory and keeps books of what it may rely on.

    A step is `("append", sizes)`, `("seal",)`, `("restart",)`, `("kill",)` or `("trim",)`.
    """

    def __init__(self, files: SimulatedFiles) -> None:
        self.files = files
        self.acknowledged: list[Numbered] = []
        self.in_flight: list[Numbered] = []
        self.trimmed_to = 1
        self.directory: DataDirectory | None = None
        self._next_shard_sequences = {0: 1, 1: 1, 2: 1}

    def play(self, steps: Sequence[tuple[object, ...]]) -> None:
        """Open, take the steps, and leave everything open at the end."""
        self.open()
        self.play_on(steps)

    def play_on(self, steps: Sequence[tuple[object, ...]]) -> None:
        """Take steps in the directory that is open."""
        for kind, *arguments in steps:
            getattr(self, f"_{kind}")(*arguments)

    def played_until_crash(self, steps: Sequence[tuple[object, ...]]) -> bool:
        """Play; return whether the power was lost before the end."""
        try:
            self.play(steps)
        except SimulatedCrash:
            return True
        return False

    def open(self) -> None:
        """Open and recover; what is recovered must be what was acknowledged, and little more."""
        self.directory = open_directory(self.files)
        recovered = list(self.directory.recover(self.trimmed_to))
        expected = [item for item in self.acknowledged if item[0] >= self.trimmed_to]
        assert recovered in (expected, expected + self.in_flight)
        self.acknowledged = recovered
        self.in_flight = []
        for _, record in recovered:
            self._next_shard_sequences[record.shard] = record.shard_sequence + 1

    @property
    def log(self) -> SegmentedLog:
        """The log of the directory that is open."""
        assert self.directory is not None
        return self.directory.log

    def _append(self, sizes: list[int]) -> None:
        log = self.log
        batch = []
        for index, size in enumerate(sizes):
            shard = (log.next_sequence + index) % 3
            shard_sequence = self._next_shard_sequences[shard]
            self._next_shard_sequences[shard] += 1
            body = f"{shard}/{shard_sequence}:".encode().ljust(size, b"x")
            batch.append(LogRecord(shard, shard_sequence, body))
        self.in_flight = list(enumerate(batch, log.next_sequence))
        assert log.append(batch, log.next_sequence) == self.in_flight[-1][0]
        self.acknowledged += self.in_flight
        self.in_flight = []

    def _seal(self) -> None:
        self.log.seal()

    def _restart(self) -> None:
        assert self.directory is not None
        self.directory.close()
        self.open()

    def _kill(self) -> None:
        """End the process but not the machine: what was written is there without a sync."""
        self.files.end_process()
        self.open()

    def _trim(self) -> None:
        to_sequence = max(1, self.log.next_sequence - 3)
        # Set before: from now on nobody may ask for less, whether or not the trim succeeds.
        self.trimmed_to = max(self.trimmed_to, to_sequence)
        self.log.trim(to_sequence)


SCRIPT: list[tuple[object, ...]] = [
    ("append", [10]),
    ("append", [20, 1, 300]),
    ("seal",),
    ("append", [5]),  # overwrites the seal
    ("append", [5]),
    ("seal",),
    ("append", [400]),  # fills half: the next segment is prepared
    ("append", [700]),  # rolls over
    ("seal",),
    ("append", [900]),  # rolls over a sealed segment
    ("kill",),
    ("append", [3000, 20]),  # a segment of its own, replacing an empty one
    ("append", [5]),
    ("restart",),
    ("restart",),
    ("append", [600, 10]),
    ("trim",),
    ("append", [600]),
    ("seal",),
    ("append", [2, 2]),
]
