"""What operators wish of a cluster's nodes: `troth cluster move`, `drain`, and what is refused."""

import contextlib
import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.helpers.postgres import PostgresServer
from troth.cli import command
from troth.persistence.streams.postgres_cluster import PostgresCluster
from troth.persistence.streams.sharing import Wishes

pytestmark = pytest.mark.slow
Cluster = Callable[..., str]
_databases = count()


@pytest.fixture
def url(postgres_server_of_session: PostgresServer) -> str:
    """Return where a new, empty database is."""
    name = f"placing{next(_databases)}"
    postgres_server_of_session.query(f"CREATE DATABASE {name}")
    return postgres_server_of_session.url.replace("///postgres", f"///{name}")


@pytest.fixture(name="cluster")
def _cluster(url: str, capsys: pytest.CaptureFixture[str]) -> Cluster:
    """Return what runs `troth cluster` commands, with a cluster that was made."""

    def run(*words: str, status: int = 0) -> str:
        assert command.run(["cluster", *words, "--log", url]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    run("create", "orders", "--groups", "3")
    return run


@pytest.fixture
def book(cluster: Cluster, url: str) -> Iterator[PostgresCluster]:
    """Return what the database keeps of the cluster, whose nodes a, b and c share groups."""
    assert cluster("status", "orders")
    with contextlib.closing(PostgresCluster(url)) as book:
        for node in "abc":
            book.note_member(node, f"http://{node}:8001", "1", f"{node}:8003")
        yield book


def test_a_group_is_moved_until_that_is_ended(cluster: Cluster, book: PostgresCluster) -> None:
    assert "orders: group 2 goes to b" in cluster("move", "orders", "2", "b")
    assert "orders: group 0 goes to c" in cluster("move", "orders", "0", "c")
    assert book.wishes() == Wishes(placed={0: "c", 2: "b"})
    assert "placed     0 at c, 2 at b" in cluster("status")
    shown = json.loads(cluster("status", "--json"))
    assert shown["placed"] == [{"group": 0, "node": "c"}, {"group": 2, "node": "b"}]
    cluster("move", "orders", "2", "a")
    cluster("move", "orders", "2", "a")
    assert "group 0 may be at any node" in cluster("move", "orders", "0", "--end")
    assert book.wishes() == Wishes(placed={2: "a"})


def test_a_node_is_drained_until_that_is_ended(cluster: Cluster, book: PostgresCluster) -> None:
    assert "drained" not in cluster("status", "orders")
    assert "orders: b gives its groups to the others" in cluster("drain", "orders", "b")
    assert book.wishes() == Wishes(frozenset("b"))
    assert "drained    b" in cluster("status")
    assert json.loads(cluster("status", "--json"))["drained"] == ["b"]
    assert "orders: b may have groups again" in cluster("drain", "orders", "b", "--end")
    assert book.wishes() == Wishes()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("move", "others", "2", "b"), "has the cluster orders, not other"),
        (("drain", "others", "b"), "has the cluster orders, not other"),
        (("move", "orders", "3", "b"), "orders has no group 3: its groups are 0 to 2."),
        (("move", "orders", "3", "--end"), "orders has no group 3: its groups are 0 to 2."),
        (("move", "orders", "2", "d"), "orders has no node d. Its nodes: a, b, c."),
        (("drain", "orders", "d"), "orders has no node d. Its nodes: a, b, c."),
        (("drain", "orders", "d", "--end"), "orders has no node d. Its nodes: a, b, c."),
        (("move", "orders", "2", "a"), "a is drained. First: troth cluster drain orders"),
        (("drain", "orders", "c"), "c is away: it was last there 2h ago."),
        (("drain", "orders", "b"), "no other node that is there would be left"),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(
    cluster: Cluster,
    book: PostgresCluster,
    url: str,
    postgres_server_of_session: PostgresServer,
    words: tuple[str, ...],
    problem: str,
) -> None:
    postgres_server_of_session.query(
        "UPDATE troth_member SET seen = now() - interval '2 hours' WHERE node = 'c'", url
    )
    cluster("drain", "orders", "a")

    said = cluster(*words, status=1)

    assert problem in said
    assert book.wishes() == Wishes(frozenset("a"))


def test_nodes_that_share_no_groups_have_none_to_move(
    cluster: Cluster, book: PostgresCluster
) -> None:
    for node in "abc":
        book.note_member(node, f"http://{node}:8001", "1")
    for words in (("move", "orders", "2", "b"), ("drain", "orders", "b")):
        assert "the nodes of orders do not share groups" in cluster(*words, status=1)
    for more in ((), ("b", "--end")):
        assert "Give the node, or --end." in cluster("move", "orders", "2", *more, status=2)
    assert book.wishes() == Wishes()


def test_of_two_operators_one_has_to_try_again(
    cluster: Cluster, book: PostgresCluster, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    members = PostgresCluster.members

    def after_another(self: PostgresCluster) -> object:
        monkeypatch.setattr(PostgresCluster, "members", members)
        assert book.wish(Wishes(), Wishes(frozenset("a")))
        return members(self)

    monkeypatch.setattr(PostgresCluster, "members", after_another)
    assert "orders is changing at the moment. Try again." in cluster(
        "drain", "orders", "b", status=1
    )
    assert book.wishes() == Wishes(frozenset("a"))
