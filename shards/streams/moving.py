"""Moving a data directory into an engine, while nothing serves it.

First the place in the engine is taken: its streams are made, if there are none, and claimed under a
name that no node has. From then on a server that is started there is refused, until there is a
snapshot of each group. Then all of the directory is dealt out to the groups, in checkpoints next to
it, as by `troth data convert`; and these become the snapshots that nodes begin with, each of them
read back before it counts. At last the directory's `troth.json` gets another name, so that the
directory cannot be served any more.

What an interruption leaves is taken up by the next attempt: it has the same secret and shape, and
no node has written there.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from troth.persistence.building import BuildingInTheWay, Mark, marked
from troth.persistence.checkpoints.rows import TABLES
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.conversion.convert import (
    ConversionError,
    NewPlacement,
    deal_out,
    locked,
    new_identity,
)
from troth.persistence.conversion.old_data import read_identity
from troth.persistence.data_directory import checkpoints_name, make_log_directory
from troth.persistence.errors import CheckpointFailed
from troth.persistence.files import RealFiles
from troth.persistence.identity import (
    IDENTITY_NAME,
    MOVED_NAME,
    Identity,
    decode_identity,
    encode_identity,
)
from troth.persistence.streams.cluster import ClusterDescription
from troth.persistence.streams.stream import Stream, StreamKeeping, StreamRefused, StreamUnreachable
from troth.persistence.streams.stream_frames import FrameKind, decode_stream_frame
from troth.persistence.streams.stream_log import StreamLog
from troth.persistence.wal.frames import DATA_ID_BYTES

from .stream_opening import NatsOptions, clients_of, cluster_book
from .stream_snapshots import take_snapshot
from .stream_storage import MOVER
from .times import MACHINE_TIMES, asked

MARK: Final = Mark("being-moved", "a move")
MOVING_SUFFIX: Final = ".moving"

_AS_IT_WAS: Final = "The directory is as it was. Run the same command again when that is mended."


class MoveTarget(NamedTuple):
    """Where to: the URL of an engine, and for a cluster its name and the number of its groups.

    `shard_count` is the number of shards; None: what the directory has.
    """

    url: str
    cluster: str | None = None
    groups_count: int = 1
    shard_count: int | None = None
    nats: NatsOptions = NatsOptions()


class Moved(NamedTuple):
    """What was moved. `snapshots_bytes` is the size of what a new server fetches."""

    place: str
    identity: Identity
    entities_count: int
    snapshots_bytes: int


def move(
    data: Path,
    target: MoveTarget,
    *,
    now_ms: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> Moved:
    """Move the directory `data`. Raises a PersistenceError; then `data` is as it was."""
    data = Path(os.path.realpath(data))
    building = data.with_name(data.name + MOVING_SUFFIX)
    try:
        with contextlib.ExitStack() as closing:
            closing.enter_context(locked(data))
            version, old = read_identity(data)
            placement = NewPlacement(None, target.shard_count, target.groups_count)
            wanted = new_identity(version, old, placement)
            wanted = replace(wanted, data_id=random_bytes(DATA_ID_BYTES))
            identity = _taken(target, wanted)
            places = [
                closing.enter_context(_ClaimedGroup.opened(target, group, identity))
                for group in range(identity.groups_count)
            ]
            with marked(building, MARK):
                files = RealFiles()
                for group in range(identity.groups_count):
                    make_log_directory(files, str(building), group)
                entities_count = deal_out(data, building, identity, now_ms)
                # A node leads that owns group 0: it is the last that can be served.
                snapshots_bytes = sum(
                    place.fill(building, identity, now_ms) for place in reversed(places)
                )
                (data / IDENTITY_NAME).rename(data / MOVED_NAME)
                files.sync_directory(str(data))
            shutil.rmtree(building)
    except BuildingInTheWay as error:
        raise ConversionError(str(error)) from error
    except StreamUnreachable as error:
        raise StreamRefused(f"{target.cluster or 'the log'}: {error}. {_AS_IT_WAS}") from error
    except CheckpointFailed as error:
        problem = error.__cause__ or error
        raise ConversionError(f"{building} cannot be written: {problem}. {_AS_IT_WAS}") from error
    except OSError as error:
        raise ConversionError(
            f"{data} cannot be moved: {error.strerror or error}. {_AS_IT_WAS}"
        ) from error
    return Moved(places[0].name, identity, entities_count, snapshots_bytes)


def _taken(target: MoveTarget, wanted: Identity) -> Identity:
    """Make the place in the engine, unless an earlier attempt has; return whose data it is.

    Raises StreamRefused if it has other data.
    """
    if target.cluster is None:
        clients = clients_of(target.url, 0, target.nats)
        with contextlib.closing(clients.stream) as stream, contextlib.closing(clients.keeping):
            name = stream.name
            found = asked(lambda: stream.found(encode_identity(wanted)), name)
            identity = decode_identity(name, found)
    else:
        description = ClusterDescription(target.cluster, wanted)
        with contextlib.closing(cluster_book(target.url, target.nats.replicas_count)) as book:
            name = book.name
            made = asked(lambda: book.create(description), name)
        if made.name != target.cluster:
            raise StreamRefused(f"{name} has the cluster {made.name}. Nothing was changed.")
        identity = made.identity
    if identity != replace(wanted, data_id=identity.data_id):
        raise _not_empty(name)
    return identity


def _not_empty(name: str) -> StreamRefused:
    return StreamRefused(
        f"{name} has a log already. Nothing was changed. Choose an empty database, or another name "
        "at the end of the URL."
    )


class _ClaimedGroup:
    """The place of one group in the engine, claimed for the move."""

    def __init__(self, log: StreamLog, keeping: StreamKeeping, group: int, name: str) -> None:
        self._log = log
        self._keeping = keeping
        self._group = group
        self.name = name

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, target: MoveTarget, group: int, identity: Identity
    ) -> Iterator["_ClaimedGroup"]:
        """Claim a group's stream, which no node may have used; release it at the end.

        Raises a PersistenceError or StreamUnreachable.
        """
        may_make = target.cluster is None
        stream, keeping, look, _ = clients_of(target.url, group, target.nats, may_make=may_make)
        times = MACHINE_TIMES
        log = StreamLog(
            stream,
            node=MOVER,
            incarnation=secrets.randbits(64),
            boot_ms=times.boot_ms,
            now_ms=times.now_ms,
            sleep_s=times.sleep_s,
        )
        with contextlib.closing(keeping), contextlib.closing(log):
            if decode_identity(stream.name, stream.found(encode_identity(identity))) != identity:
                raise _not_empty(stream.name)
            if group == 0:
                look()
            _refuse_used(stream)
            for _ in log.take_over(_go_on):
                raise _not_empty(stream.name)
            _refuse_used(stream)  # another one could have been faster
            yield cls(log, keeping, group, stream.name)

    def fill(self, building: Path, identity: Identity, now_ms: int) -> int:
        """Make the checkpoints of the group its snapshot; return its size in bytes."""
        mark = self._log.mark_before(self._log.next_sequence)
        assert mark is not None, "it was claimed"
        store = LmdbStore(building / checkpoints_name(self._group), TABLES)
        with contextlib.closing(store):
            view = store.view()
            made = take_snapshot(
                self._keeping,
                view,
                identity,
                mark,
                epoch=self._log.epoch,
                now_ms=now_ms,
                pause=_go_on,
            )
        return made.size_bytes


def _refuse_used(stream: Stream) -> None:
    """Raise StreamRefused if there are frames that no move has written."""
    next_number = 1
    while shown := stream.read(next_number):
        for number, data in shown:
            decoded = decode_stream_frame(data)
            if number != next_number or decoded is None:
                raise _not_empty(stream.name)
            frame = decoded[0]
            is_others = frame.kind is FrameKind.OWNER and frame.payload != MOVER.encode()
            if is_others or frame.record_count or frame.kind is FrameKind.PART:
                raise _not_empty(stream.name)
            next_number += 1


def _go_on() -> None:
    pass
