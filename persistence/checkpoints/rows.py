"""How entities are laid out in the checkpoint store: tables, keys, values; see README.md.

There are many promises and tasks. They are stored by numbers that grow, so that new rows come
behind all others and few pages change. Small tables say which number an id has. A value carries a
CRC32C of table, key and content, so that a corrupt row, or one found under another's key, is
noticed when it is read.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import google_crc32c
import msgspec
from msgspec import Struct

from troth.core import records
from troth.core.catalog import Entry
from troth.core.executions import Execution, Usage
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.model import Callback, Lock, Promise, PromiseState, Schedule, Task
from troth.core.records import ShardMessage
from troth.core.state.captures import ShardHeader
from troth.core.tables import folding
from troth.core.tables.folding import FoldedRow
from troth.core.workflows import Await, Listener, WorkflowTask
from troth.persistence.errors import CheckpointDamaged

FORMAT_VERSION: Final = 5
"""The format of rows. 1 to 3 were those of data directories of version 1."""

FORMATS_READ: Final = (4, 5)
"""In format 4 the row of each live promise is JSON. Some still are."""

FORMATS_TEXT: Final = " and ".join(map(str, FORMATS_READ))

META = "meta"
HEADERS = "headers"
LIVE_PROMISES = "live_promises"
PROMISES = "promises"
PROMISE_IDS = "promise_ids"
LIVE_TASKS = "live_tasks"
TASKS = "tasks"
TASK_IDS = "task_ids"
CALLBACKS = "callbacks"
SCHEDULES = "schedules"
LOCKS = "locks"
OUTBOX = "outbox"
ENTRIES = "entries"
EXECUTIONS = "executions"
USAGE = "usage"
WORKFLOWS = "workflows"
AWAITS = "awaits"
LISTENERS = "listeners"
BY_SERIAL = "promises_by_serial"
BY_STATE = "promises_by_state"
BY_TAG = "promises_by_tag"
BY_END = "promises_by_end"

TABLES: Final = (
    META,
    HEADERS,
    LIVE_PROMISES,
    PROMISES,
    LIVE_TASKS,
    TASKS,
    CALLBACKS,
    SCHEDULES,
    LOCKS,
    OUTBOX,
    ENTRIES,
    EXECUTIONS,
    USAGE,
    BY_SERIAL,
    BY_STATE,
    BY_TAG,
    BY_END,
    WORKFLOWS,
    AWAITS,
    LISTENERS,
    PROMISE_IDS,
    TASK_IDS,
)

SEALED: Final = frozenset(
    {
        *(HEADERS, LIVE_PROMISES, PROMISES, LIVE_TASKS, TASKS, CALLBACKS, SCHEDULES, LOCKS),
        *(OUTBOX, ENTRIES, EXECUTIONS, USAGE, WORKFLOWS, AWAITS, LISTENERS),
    }
)
"""Tables whose values carry a checksum; the others are indexes."""

INDEXES: Final = (BY_SERIAL, BY_STATE, BY_TAG, BY_END)
"""The tables that say the ids of completed promises in other orders."""

# What the checksums of a table's rows begin with.
_CHECKSUM_OF_NAME: Final = {table: google_crc32c.value(table.encode() + b"\0") for table in TABLES}

_ID_BYTES_MAX: Final = 480

ID_HEAD_BYTES: Final = 440
"""So much of an id is in its key as it is, whatever its length."""

_STATE_BYTE: Final = {
    PromiseState.RESOLVED: b"\x01",
    PromiseState.REJECTED: b"\x02",
    PromiseState.REJECTED_CANCELED: b"\x03",
    PromiseState.REJECTED_TIMEDOUT: b"\x04",
}

Entity = TypeVar("Entity")


def shard_key(shard: int) -> bytes:
    """Return the prefix of all keys of a shard."""
    return shard.to_bytes(2, "big")


def number_key(shard: int, number: int) -> bytes:
    """Return the key of a live promise by its serial, or of a task by its sequence."""
    return shard.to_bytes(2, "big") + number.to_bytes(8, "big")


def number_of(value: bytes) -> int:
    """Return the number at the end of a key, or in the value of an id."""
    return int.from_bytes(value[-8:], "big")


def id_key(shard: int, identifier: str) -> bytes:
    """Return the key of an id, or of an entity that is stored by its id.

    Ids too long for a key keep their beginning, so that ranges by prefix work, and end in a hash.
    """
    text = identifier.encode()
    if len(text) > _ID_BYTES_MAX:
        digest = hashlib.blake2b(text, digest_size=32).digest()
        text = text[:ID_HEAD_BYTES] + b"\xff" + digest
    return shard.to_bytes(2, "big") + text


def id_head(key: bytes) -> bytes:
    """Return the beginning of the id in an entity's key: as much as keys of all ids have."""
    return key[2 : 2 + ID_HEAD_BYTES]


def prefix_range(shard: int, prefix: str) -> tuple[bytes, bytes]:
    """Return the range of keys of ids with a prefix; it may hold a few others."""
    start = shard_key(shard) + prefix.encode()[:ID_HEAD_BYTES]
    return start, after(start)


def after(prefix: bytes) -> bytes:
    """Return the smallest key after all with this prefix."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\xff" * 512


def number_bytes(number: int) -> bytes:
    """Return a serial or a sequence as a key of PROMISES, the end of one, or an id's value."""
    return number.to_bytes(8, "big")


def state_prefix(shard: int, state: PromiseState) -> bytes:
    """Return what the keys of BY_STATE begin with for one state."""
    return shard_key(shard) + _STATE_BYTE[state]


@functools.cache
def state_prefixes(shard: int) -> dict[PromiseState, bytes]:
    """Return all of them, by state."""
    return {state: state_prefix(shard, state) for state in _STATE_BYTE}


def tag_prefix(shard: int, key: str, value: str) -> bytes:
    """Return what the keys of BY_TAG begin with for one tag.

    Different tags may share it, rarely.
    """
    text = key.encode() + b"\0" + value.encode()
    return shard_key(shard) + hashlib.blake2b(text, digest_size=8).digest()


def end_key(shard: int, state: PromiseState, place: tuple[int, int]) -> bytes:
    """Return the key in BY_END of a promise at a place in the order of ends, or just after."""
    ended_on, serial = place
    # Nothing ended before 1970; such a place is the beginning.
    number = (ended_on << 64) + serial if ended_on >= 0 else 0
    return state_prefix(shard, state) + number.to_bytes(16, "big")


def end_bytes(ended_on: int, serial: bytes) -> bytes:
    """Return the end of such a key, after the state, by the bytes of a serial."""
    return ended_on.to_bytes(8, "big") + serial if ended_on >= 0 else bytes(16)


def end_place(key: bytes) -> tuple[int, int]:
    """Return when the promise of a key in BY_END ended, and its serial."""
    return int.from_bytes(key[-16:-8], "big"), int.from_bytes(key[-8:], "big")


def check_format(version: bytes) -> None:
    """Raise CheckpointDamaged unless this release reads stores that say to have this format."""
    if version not in [b"%d" % one for one in FORMATS_READ]:
        raise CheckpointDamaged(
            META, f"format {version!r} is unknown; this version of Troth knows {FORMATS_TEXT}"
        )


def index_keys(shard: int, promise: Promise) -> Iterator[tuple[str, bytes]]:
    """Yield the index entries that a completed promise may have."""
    serial = number_bytes(promise.serial)
    of_state = state_prefix(shard, promise.state)
    yield BY_SERIAL, shard_key(shard) + serial
    yield BY_STATE, of_state + serial
    yield BY_END, of_state + end_bytes(promise.ended_on, serial)
    for key, value in (promise.tags or {}).items():
        yield BY_TAG, tag_prefix(shard, key, value) + serial


def outbox_key(shard: int, target: int, sequence: int) -> bytes:
    """Return the key of an outbox message."""
    return shard_key(shard) + target.to_bytes(2, "big") + sequence.to_bytes(8, "big")


def outbox_place(key: bytes) -> tuple[int, int]:
    """Return the target and sequence in an outbox key."""
    return int.from_bytes(key[2:4], "big"), int.from_bytes(key[4:12], "big")


def pair_key(shard: int, awaited: str, waiter: str) -> bytes:
    """Return the key of a pair: a promise, and who waits for it.

    Different pairs have different keys.
    """
    return id_key(shard, f"{len(awaited)}:{awaited}{waiter}")


def seal(table: str, key: bytes, content: bytes) -> bytes:
    """Return a value with its checksum."""
    return _checksum(table, key, content) + content


def encode(table: str, key: bytes, entity: object) -> bytes:
    """Return an entity as a value."""
    return seal(table, key, records.encode(entity))


def seal_all(table: str, contents: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the values of keys with their contents: as `seal`, but many."""
    extend, first = google_crc32c.extend, _CHECKSUM_OF_NAME[table]
    return [
        extend(first, key + b"\0" + content).to_bytes(4, "little") + content
        for key, content in contents
    ]


def folded_promise(
    key: bytes, promise_id: str, folded: bytes, packed_names: Mapping[int, bytes]
) -> bytes:
    """Return the value of a live promise that is folded."""
    return seal(LIVE_PROMISES, key, folding.row_of(promise_id, folded, packed_names))


def unseal(table: str, key: bytes, value: bytes) -> bytes:
    """Return a value's content. Raises CheckpointDamaged if it is not what was written."""
    content = value[4:]
    if value[:4] != _checksum(table, key, content):
        raise _differs(table)
    return content


def _differs(table: str) -> CheckpointDamaged:
    return CheckpointDamaged(table, "a row differs from what was written")


def unreadable(table: str, error: Exception) -> CheckpointDamaged:
    """Return the error for a row that is as it was written, and yet nothing that can be read."""
    return CheckpointDamaged(table, f"a row cannot be read ({error})")


def _checksum(table: str, key: bytes, content: bytes) -> bytes:
    value: int = google_crc32c.extend(_CHECKSUM_OF_NAME[table], key + b"\0" + content)
    return value.to_bytes(4, "little")


def _contents(table: str, found: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and contents of rows: for half a million at a start, so each call counts."""
    extend, first, number = google_crc32c.extend, _CHECKSUM_OF_NAME[table], int.from_bytes
    for key, value in found:
        content = value[4:]
        if extend(first, key + b"\0" + content) != number(value[:4], "little"):
            raise _differs(table)
        yield key, content


class PromiseHead(Struct, frozen=True, array_like=True):
    """The beginning of a promise's row: enough to sort and sift by."""

    id: str
    serial: int
    state: PromiseState


class RowDecoder:
    """Decoders of all kinds of rows. Raise CheckpointDamaged."""

    def __init__(self) -> None:
        self._promise = msgspec.json.Decoder(Promise)
        self._head = msgspec.json.Decoder(PromiseHead)
        self._task = msgspec.json.Decoder(Task)
        self._callback = msgspec.json.Decoder(Callback)
        self._schedule = msgspec.json.Decoder(Schedule)
        self._lock = msgspec.json.Decoder(Lock)
        self._message: msgspec.json.Decoder[ShardMessage] = msgspec.json.Decoder(ShardMessage)
        self._header = msgspec.json.Decoder(ShardHeader)
        self._entry: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
        self._execution = msgspec.json.Decoder(Execution)
        self._usage = msgspec.json.Decoder(Usage)
        self._workflow = msgspec.json.Decoder(WorkflowTask)
        self._await = msgspec.json.Decoder(Await)
        self._listener = msgspec.json.Decoder(Listener)

    def _decode(
        self, decoder: "msgspec.json.Decoder[Entity]", table: str, key: bytes, value: bytes
    ) -> Entity:
        content = unseal(table, key, value)
        try:
            return decoder.decode(content)
        except UNREADABLE_JSON as error:
            raise unreadable(table, error) from error

    def promise(self, table: str, key: bytes, value: bytes) -> Promise:
        return self._decode(self._promise, table, key, value)

    def promises(self, found: Iterable[tuple[bytes, bytes]]) -> Iterator[Promise | FoldedRow]:
        """Yield the live promises of rows: those that are folded as they are."""
        decode, mark = self._promise.decode, folding.ROW_MARK
        for key, content in _contents(LIVE_PROMISES, found):
            if content and content[0] == mark:
                yield key[2:], content
                continue
            try:
                promise = decode(content)
            except UNREADABLE_JSON as error:
                raise unreadable(LIVE_PROMISES, error) from error
            yield promise

    def tasks(self, found: Iterable[tuple[bytes, bytes]]) -> Iterator[Task]:
        """Yield the live tasks of rows."""
        decode = self._task.decode
        for _, content in _contents(LIVE_TASKS, found):
            try:
                task = decode(content)
            except UNREADABLE_JSON as error:
                raise unreadable(LIVE_TASKS, error) from error
            yield task

    def promise_head(self, key: bytes, value: bytes) -> PromiseHead:
        return self._decode(self._head, PROMISES, key, value)

    def task(self, table: str, key: bytes, value: bytes) -> Task:
        return self._decode(self._task, table, key, value)

    def callback(self, key: bytes, value: bytes) -> Callback:
        return self._decode(self._callback, CALLBACKS, key, value)

    def schedule(self, key: bytes, value: bytes) -> Schedule:
        return self._decode(self._schedule, SCHEDULES, key, value)

    def lock(self, key: bytes, value: bytes) -> Lock:
        return self._decode(self._lock, LOCKS, key, value)

    def message(self, key: bytes, value: bytes) -> ShardMessage:
        return self._decode(self._message, OUTBOX, key, value)

    def entry(self, key: bytes, value: bytes) -> Entry:
        return self._decode(self._entry, ENTRIES, key, value)

    def execution(self, key: bytes, value: bytes) -> Execution:
        return self._decode(self._execution, EXECUTIONS, key, value)

    def usage(self, key: bytes, value: bytes) -> Usage:
        return self._decode(self._usage, USAGE, key, value)

    def workflow(self, key: bytes, value: bytes) -> WorkflowTask:
        return self._decode(self._workflow, WORKFLOWS, key, value)

    def awaiting(self, key: bytes, value: bytes) -> Await:
        return self._decode(self._await, AWAITS, key, value)

    def listener(self, key: bytes, value: bytes) -> Listener:
        return self._decode(self._listener, LISTENERS, key, value)

    def header(self, key: bytes, value: bytes) -> ShardHeader:
        return self._decode(self._header, HEADERS, key, value)
