"""Snapshots of a server of several processes: one cut through all groups, in one file.

The process that takes one has all groups get ready first (a checkpoint, and its rows opened). Then
each closes its barrier and notes how far its log is durable, and they are opened when all have
(`shards/mesh/barrier.py`): about a millisecond. After that each group's part is read from where it
is, group by group. If a process is away or the barriers are closed for too long, there is no
snapshot, and nothing was done.

What a group keeps for a snapshot it gives up when the process that takes it is gone, and when that
one has linked again: it may have said in vain that the snapshot is over.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol, final, runtime_checkable

import trio
from msgspec import Struct

from troth.persistence.checkpoints.port import View
from troth.persistence.snapshots.snapshot_file import FileEncoder, PieceCounts, SnapshotHeader
from troth.persistence.snapshots.snapshots import Cut, joint_header
from troth.shards.errors import CallFailed, OutOfReach
from troth.shards.mesh.barrier import Barrier
from troth.shards.mesh.calls import ProcessCall, ProcessCalls, ProcessNote
from troth.shards.threads import in_thread

from .asking import ask_all, ask_one

CLOSED_LIMIT_MS: Final = 2_000
"""How long a barrier is closed at most."""

CLOSING_LIMIT_S: Final = 1.0
"""How long closing all of them may take."""

PART_BYTES: Final = 256 * 1024
"""How much of a part is sent at a time."""

PAUSE_LIMIT_S: Final = 0.05
"""The longest pause after it."""


class CutAsked(Struct, frozen=True, array_like=True):
    """A snapshot that a process takes, by its name."""

    name: str
    created_at_ms: int = 0


class PartFound(Struct, frozen=True, array_like=True):
    """Some pieces of a group's part; none at its end."""

    pieces: list[tuple[bytes, PieceCounts]]


PREPARE: Final = ProcessCall("snapshot.prepare", CutAsked, type(None))
CLOSE: Final = ProcessCall("snapshot.close", CutAsked, int)
OPEN: Final = ProcessCall("snapshot.open", CutAsked, bool)
CUT: Final = ProcessCall("snapshot.cut", CutAsked, SnapshotHeader)
READ: Final = ProcessCall("snapshot.read", CutAsked, PartFound)
END: Final = ProcessCall("snapshot.end", CutAsked, type(None))
RELINKED: Final = ProcessNote("snapshot.relinked", type(None))
"""The link has come up again: nothing is wanted any more of what was prepared before it."""


@runtime_checkable
class GroupStorage(Protocol):
    """What is needed of the storage of one of several groups; see `DirectoryStorage`."""

    @property
    def data_id(self) -> bytes:
        """The bytes that tell this data from any other."""
        ...  # pragma: no cover

    @property
    def group_shards(self) -> tuple[int, ...]:
        """The number of shards of each group."""
        ...  # pragma: no cover

    def hold_log(self) -> Callable[[], None]:
        """Keep the log from being trimmed."""
        ...  # pragma: no cover

    def open_rows(self) -> View:
        """Open the rows of a cut."""
        ...  # pragma: no cover

    def open_cut(self, created_at_ms: int, opened: tuple[View, int] | None = None) -> Cut:
        """Make a cut."""
        ...  # pragma: no cover


class _GroupCut:
    """What this group keeps for one snapshot."""

    def __init__(self, taker: int, release_log: Callable[[], None], view: View) -> None:
        self.taker = taker
        self.view = view
        self.until_sequence = 0
        self.pieces: Iterator[tuple[bytes, PieceCounts]] | None = None
        self.reading = trio.Lock()
        self._release_log = release_log

    def close(self) -> None:
        """Give all of it up."""
        self.view.close()
        self._release_log()


@final
class GatheredCuts:
    """The snapshots that this process takes of all groups, and its part in those of others.

    `checkpoint` makes a checkpoint; it is None until this process serves. `durable` says how far
    its log is durable.
    """

    def __init__(
        self,
        calls: ProcessCalls,
        barrier: Barrier,
        storage: GroupStorage,
        durable: Callable[[], int],
    ) -> None:
        self.checkpoint: Callable[[], Awaitable[None]] | None = None
        self._calls = calls
        self._barrier = barrier
        self._storage = storage
        self._durable = durable
        self._open: dict[str, _GroupCut] = {}
        self._preparing: dict[str, int] = {}
        self._last = 0
        calls.handle(PREPARE, self._prepare)
        calls.handle(CLOSE, self._close)
        calls.handle(OPEN, self._let_go)
        calls.handle(CUT, self._cut)
        calls.handle(READ, self._read)
        calls.handle(END, self._end)
        calls.hear(RELINKED, lambda process, _: self._give_up_those_of(process))
        calls.when_parted.append(self._give_up_those_of)
        calls.when_linked.append(lambda process: calls.note(process, RELINKED, None))

    # Taking one

    async def open(
        self,
        now_ms: Callable[[], int],
        on_whole: Callable[[], None],
        release: Callable[[], None],
    ) -> "GatheredSnapshot":
        """Begin a snapshot of all groups. Raises ShardsError.

        When it has been read, `on_whole` is called in a thread; when it is closed, `release`.
        """
        self._last += 1
        asked = CutAsked(f"{self._calls.own}.{time.monotonic_ns()}.{self._last}")
        try:
            await ask_all(self._calls, PREPARE, asked)
            asked = CutAsked(asked.name, now_ms())
            try:
                with trio.move_on_after(CLOSING_LIMIT_S):
                    await ask_all(self._calls, CLOSE, asked)
            finally:
                with trio.CancelScope(shield=True):
                    were_closed = await self._calls.call_all(OPEN, asked, wait_ms=0)
            if not all(one is True for one in were_closed.values()):
                raise OutOfReach  # one of them was not closed all the time
            headers = await ask_all(self._calls, CUT, asked)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.end(asked)
            raise
        header = joint_header(headers, self._storage.group_shards)
        return GatheredSnapshot(self, asked, header, on_whole, release)

    async def end(self, asked: CutAsked) -> None:
        """Tell all groups to give up what they keep for a snapshot."""
        await self._calls.call_all(END, asked, wait_ms=0)

    async def read(self, group: int, asked: CutAsked) -> Sequence[tuple[bytes, PieceCounts]]:
        """Return the next pieces of a group's part. Raises ShardsError."""
        return (await ask_one(self._calls, group, READ, asked)).pieces

    # This group's part

    async def _prepare(self, process: int, asked: CutAsked) -> None:
        if self.checkpoint is None:
            raise OutOfReach
        self._preparing[asked.name] = process
        try:
            await self.checkpoint()
            release_log = self._storage.hold_log()
            try:
                view = await in_thread(self._storage.open_rows)
            except BaseException:
                release_log()
                raise
        finally:
            is_wanted = self._preparing.pop(asked.name, None) is not None
        kept = _GroupCut(process, release_log, view)
        if not is_wanted:
            kept.close()  # it was given up in the meantime
            raise OutOfReach
        self._open[asked.name] = kept

    async def _close(self, process: int, asked: CutAsked) -> int:  # noqa: ARG002
        cut = self._kept(asked)
        self._barrier.close(asked.name, CLOSED_LIMIT_MS)
        cut.until_sequence = self._durable()
        await trio.lowlevel.checkpoint()
        return cut.until_sequence

    async def _let_go(self, process: int, asked: CutAsked) -> bool:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return self._barrier.open(asked.name)

    async def _cut(self, process: int, asked: CutAsked) -> SnapshotHeader:  # noqa: ARG002
        kept = self._kept(asked)
        opened = kept.view, kept.until_sequence
        cut = await in_thread(lambda: self._storage.open_cut(asked.created_at_ms, opened))
        kept.pieces = cut.of_group(self._calls.own)
        return cut.header

    async def _read(self, process: int, asked: CutAsked) -> PartFound:  # noqa: ARG002
        kept = self._kept(asked)
        pieces = kept.pieces
        if pieces is None:
            raise CallFailed
        began_s = time.monotonic()
        async with kept.reading:
            found = PartFound(await in_thread(lambda: _some(pieces)))
        # Python runs one thread at a time, and requests go first.
        await trio.sleep(min(time.monotonic() - began_s, PAUSE_LIMIT_S))
        return found

    async def _end(self, process: int, asked: CutAsked) -> None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        self._barrier.open(asked.name)
        self._preparing.pop(asked.name, None)
        await self._give_up(asked.name)

    async def _give_up(self, name: str) -> None:
        kept = self._open.pop(name, None)
        if kept is not None:
            async with kept.reading:  # a thread may be reading it
                kept.close()

    def _give_up_those_of(self, process: int) -> None:
        """Give up the snapshots of a process that is gone, or has linked again."""
        for name in [one for one, taker in self._preparing.items() if taker == process]:
            del self._preparing[name]
        for name in [one for one, kept in self._open.items() if kept.taker == process]:
            self._barrier.open(name)
            trio.lowlevel.spawn_system_task(self._give_up, name)

    def _kept(self, asked: CutAsked) -> _GroupCut:
        kept = self._open.get(asked.name)
        if kept is None:
            raise OutOfReach  # this process was started again in the meantime
        return kept


def _some(pieces: Iterator[tuple[bytes, PieceCounts]]) -> list[tuple[bytes, PieceCounts]]:
    """Return the next pieces, up to a size."""
    found: list[tuple[bytes, PieceCounts]] = []
    size_bytes = 0
    for piece in pieces:
        found.append(piece)
        size_bytes += len(piece[0])
        if size_bytes >= PART_BYTES:
            break
    return found


@final
class GatheredSnapshot:
    """A snapshot of all groups being read; see `snapshotter.OpenSnapshot`."""

    def __init__(
        self,
        cuts: GatheredCuts,
        asked: CutAsked,
        header: SnapshotHeader,
        on_whole: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        self.header = header
        self._on_whole = on_whole
        self._release = release
        self._cuts = cuts
        self._asked = asked
        self._encoder = FileEncoder(header)
        self._group = -1
        self._is_closed = False

    async def next_piece(self) -> bytes | None:
        """Return the next bytes of the file; None at its end. Raises ShardsError."""
        if self._group < 0:
            self._group = 0
            return self._encoder.begin()
        while self._group < len(self.header.groups):
            pieces = await self._cuts.read(self._group, self._asked)
            if pieces:
                return b"".join([self._encoder.add(*piece) for piece in pieces])
            self._group += 1
            if self._group == len(self.header.groups):
                return self._encoder.end()
        await in_thread(self._on_whole)
        return None

    def pieces(self) -> Iterator[bytes]:
        """Yield the rest, for a thread that writes them itself. Raises SnapshotError."""
        while True:
            piece: bytes | None = trio.from_thread.run(self.next_piece)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Allow all groups to trim their logs again; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._release()
            trio.lowlevel.spawn_system_task(self._cuts.end, self._asked)
