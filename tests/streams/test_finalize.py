"""The upgrade of a cluster: what its members can read, `troth cluster finalize`, older servers."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerDiedError, ServerProcess
from troth import __version__
from troth.cli import command
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.postgres_cluster import PostgresCluster

pytestmark = pytest.mark.slow
Cluster = Callable[..., str]
_databases = count()
PATIENCE_S: Final = 180.0


@pytest.fixture
def url(postgres_server_of_session: PostgresServer) -> str:
    """Return where a new, empty database is."""
    name = f"finalize{next(_databases)}"
    postgres_server_of_session.query(f"CREATE DATABASE {name}")
    return postgres_server_of_session.url.replace("///postgres", f"///{name}")


@pytest.fixture
def cluster(url: str, capsys: pytest.CaptureFixture[str]) -> Cluster:
    """Return what runs `troth cluster` commands, with a cluster that was made."""

    def run(*words: str, status: int = 0) -> str:
        assert command.run(["cluster", *words, "--log", url]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    run("create", "orders", "--groups", "2")
    return run


@pytest.fixture
def book(url: str) -> Iterator[PostgresCluster]:
    """Return what the database keeps of the cluster."""
    book = PostgresCluster(url)
    yield book
    book.close()


def test_a_cluster_is_finalized_when_all_its_nodes_read_more(
    cluster: Cluster, book: PostgresCluster, url: str, postgres_server_of_session: PostgresServer
) -> None:
    later = FEATURES + 1
    assert "so it is not known what they can read" in cluster("finalize", "orders", status=1)
    book.note_member("a", "http://a", "9.0.0", features=later)
    book.note_member("b", "http://b", "0.1.0", features=FEATURES)

    said = cluster("finalize", "orders", status=1)

    assert f"not all nodes of orders can read features {later}. Nothing was changed" in said
    assert f"b (0.1.0, features {FEATURES})" in said
    assert not book.finalize(later), "the database does not either"
    postgres_server_of_session.query(
        "UPDATE troth_member SET seen = now() - interval '2 hours' WHERE node = 'b'", url
    )
    assert f"orders: finalized. Features {later}; servers that cannot" in cluster(
        "finalize", "orders"
    )
    assert "nothing to do" in cluster("finalize", "orders")
    assert "has the cluster orders, not other" in cluster("finalize", "other", status=1)
    shown = json.loads(cluster("status", "--json"))
    assert shown["features"] == later
    assert [(one["node"], one["features"]) for one in shown["members"]] == [
        ("a", later),
        ("b", FEATURES),
    ]
    text = cluster("status")
    assert f"features   {later}" in text
    assert "node  address   version  features  seen" in text


def test_a_server_that_is_too_old_for_its_cluster_ends_in_one_line(
    tmp_path: Path, cluster: Cluster, book: PostgresCluster, url: str
) -> None:
    """And one that is not says what it can read, also while it stands by."""
    options = ("--log", url, "--cluster", "orders", "--node")
    second = ServerProcess(tmp_path / "b", *options, "b")
    with ServerProcess(tmp_path / "a", *options, "a") as first, contextlib.ExitStack() as closing:
        closing.callback(second.__exit__, None, None, None)
        starting = threading.Thread(target=second.start)
        starting.start()
        members = _members(book, 2)
        assert first.terminate() == 0
        starting.join()
    assert members == [("a", __version__, FEATURES), ("b", __version__, FEATURES)]
    book.note_member("a", "http://a", "9.0.0", features=FEATURES + 1)
    book.note_member("b", "http://b", "9.0.0", features=FEATURES + 1)
    cluster("finalize", "orders")
    with pytest.raises(ServerDiedError) as caught:
        ServerProcess(tmp_path / "c", *options, "c").start()
    (line,) = [one for one in str(caught.value).splitlines() if "was finalized" in one]
    assert f"for a later version of Troth (features {FEATURES + 1}; this one reads" in line
    assert "Install the version that its other nodes have." in line


def _members(book: PostgresCluster, wanted_count: int) -> list[tuple[str, str, int]]:
    """Wait until so many nodes have said that they are there; return version and features."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        found = [(one.node, one.version, one.features) for one in book.members()]
        if len(found) == wanted_count:
            return found
        assert time.monotonic() < ends_s, found
        time.sleep(0.1)
