"""What a data directory holds, of version 1 or 2, as one state: for making another one out of it.

Its log is read to the end, and what shards had sent one another and not yet applied is applied. So
nothing is under way between shards, and every entity can be dealt to any shard. The directory is
not changed.
"""

import contextlib
import heapq
from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Final, final

import lmdb

from troth.core import records
from troth.core.commands import Acknowledge, Receive
from troth.core.grammar import task_ids
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.machine import Machine
from troth.core.model import Promise, Task
from troth.core.state import apply, checkpointing
from troth.core.state.captures import Capture
from troth.core.state.cold import NothingCold
from troth.core.state.counts import Counts
from troth.core.state.shard_state import ShardState
from troth.persistence.checkpoints import loading, rows
from troth.persistence.checkpoints.cold import ColdReader
from troth.persistence.checkpoints.id_filter import StoredIds
from troth.persistence.checkpoints.port import View, Write
from troth.persistence.checkpoints.store import DATA_NAME, MAP_BYTES_SMALLEST, LmdbView
from troth.persistence.data_directory import checkpoints_name, log_name
from troth.persistence.errors import (
    CheckpointDamaged,
    DataDirectoryUnreadable,
    LogDamaged,
    UnknownRecord,
)
from troth.persistence.files import RealFiles
from troth.persistence.identity import IDENTITY_NAME, Identity, decode_any_identity
from troth.persistence.placement import by_rule
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.recovery import LogScan
from troth.persistence.wal.segments import list_segments

_OLD_ROW_FORMATS: Final = (b"1", b"2", b"3")

_KEY_END: Final = b"\xff" * 512

_PLACE: Final = itemgetter(0, 1)
"""Of a task: its shard and its sequence."""


def read_identity(path: Path) -> tuple[int, Identity]:
    """Return the version of a directory's format, and its identity.

    Raises a DataDirectoryError.
    """
    identity_path = path / IDENTITY_NAME
    try:
        content = identity_path.read_bytes()
    except OSError as error:
        raise DataDirectoryUnreadable(
            str(path),
            f"{IDENTITY_NAME} cannot be read ({error.strerror or error})",
            "Give the directory that `troth serve` was given with --data.",
        ) from error
    return decode_any_identity(str(identity_path), content)


@final
class OldStore:
    """A store that is only read, of any earlier format: the tables that it lacks are empty."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises DataDirectoryUnreadable."""
        self._environment: lmdb.Environment | None = None
        self._path = path
        self._tables: dict[str, Any] = {}
        file = path / DATA_NAME
        if not file.exists():
            return
        try:
            self._environment = lmdb.open(
                str(path),
                readonly=True,
                lock=False,  # the directory is locked, and no file is to be made in it
                max_dbs=len(rows.TABLES) + 1,
                map_size=max(MAP_BYTES_SMALLEST, file.stat().st_size),
            )
            for table in rows.TABLES:
                with contextlib.suppress(lmdb.NotFoundError):
                    self._tables[table] = self._environment.open_db(table.encode(), create=False)
        except lmdb.Error as error:
            raise DataDirectoryUnreadable(
                str(path), f"cannot be read ({error})", "Check the disk and the permissions."
            ) from error

    def view(self) -> View:
        """See Store."""
        inner = None
        if self._environment is not None:
            inner = LmdbView(self._environment.begin(), self._tables)
        return _OldView(inner, frozenset(self._tables))

    def commit(self, writes: Iterable[Write]) -> None:
        """See Store."""
        raise AssertionError(f"an old store is only read, but is to take {writes!r}")

    def release_memory(self) -> None:
        """See Store."""

    def size_bytes(self) -> int:
        """See Store."""
        file = self._path / DATA_NAME
        return file.stat().st_size if file.exists() else 0

    def close(self) -> None:
        """See Store."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None


@final
class _OldView:
    """A view in which missing tables are empty."""

    def __init__(self, view: LmdbView | None, tables: frozenset[str]) -> None:
        self._view = view
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        """See View."""
        if self._view is None or table not in self._tables:
            return None
        return self._view.get(table, key)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        if self._view is None or table not in self._tables:
            return iter(())
        return self._view.scan(table, start, stop)

    def scan_back(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        return iter(list(self.scan(table, start, stop))[::-1])

    def release_pages(self) -> None:
        """See View."""

    def close(self) -> None:
        """See View."""
        if self._view is not None:
            self._view.close()


class _OldCold(NothingCold):
    """What has left memory in one shard of version 1, whose rows have ids for keys."""

    def __init__(self, view: View, shard: int) -> None:
        self._view = view
        self._shard = shard
        self._decoder = rows.RowDecoder()

    def promise(self, promise_id: str) -> Promise | None:
        key = rows.id_key(self._shard, promise_id)
        value = self._view.get(rows.PROMISES, key)
        return None if value is None else self._decoder.promise(rows.PROMISES, key, value)

    def task(self, task_id: str) -> Task | None:
        key = rows.id_key(self._shard, task_id)
        value = self._view.get(rows.TASKS, key)
        return None if value is None else self._decoder.task(rows.TASKS, key, value)


class _OldGroup:
    """One group of shards, with the log and the store of its own: all there is, in version 1."""

    def __init__(
        self, path: Path, version: int, identity: Identity, group: int, decoder: rows.RowDecoder
    ) -> None:
        """Open the store and read its headers. Raises a DataDirectoryError."""
        names = ("log", "checkpoints")
        if version != 1:
            names = (log_name(group), checkpoints_name(group))
        self.shards = identity.shards_of(group)
        self.log_path = str(path / names[0])
        self._version = version
        self._store = OldStore(path / names[1])
        try:
            self.view = self._store.view()
            self._check_store(identity.data_id)
            self.headers = loading.read_headers(self.view, decoder, self.shards)
        except BaseException:
            self.close()
            raise

    def _check_store(self, data_id: bytes) -> None:
        """Raise CheckpointDamaged if the store is of a format that does not belong here."""
        version = self.view.get(rows.META, b"format")
        if version is None:
            return  # there was no checkpoint yet
        if self._version != 1:
            rows.check_format(version)
        elif version not in _OLD_ROW_FORMATS:
            raise CheckpointDamaged(rows.META, f"format {version!r} is unknown")
        if self.view.get(rows.META, b"data id") != data_id:
            raise CheckpointDamaged(rows.META, "it belongs to another data directory")

    def batches(self, data_id: bytes) -> Iterator[tuple[int, LogRecord]]:
        """Yield the records beyond the checkpoint; raises LogDamaged, also at the end."""
        files = RealFiles()
        position = min((header.position for header in self.headers.values()), default=0)
        from_sequence = position + 1
        segments = list_segments(files, self.log_path)
        first = segments[0].first_sequence if segments else from_sequence
        if first > from_sequence:
            raise LogDamaged(self.log_path, 0, f"it begins with record {first}, too late")
        scan = LogScan(files, self.log_path, data_id, segments)
        for first_sequence, batch in scan.batches():
            for sequence, record in enumerate(batch, first_sequence):
                if record.shard not in self.shards:
                    problem = f"record {sequence} is of shard {record.shard}, of another group"
                    raise LogDamaged(self.log_path, 0, problem)
                yield sequence, record
        if scan.end().next_sequence < from_sequence:
            raise LogDamaged(self.log_path, 0, "it ends before what the checkpoints have reached")

    def close(self) -> None:
        """Release the store."""
        self._store.close()


@final
class OldData:
    """All that a directory holds: `states` has what is in memory, the rest is read on the way."""

    def __init__(self, path: Path, now_ms: int) -> None:
        """Read it; the directory is locked by the caller. Raises a DataDirectoryError."""
        self.version, self.identity = identity = read_identity(path)
        self._decoder = rows.RowDecoder()
        self._groups: list[_OldGroup] = []
        try:
            for number in range(self.identity.groups_count):
                self._groups.append(_OldGroup(path, *identity, number, self._decoder))
            count = self.identity.shard_count
            self._shard_of = by_rule(self.identity.placement, count)
            self._machines = [
                Machine(index, self._shard_of, self._next_serial, neighbor=self._machine_of)
                for index in range(count)
            ]
            self.states = [machine.state for machine in self._machines]
            self._sequences = [0] * count
            for group in self._groups:
                self._load(group)
            self.records_count = sum(map(self._replay, self._groups))
            self._serial = max(state.largest_serial for state in self.states)
            self._settle(now_ms)
        except BaseException:
            self.close()
            raise

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _machine_of(self, identifier: str) -> Machine:
        return self._machines[self._shard_of(identifier)]

    def _load(self, group: _OldGroup) -> None:
        reader = ColdReader(group.view, StoredIds(is_empty=False), group.shards)
        for index in group.shards:
            state = self.states[index]
            state.cold = _OldCold(group.view, index) if self.version == 1 else reader.shards[index]
            state.tracks_changes = True
            header = group.headers.get(index)
            if header is None:
                continue
            counts = header.counts or Counts.zero()  # all is counted again when it is dealt
            loaded = loading.load(group.view, self._decoder, header, counts)
            if self.version == 1:  # it had them in the order of their ids
                loaded.promises = iter(sorted(loaded.promises, key=attrgetter("serial")))
                loaded.tasks = iter(sorted(loaded.tasks, key=attrgetter("sequence")))
            loading.bring_up(state, loaded)
            self._sequences[index] = header.sequence

    def _replay(self, group: _OldGroup) -> int:
        """Apply what a log has beyond its group's checkpoint; how many records."""
        count = 0
        for sequence, (shard, shard_sequence, body) in group.batches(self.identity.data_id):
            if shard_sequence <= self._sequences[shard]:
                continue  # the checkpoint covers it
            try:
                record = records.decode(body)
            except UNREADABLE_JSON as error:
                raise UnknownRecord(sequence, str(error)) from error
            apply.replay(self.states[shard], record)
            self._sequences[shard] = shard_sequence
            count += 1
        return count

    def _settle(self, now_ms: int) -> None:
        """Apply what shards have sent one another, until nothing is under way."""
        while any(len(state.outbox) for state in self.states):
            for source in self._machines:
                index = source.state.index
                for target, sequence, message in list(source.state.outbox):
                    self._machines[target].step(Receive(index, sequence, message), now_ms)
                    source.step(Acknowledge(target, sequence), now_ms)

    def cold_promises(self) -> Iterator[Promise]:
        """Yield the completed promises that no state has in memory."""
        for group in self._groups:
            for key, value in group.view.scan(rows.PROMISES, b"", _KEY_END):
                promise = self._decoder.promise(rows.PROMISES, key, value)
                state = self.states[self._shard_of(promise.id)]
                if promise.id not in state.promises and promise.id not in state.hidden_promises:
                    yield promise

    def tasks(self) -> Iterator[Task]:
        """Yield all tasks: those of one shard in the order in which it has counted them.

        Version 1 has finished ones in the order of their ids; they come first.
        """
        hot = [
            (state.index, task.sequence, task)
            for state in self.states
            for task in state.tasks.values()
        ]
        hot.sort(key=_PLACE)
        if self.version == 1:
            yield from self._cold_tasks()
            yield from (task for _, _, task in hot)
            return
        cold = (
            (self._shard_of(task_ids.home(task.id)), task.sequence, task)
            for task in self._cold_tasks()
        )
        for _, _, task in heapq.merge(cold, hot, key=_PLACE):
            yield task

    def _cold_tasks(self) -> Iterator[Task]:
        """Yield the finished tasks that no state has in memory."""
        for group in self._groups:
            for key, value in group.view.scan(rows.TASKS, b"", _KEY_END):
                task = self._decoder.task(rows.TASKS, key, value)
                state = self.states[self._shard_of(task.root_id)]
                if task.id not in state.tasks and task.id not in state.hidden_tasks:
                    yield task

    def hot(self) -> Iterator[tuple[ShardState, Capture]]:
        """Yield each shard's state with the rows of all that it has in memory."""
        for state in self.states:
            state.changes = checkpointing.everything(state)
            yield state, checkpointing.capture(state, 0, 0)

    def close(self) -> None:
        """Release the stores."""
        for group in self._groups:
            group.close()
