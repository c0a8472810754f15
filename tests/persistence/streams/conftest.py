"""What tests of clusters' books have: a place in each engine, and a book there."""

import json
from collections.abc import Iterator

import pytest

from tests.helpers.nats import NatsServer
from tests.helpers.postgres import PostgresServer
from troth.persistence.streams import jetstream_cluster
from troth.persistence.streams.cluster import ClusterBook
from troth.persistence.streams.jetstream_notes import Note
from troth.persistence.streams.postgres_cluster import PostgresCluster

from .books import Place, empty_database, jetstream_book, names
from .engines import jetstream_engine, postgres_engine


@pytest.fixture(params=["postgres", "jetstream"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server_of_session")
        url = empty_database(postgres)
        past = "UPDATE troth_member SET seen = now() - interval '2 hours' WHERE node = '{}'"
        return Place(
            lambda: PostgresCluster(url),
            lambda group: postgres_engine(url, group),
            lambda node: postgres.query(past.format(node), url),
        )
    nats: NatsServer = request.getfixturevalue("nats_server_of_session")
    url = f"{nats.url}/books{next(names)}"
    return Place(
        lambda: jetstream_book(url),
        lambda group: jetstream_engine(url, group),
        lambda node: _age(request.getfixturevalue("monkeypatch"), node),
    )


def _age(monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    """Let a note of a node seem two hours old."""
    age_ms = jetstream_cluster._age_ms

    def later_ms(note: Note, now_ms: int) -> int:
        is_its = bool(json.loads(note.body).get("node") == node)
        return age_ms(note, now_ms) + 2 * 3_600_000 * is_its

    monkeypatch.setattr(jetstream_cluster, "_age_ms", later_ms)


@pytest.fixture
def book(place: Place) -> Iterator[ClusterBook]:
    book = place.book()
    yield book
    book.close()
