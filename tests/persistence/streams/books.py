"""Where tests keep what is known of a cluster: in PostgreSQL, and in NATS JetStream."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from tests.helpers.postgres import PostgresServer
from troth.persistence.streams.cluster import ClusterBook, ClusterDescription
from troth.persistence.streams.jetstream_cluster import JetStreamCluster
from troth.shards.streams.stream_opening import new_cluster

from .engines import RealEngine

names: Final = count()


@dataclass
class Place:
    """Where there is no cluster yet; how to reach what is kept of one, and its groups.

    `put_back` makes it look as if a node had not been there for two hours.
    """

    book: Callable[[], ClusterBook]
    group: Callable[[int], RealEngine]
    put_back: Callable[[str], object]


def empty_database(server: PostgresServer) -> str:
    """Make a database and return its URL."""
    name = f"books{next(names)}"
    server.query(f"CREATE DATABASE {name}")
    return server.url.replace("///postgres", f"///{name}")


def jetstream_book(url: str) -> JetStreamCluster:
    """Return what is kept of a cluster in one server."""
    return JetStreamCluster(url, replicas_count=1, answer_limit_ms=10_000)


def new_of(name: str = "orders", groups_count: int = 3) -> ClusterDescription:
    """Return a cluster that is to be made."""
    return new_cluster(name, groups_count, 8, now_ms=1)
