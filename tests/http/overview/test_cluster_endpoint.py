"""GET /cluster: what an engine keeps of a cluster, as the API shows it; asked for seldom."""

from tests.http.client import NOW_MS, running
from troth.core.codes import Code
from troth.http.processes.cluster_view import FRESH_S, ClusterView
from troth.persistence.streams.cluster import (
    BookSeen,
    ClusterDescription,
    GroupSeen,
    HolderSeen,
    MemberSeen,
    ReaderSeen,
)
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.streams.stream_opening import new_cluster

READERS = (ReaderSeen("one", 100, 10), ReaderSeen("two", 88, 2_000), ReaderSeen("three", 101, 0))


class Book:
    """What is kept of a cluster in a test; it may be away."""

    name = "a book"

    def __init__(self, description: ClusterDescription | None) -> None:
        self._description = description
        self.is_away = False
        self.asked_count = self.closed_count = 0

    def description(self) -> ClusterDescription | None:
        self.asked_count += 1
        if self.is_away:
            raise StreamUnreachable("it is gone")
        return self._description

    def groups(self) -> list[GroupSeen]:
        return [
            GroupSeen(0, 3, "one", 7, 100, 60_000, READERS),
            GroupSeen(1, 0, None, None, 0, None, ()),
        ]

    def members(self) -> list[MemberSeen]:
        return [MemberSeen("one", "http://one:8001", "0.1.0", 5_000, None, 2)]

    def close(self) -> None:
        self.closed_count += 1

    def create(self, new: ClusterDescription) -> ClusterDescription:
        raise NotImplementedError

    def note_member(
        self,
        node: str,
        address: str,
        version: str,
        mesh: str | None = None,
        features: int = 1,
        home: str | None = None,
    ) -> None:
        raise NotImplementedError

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        raise NotImplementedError

    def finalize(self, features: int) -> bool:
        raise NotImplementedError

    def holders(self) -> list[HolderSeen]:
        raise NotImplementedError

    def look(self) -> BookSeen:
        raise NotImplementedError

    def wishes(self) -> Wishes:
        return Wishes(frozenset({"one"}), {1: "two"})

    def wish(self, before: Wishes, after: Wishes) -> bool:
        raise NotImplementedError

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        raise NotImplementedError


async def test_a_server_without_a_cluster_says_so() -> None:
    async with running() as world:
        found = await world.send("GET", "/cluster")
        assert (found.status, found.json) == (
            200,
            {"name": None, "features": 0, "groups": [], "nodes": []},
        )
        world.api.cluster = ClusterView(Book(None))
        assert (await world.send("GET", "/cluster")).json["name"] is None


async def test_groups_nodes_and_who_is_behind_are_shown() -> None:
    book = Book(new_cluster("orders", 2, None, now_ms=1))
    async with running() as world:
        world.api.cluster = ClusterView(book)
        found = (await world.send("GET", "/cluster")).json
    followers = [
        {"node": "two", "behind": 12, "seenOn": NOW_MS - 2_000},
        {"node": "three", "behind": 0, "seenOn": NOW_MS},
    ]
    first = {"group": 0, "owner": "one", "wished": None, "epoch": 3, "lastFrame": 100}
    other = {"group": 1, "owner": None, "wished": "two", "epoch": 0, "lastFrame": 0}
    node = {"node": "one", "address": "http://one:8001", "version": "0.1.0"}
    assert found == {
        "name": "orders",
        "features": 1,
        "groups": [
            {**first, "snapshotOn": NOW_MS - 60_000, "followers": followers},
            {**other, "snapshotOn": None, "followers": []},
        ],
        "nodes": [{**node, "features": 2, "isDrained": True, "seenOn": NOW_MS - 5_000}],
    }


async def test_the_engine_is_asked_every_few_seconds_however_many_look() -> None:
    book, now_s = Book(new_cluster("orders", 2, None, now_ms=1)), [7.0]
    async with running() as world:
        world.api.cluster = ClusterView(book, lambda: now_s[0])
        for _ in range(3):
            assert (await world.send("GET", "/cluster")).status == 200
        assert (book.asked_count, book.closed_count) == (1, 1)
        now_s[0] += FRESH_S
        book.is_away = True
        refused = await world.send("GET", "/cluster")
        assert (refused.status, refused.code) == (503, Code.OUT_OF_REACH)
        assert "What keeps the log does not answer" in refused.body.decode()
        assert refused.header("Retry-After") is not None
        assert book.closed_count == 2
        book.is_away = False
        assert (await world.send("GET", "/cluster")).status == 200
