"""What PostgreSQL keeps of a cluster for its nodes: who is there, who owns what, who reads."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.helpers.postgres import PostgresServer, postgres_server
from troth.persistence.streams.postgres_cluster import PostgresCluster
from troth.persistence.streams.postgres_keeping import PostgresKeeping
from troth.shards.streams.stream_opening import new_cluster


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_nodes_find_one_another_by_what_is_kept(postgres: PostgresServer) -> None:
    with contextlib.closing(PostgresCluster(postgres.url)) as book:
        book.create(new_cluster("orders", 3, None, now_ms=1))
        assert (book.members(), book.holders(), book.readers()) == ([], [], {})
        book.note_member("b", "http://b:8001", "1", "b:8003")
        book.note_member("a", "http://a:8001", "1")
        assert [(one.node, one.mesh) for one in book.members()] == [("a", None), ("b", "b:8003")]
        book.note_member("b", "http://b:8001", "2")
        assert [(one.version, one.mesh) for one in book.members()][1] == ("2", None)

        for node, epoch in (("a", 3), ("b", 2), ("c", 4)):  # what comes late counts for nothing
            book.note_owner(2, node, epoch, 7)
        book.note_owner(0, "a", 1, 8)
        assert [one[:3] for one in book.holders()] == [(0, "a", 1), (2, "c", 4)]
        assert all(0 <= one.since_ms < 60_000 for one in book.holders())

        with contextlib.closing(PostgresKeeping(postgres.url, 1)) as keeping:
            for node, number in (("a", 5), ("b", 6), ("a", 7)):
                keeping.note_reader(node, number)
        ((group, readers),) = book.readers().items()
        assert (group, [one[:2] for one in readers]) == (1, [("a", 7), ("b", 6)])
        assert book.groups()[1].readers[0].number == 7
