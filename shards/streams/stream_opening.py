"""Opening the storage of a server whose log is in an engine that a URL names.

Clients of engines are extras: what they need is imported here, and only when it is used.
"""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from troth.core.limits import (
    CLUSTER_ALONE_MS,
    CLUSTER_LIVING_MS,
    CLUSTER_NAME_TAKEN_MS,
    SHARDS_DEFAULT_COUNT,
)
from troth.persistence.data_directory import SECRET_BYTES
from troth.persistence.identity import Identity
from troth.persistence.placement import dealt_shards
from troth.persistence.streams.cluster import ClusterBook, ClusterDescription, MemberSeen
from troth.persistence.streams.features import refuse_later
from troth.persistence.streams.sharing import ClaimTurn
from troth.persistence.streams.stream import Stream, StreamKeeping, StreamRefused
from troth.persistence.wal.frames import DATA_ID_BYTES
from troth.shards.storage import GroupPlace

from .stream_group import StreamGroup
from .stream_storage import StreamStorage
from .times import MACHINE_TIMES, Times, asked

log = structlog.get_logger("troth.shards.streams")

POSTGRES_SCHEME: Final = "postgresql://"
_POSTGRES: Final = ("PostgreSQL", "postgres")
_NATS: Final = ("NATS", "nats")
_LOOK_AGAIN_S: Final = 0.5


class NatsOptions(NamedTuple):
    """What is to be known of a log in NATS besides its URL; see the settings of these names."""

    replicas_count: int | None = None
    monitor: str | None = None
    unsafe_fsync: bool = False


def open_stream(
    url: str,
    directory: Path,
    shard_count: int | None,
    node: str | None,
    nats: NatsOptions = NatsOptions(),  # noqa: B008 - it never changes
) -> StreamStorage:
    """Open the storage whose log is where a URL says, as `StreamStorage`.

    Without a name, the node has that of its machine and directory.
    """
    clients = clients_of(url, 0, nats)
    node = node_name(node, directory)
    storage = StreamStorage(clients.stream, clients.keeping, directory, shard_count, node=node)
    return _looked_at(storage, clients)


def open_group(
    url: str,
    name: str,
    place: GroupPlace,
    node: str | None,
    nats: NatsOptions = NatsOptions(),  # noqa: B008 - it never changes
    *,
    incarnation: int,
    may_claim: Callable[[], bool],
    ended: Callable[[], frozenset[int]],
    is_early: Callable[[], bool],
    is_shared: bool = False,
) -> StreamStorage:
    """Open the storage of one group of a cluster, for one of several processes. Raises as above.

    `is_shared`: nodes share the groups, so this one claims when it is its turn.
    """
    cluster = cluster_at(url, name)
    clients = clients_of(url, place.group, nats, may_make=False)
    directory = Path(place.path)
    turn = ClaimTurn(MACHINE_TIMES.boot_ms) if is_shared else None
    may_claim = may_claim if turn is None else turn.may_claim
    group = StreamGroup(
        place, cluster.identity, incarnation, may_claim, ended, cluster.features, turn, is_early
    )
    node = node_name(node, directory)
    storage = StreamStorage(clients.stream, clients.keeping, directory, node=node, group=group)
    return _looked_at(storage, clients)


def _looked_at(storage: StreamStorage, clients: "Clients") -> StreamStorage:
    """Return a storage whose engine was looked at. Raises StreamRefused."""
    try:
        storage.is_fsync_unsafe = clients.look()
        storage.gathers = clients.gathers
    except BaseException:
        storage.close()
        raise
    return storage


def node_name(node: str | None, directory: Path) -> str:
    """Return the name of a node, which by default is that of its machine and directory."""
    return node or home_of(directory)


def home_of(directory: Path) -> str:
    """Return the name of a machine and a directory, in which there is one server at a time."""
    return f"{socket.gethostname()}:{directory.resolve()}"


def refuse_taken_name(
    book: ClusterBook, node: str, directory: Path, times: Times = MACHINE_TIMES
) -> None:
    """Raise StreamRefused if a server of another home has a node's name, and is there.

    One that was there a moment ago may have ended: it is waited for until it says once more that
    it is there, or has not for longer than it would take. Waits for the engine, too.
    """
    home = home_of(directory)

    def found() -> MemberSeen | None:
        noted = (one for one in book.members() if one.node == node)
        return next((one for one in noted if one.home not in (None, home)), None)

    last = asked(found, book.name, times=times)
    while last is not None and last.seen_ms < CLUSTER_NAME_TAKEN_MS:
        times.sleep_s(_LOOK_AGAIN_S)
        shown = asked(found, book.name, times=times)
        if shown is not None and shown.seen_ms < last.seen_ms:
            raise StreamRefused(
                f"{book.name} has a server named {node} already, at {shown.address} "
                f"({shown.home}). Nothing was changed. Give each server a name of its own with "
                "--node."
            )
        last = shown


def cluster_at(url: str, name: str) -> ClusterDescription:
    """Return what a cluster is, waiting for the engine if need be.

    Raises StreamRefused if it is not there, or is another one, or one of later versions.
    """
    book = cluster_book(url)
    try:
        found = asked(book.description, book.name)
    finally:
        book.close()
    if found is None:
        raise StreamRefused(
            f"{book.name} has no cluster. Check the URL, or make it first: troth cluster create "
            f"{name} --log URL"
        )
    if found.name != name:
        raise StreamRefused(f"{book.name} has the cluster {found.name}, not {name}.")
    refuse_later(book.name, found.features)
    return found


def refuse_unlike(book: ClusterBook, node: str, *, is_shared: bool) -> None:
    """Raise StreamRefused if other nodes that are there share groups, and this does not, or vice
    versa: then one of both would take all groups from the others.
    """
    for one in asked(book.members, book.name):
        limit_ms = CLUSTER_LIVING_MS if one.mesh else CLUSTER_ALONE_MS
        if one.node != node and one.seen_ms <= limit_ms and (one.mesh is not None) != is_shared:
            how = "shares the groups of the cluster" if one.mesh else "serves without --mesh-listen"
            raise StreamRefused(
                f"{book.name}: the server {one.node} {how}. All servers of a cluster have "
                "--mesh-listen, or none has: stop all that are otherwise, and wait for "
                f"{CLUSTER_ALONE_MS // 1000} s."
            )


def new_cluster(
    name: str, groups_count: int, shard_count: int | None, *, now_ms: int
) -> ClusterDescription:
    """Return a cluster that is to be made. Raises ValueError if a group would have no shard."""
    shards_count = shard_count or max(SHARDS_DEFAULT_COUNT, groups_count)
    identity = Identity(
        secrets.token_bytes(DATA_ID_BYTES),
        dealt_shards(shards_count, groups_count),
        now_ms,
        secrets.token_bytes(SECRET_BYTES),
    )
    return ClusterDescription(name, identity)


def cluster_book(url: str, replicas_count: int | None = None) -> ClusterBook:
    """Return what is kept of a cluster in an engine. Raises StreamRefused; connects to nothing.

    `replicas_count` is for a new cluster in NATS.
    """
    if url.startswith(POSTGRES_SCHEME):
        try:
            from troth.persistence.streams.postgres_cluster import PostgresCluster
        except ImportError as error:
            raise _not_installed(*_POSTGRES) from error
        return PostgresCluster(url)
    try:
        from troth.persistence.streams.jetstream_cluster import JetStreamCluster
    except ImportError as error:
        raise _not_installed(*_NATS) from error
    return JetStreamCluster(url, replicas_count=replicas_count)


class Clients(NamedTuple):
    """What a group's stream is reached through.

    `look` warns of what is less safe than it could be; call it once it was connected. It returns
    whether a power cut can lose what is acknowledged, and may raise StreamRefused.
    """

    stream: Stream
    keeping: StreamKeeping
    look: Callable[[], bool]
    gathers: bool = False
    """Whether appends cost the engine so much that it is better to wait for more records."""


def clients_of(url: str, group: int, nats: NatsOptions, *, may_make: bool = True) -> Clients:
    """Return the clients for a group's stream. Raises StreamRefused."""
    if url.startswith(POSTGRES_SCHEME):
        return _postgres_clients(url, group)
    try:
        from .nats_opening import nats_clients
    except ImportError as error:
        raise _not_installed(*_NATS) from error
    return Clients(*nats_clients(url, group, *nats, may_make=may_make), gathers=True)


def _postgres_clients(url: str, group: int) -> Clients:
    try:
        from troth.persistence.streams.postgres_keeping import PostgresKeeping
        from troth.persistence.streams.postgres_stream import PostgresStream
    except ImportError as error:
        raise _not_installed(*_POSTGRES) from error
    stream = PostgresStream(url, group)

    def look() -> bool:
        if group == 0 and not stream.has_standby:  # once a node
            log.warning(
                "the database has no synchronous standby: what is acknowledged is on one machine",
                database=stream.name,
            )
        return False

    return Clients(stream, PostgresKeeping(url, group), look)


def _not_installed(engine: str, extra: str) -> StreamRefused:
    return StreamRefused(
        f"{engine}'s client is not installed. Install it: pip install 'troth[{extra}]'."
    )
