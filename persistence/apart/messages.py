"""What a server and the process that writes its checkpoint say to each other.

A checkpoint is: `Begin`, answered by `Ready`; `Opening` for each shard; the rows, as `Pending`,
`Completed` and `Part`; `End`, answered by `Ready`; `Commit`, answered by `Done`. `Failed` may be
the answer at any place, and the last word. Each message is its length, 4 bytes little-endian, and
msgpack. The room for ids comes with `Begin`, as descriptors.

Promises come as they are in memory: so the server makes nothing of them, and the other process all
keys, checksums and digests.
"""

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from troth import __version__
from troth.core.catalog import Entry
from troth.core.executions import Execution, Usage
from troth.core.json_bytes import packer
from troth.core.model import Callback, Lock, Promise, Schedule, Task
from troth.core.records import ShardMessage
from troth.core.state.captures import Capture, OutboxKey, PairKey, ShardHeader
from troth.core.workflows import Await, Listener, WorkflowTask
from troth.persistence.checkpoints import rows, writing

PART_COUNT: Final = 64
"""So many rows are in one message, but for those of completed promises."""

GROUP_COUNT: Final = 128
"""So many of these are: about a tenth of a millisecond of work."""

RECEIVED_BYTES: Final = 256 * 1024
DESCRIPTORS_COUNT: Final = 2
"""The filter of ids, and one that is being made."""

RELEASE: Final = f"{__version__}, format {rows.FORMAT_VERSION}"
"""Which version of Troth this is: both must be of one, and a file may have been replaced."""

OTHER_RELEASE: Final = "OtherRelease"
"""The kind of failure of a process that is of another version than the server."""

_LENGTH: Final = struct.Struct("<I")


class Begin(Struct, frozen=True, tag=True):
    """A checkpoint begins, in the store in the directory `path`.

    `identity` is that of its file, None if there is none yet. `meta` are rows that say whose it is.
    `stored` has the largest serial in the store by shard. `rooms` are the sizes and the free places
    of what the descriptors are. Who `is_patient` takes only the processor time that nothing else
    wants, from then on.
    """

    release: str
    path: str
    identity: tuple[int, int] | None
    meta: list[tuple[bytes, bytes]]
    stored: dict[int, int]
    rooms: list[tuple[int, int]]
    is_patient: bool = False


class Opening(Struct, frozen=True, tag=True):
    """What is to be known of a shard before its rows."""

    header: ShardHeader
    deleted_promises: dict[str, int]
    deleted_tasks: dict[str, int]
    packed_names: dict[int, bytes]


class Pending(Struct, frozen=True, tag=True):
    """Some promises of a shard that are pending."""

    shard: int
    promises: dict[str, Promise | bytes]


class Completed(Struct, frozen=True, tag=True):
    """Promises that are completed, packed; each shard, with how many are its own."""

    shards: list[tuple[int, int]]
    packed: list[bytes]


class Part(Struct, frozen=True, tag=True, omit_defaults=True):
    """Some other rows of a shard: see `Capture`."""

    shard: int
    tasks: dict[str, Task | None] = {}
    callbacks: dict[str, Callback | None] = {}
    schedules: dict[str, Schedule | None] = {}
    locks: dict[str, Lock | None] = {}
    outbox: dict[OutboxKey, ShardMessage | None] = {}
    entries: dict[str, Entry | None] = {}
    executions: dict[str, Execution | None] = {}
    usage: dict[str, Usage | None] = {}
    workflows: dict[str, WorkflowTask | None] = {}
    awaits: dict[PairKey, Await | None] = {}
    listeners: dict[PairKey, Listener | None] = {}


class End(Struct, frozen=True, tag=True):
    """Those were all rows."""


class Commit(Struct, frozen=True, tag=True):
    """Commit them."""


class Ready(Struct, frozen=True, tag=True):
    """The store is open, or all rows are in what is to be committed."""


class Done(Struct, frozen=True, tag=True):
    """The commit is durable; `new_counts` says how many ids were added to each room.

    So much processor time, and so much memory at most, the process has taken since its start.
    """

    new_counts: list[int]
    processor_s: float = 0.0
    memory_bytes: int = 0


class Failed(Struct, frozen=True, tag=True):
    """Nothing was written. `kind` is the class of the error, `texts` what it is about."""

    kind: str
    texts: list[str]


Order = Begin | Opening | Pending | Completed | Part | End | Commit
Answer = Ready | Done | Failed

PART_KINDS: Final = tuple(name for name in Part.__struct_fields__ if name != "shard")

_pack: Final = packer()
order_decoder: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
answer_decoder: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def encode(message: Order | Answer) -> bytes:
    """Return a message as it is sent."""
    content = _pack(message)
    return _LENGTH.pack(len(content)) + content


def orders(captures: Sequence[Capture], pause: Callable[[], None]) -> Iterator[Order]:
    """Yield what says all rows of these captures, but for the first word and the last.

    `pause` is called after each small piece of work.
    """
    for capture in captures:
        yield Opening(
            capture.header,
            capture.deleted_promises,
            capture.deleted_tasks,
            capture.packed_names,
        )
        pause()
    completed = []
    for capture in captures:
        pending, found = writing.divided(capture, pause)
        completed.append((capture.header.shard, found))
        live = iter(pending.items())
        while some := dict(islice(live, PART_COUNT)):
            yield Pending(capture.header.shard, some)
            pause()
    for group in writing.in_step(completed, GROUP_COUNT):
        packed = [one for _, some_packed in group for one in some_packed]
        yield Completed(writing.counts_of(group), packed)
        pause()
    for capture in captures:
        for kind in PART_KINDS:
            others: Iterator[tuple[Any, Any]] = iter(getattr(capture, kind).items())
            while some_others := dict(islice(others, PART_COUNT)):
                yield Part(capture.header.shard, **{kind: some_others})
                pause()


class Received:
    """What comes from the other side, with the descriptors that have come by then."""

    def __init__(self, connection: socket.socket) -> None:
        """Begin; nothing is read yet."""
        self._connection = connection
        self._buffer = bytearray()
        self.descriptors: list[int] = []

    def next(self) -> bytes | None:
        """Return the next message, or None at the end of all. Blocks. Raises OSError."""
        while True:
            if len(self._buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer)
                end = _LENGTH.size + length
                if len(self._buffer) >= end:
                    message = bytes(memoryview(self._buffer)[_LENGTH.size : end])
                    del self._buffer[:end]
                    return message
            received, descriptors, _, _ = socket.recv_fds(
                self._connection, RECEIVED_BYTES, DESCRIPTORS_COUNT
            )
            self.descriptors += descriptors
            if not received:
                return None
            self._buffer += received
