"""What a process finds out of its cluster, and what follows from it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from troth.core.limits import (
    CLUSTER_LIVING_MS,
    CLUSTER_MOVE_INTERVAL_MS,
    CLUSTER_NOTICE_MS,
    CLUSTER_STANDING_BY_MS,
    CLUSTER_STAY_MS,
)
from troth.http.processes.sharing_member import LOOK_S, SeenCluster, SharingMember, next_to_go
from troth.http.settings.kinds import ListenAddress
from troth.persistence.streams.cluster import (
    BookSeen,
    HolderSeen,
    MemberSeen,
    ReaderSeen,
)
from troth.persistence.streams.features import FEATURES
from troth.persistence.streams.sharing import ClaimTurn, Sharing, Wishes
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.mesh.owners import Owner, Owners

GROUPS_COUNT = 3


class Book:
    """What is kept of a cluster, and whether it can be reached."""

    def __init__(self) -> None:
        self.held: dict[int, HolderSeen] = {}
        self.there: dict[str, MemberSeen] = {}
        self.reading: dict[int, tuple[ReaderSeen, ...]] = {}
        self.wished = Wishes()
        self.problem: StreamUnreachable | None = None
        self.is_closed = False

    def _reach(self) -> None:
        if self.problem is not None:
            raise self.problem

    def look(self) -> BookSeen:
        self._reach()
        holders = [self.held[group] for group in sorted(self.held)]
        members = [self.there[node] for node in sorted(self.there)]
        return BookSeen(holders, members, self.wished, FEATURES)

    def readers(self) -> dict[int, tuple[ReaderSeen, ...]]:
        return self.reading

    def note_member(
        self, node: str, address: str, version: str, mesh: str | None = None, *, home: str
    ) -> None:
        self._reach()
        self.there[node] = MemberSeen(node, address, version, 0, mesh, home=home)

    def note_owner(self, group: int, node: str, epoch: int, incarnation: int) -> None:
        self._reach()
        assert incarnation == 77
        self.held[group] = HolderSeen(group, node, epoch, 0)

    def close(self) -> None:
        self.is_closed = True


class Seat:
    """Stands for the seat, and hears what is said."""

    def __init__(self, process: int) -> None:
        self.seat = self
        self.process = process
        self.processes_count = GROUPS_COUNT
        self.incarnation = 77
        self.is_early = False
        self.said: list[str] = []

    def following(self) -> None:
        self.said.append("following")

    def stands_by(self) -> None:
        self.said.append("stands by")

    def leaves(self) -> None:
        self.said.append("leaves")


class Storage:
    """Stands for the group's storage."""

    node = "a"
    keeps_ownership = False
    waits_for: str | None = None
    is_owned = False
    epoch = 4
    agreed = 0

    def agree(self, features: int) -> None:
        self.agreed = features


class Member:
    """A process of node `a`, and all that it has."""

    def __init__(self, group: int = 0) -> None:
        self.book, self.seat, self.storage = Book(), Seat(group), Storage()
        self.turn, self.owners = ClaimTurn(lambda: 0), Owners()
        seated: Any = self.seat
        book: Any = self.book
        storage: Any = self.storage
        self.member = SharingMember(
            seated,
            storage,
            self.turn,
            book,
            self.owners,
            address="http://a:8001",
            mesh=ListenAddress("a", 8003),
            home="machine:/var/cache/troth",
        )

    def hold(self, *nodes: str, since_ms: int = CLUSTER_STAY_MS) -> None:
        """Give each group an owner."""
        for group, node in enumerate(nodes):
            self.book.held[group] = HolderSeen(group, node, 2 + group, since_ms)

    def join(self, *nodes: str, seen_ms: int = 0) -> None:
        """Let nodes be there, and stand by for all groups."""
        for node in nodes:
            self.book.there[node] = MemberSeen(node, "", "1", seen_ms, f"{node}:9")
        for group in range(GROUPS_COUNT):
            self.book.reading[group] = tuple(ReaderSeen(node, 1, 0) for node in nodes)


async def _until(is_true: Callable[[], Any]) -> None:
    with trio.fail_after(30):
        while not is_true():  # noqa: ASYNC110  in threads something happens
            await trio.sleep(0.01)


async def test_it_finds_the_others_and_its_place_among_those_that_claim(
    nursery: trio.Nursery,
) -> None:
    one = Member(group=1)
    one.hold("b", "gone", "b")
    one.join("b")
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: one.owners.of(0) is not None)
    assert one.owners.of(2) == Owner("b", "b", 9, 4)
    assert one.owners.of(1) is None, "it is not known where that node is"
    assert one.turn.rank == 0, "it has the fewest groups"
    await _until(lambda: "a" in one.book.there)
    assert one.book.there["a"].mesh == "a:8003"
    await _until(lambda: one.storage.agreed == FEATURES)
    one.storage.waits_for = "gone"
    await _until(lambda: one.seat.said)
    assert one.seat.said == ["stands by"]
    await one.member.run()
    assert one.book.held[1][:3] == (1, "a", 4)
    nursery.cancel_scope.cancel()


async def test_who_follows_a_group_that_another_process_has_says_so(
    nursery: trio.Nursery,
) -> None:
    """If another node owns the group when it has its seat, it stands by like any other."""
    one = Member(group=1)
    one.seat.is_early = True
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: "a" in one.book.there)
    assert not one.seat.said
    one.storage.waits_for = "a"
    await _until(lambda: one.seat.said)
    assert one.seat.said == ["following"]
    one.seat.is_early = False
    await _until(lambda: len(one.seat.said) > 1)
    assert one.seat.said == ["following", "stands by"]
    nursery.cancel_scope.cancel()


async def test_a_node_is_noted_once_by_whichever_of_its_processes(nursery: trio.Nursery) -> None:
    one = Member(group=1)
    one.book.there["a"] = noted = MemberSeen("a", "", "1", 300, "a:8003")
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: one.turn.rank == 0)
    assert one.book.there["a"] is noted, "process 0 has just done so"
    one.book.there["a"] = noted._replace(seen_ms=700)
    await _until(lambda: one.book.there["a"].seen_ms == 0)
    nursery.cancel_scope.cancel()


async def test_an_engine_that_is_away_is_asked_again(nursery: trio.Nursery) -> None:
    one = Member()
    one.book.problem = StreamUnreachable("away")
    nursery.start_soon(one.member.watch_owner)
    nursery.start_soon(one.member.run)
    await trio.sleep(0.1)
    assert one.turn.rank is None
    one.book.problem = None
    await _until(lambda: one.turn.rank == 0 and one.book.held)
    nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()


async def test_a_process_that_ends_does_not_wait_for_an_engine_that_does_not_answer(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could say nothing in the meantime, and was killed for that after 10 s."""
    one, answered, has_ended = Member(), threading.Event(), threading.Event()

    def look() -> BookSeen:
        answered.wait()
        has_ended.set()
        raise StreamUnreachable("no answer in time")

    monkeypatch.setattr(one.book, "look", look)
    nursery.start_soon(one.member.watch_owner)
    await trio.sleep(0.1)
    failing = threading.Timer(10, answered.set)
    failing.start()
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        while nursery.child_tasks:  # noqa: ASYNC110  it is a matter of one pass
            await trio.sleep(0.01)
    assert not has_ended.is_set()
    assert not one.book.is_closed, "a thread uses it"
    failing.cancel()
    answered.set()


async def test_only_the_first_group_that_can_go_does(nursery: trio.Nursery) -> None:
    members = [Member(group) for group in range(GROUPS_COUNT)]
    for one in members:
        one.storage.is_owned = True
        one.hold("a", "a", "a")
        one.join("a", "b")
        nursery.start_soon(one.member.watch_owner)
    await _until(lambda: any(one.seat.said for one in members))
    await _until(lambda: all(one.turn.rank == 0 for one in members))
    assert sorted({word for one in members for word in one.seat.said}) == ["leaves"]
    assert sum(bool(one.seat.said) for one in members) == 1
    nursery.cancel_scope.cancel()


async def test_a_group_of_a_drained_node_goes_when_clients_had_notice(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    one = Member()
    one.storage.is_owned = True
    one.hold("a", "b", "b")
    one.join("a", "b")
    one.book.wished = Wishes(frozenset("a"))
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: one.member.is_drained)
    assert one.turn.rank == 1, "the other one is to claim it first"
    mock_clock.jump(CLUSTER_NOTICE_MS / 1000 - 3)
    await trio.sleep(2 * LOOK_S)
    assert not one.seat.said, "a load balancer may not have seen it yet"
    mock_clock.jump(3)
    await _until(lambda: one.seat.said)
    assert one.seat.said[0] == "leaves", "though all is even"
    one.book.wished = Wishes()
    await _until(lambda: not one.member.is_drained)
    nursery.cancel_scope.cancel()


def _seen(
    nodes: str, since_ms: int = CLUSTER_STAY_MS, target_seen_ms: int = 0
) -> tuple[SeenCluster, Sharing]:
    holders = [HolderSeen(group, node, 1, since_ms) for group, node in enumerate(nodes)]
    members = [MemberSeen(node, "", "1", 0, f"{node}:9") for node in "ab"]
    readers = {group: (ReaderSeen("b", 1, target_seen_ms),) for group in range(len(nodes))}
    seen = SeenCluster(holders, members, readers)
    held = dict(enumerate(nodes))
    living, standing_by = seen.living("a"), seen.standing_by()
    sharing = Sharing(max(GROUPS_COUNT, len(nodes)), held, living, standing_by=standing_by)
    return seen, sharing


def test_a_group_goes_only_when_all_is_quiet() -> None:
    assert next_to_go(*_seen("aaa")) in range(GROUPS_COUNT)
    assert next_to_go(*_seen("aab")) is None, "it is even"
    assert next_to_go(*_seen("aa")) is None, "one has no owner"
    assert next_to_go(*_seen("aac")) is None, "one has an owner that is gone"
    seen, sharing = _seen("aaaaab")
    moved = seen.holders[5]._replace(since_ms=CLUSTER_MOVE_INTERVAL_MS)
    assert next_to_go(seen._replace(holders=[*seen.holders[:5], moved]), sharing) is not None
    moved = moved._replace(since_ms=CLUSTER_MOVE_INTERVAL_MS - 1)
    after = seen._replace(holders=[*seen.holders[:5], moved])
    assert next_to_go(after, sharing) is None, "another one has just moved"
    assert next_to_go(*_seen("aaa", CLUSTER_STAY_MS - 1)) is None
    behind_ms = CLUSTER_STANDING_BY_MS + 1
    assert next_to_go(*_seen("aaa", target_seen_ms=behind_ms)) is None, "none stands by"


@pytest.mark.parametrize("group", range(GROUPS_COUNT))
async def test_a_group_goes_that_the_other_node_stands_by_for(
    nursery: trio.Nursery, group: int
) -> None:
    """A node of which one process was deposed does not wait until that has started again."""
    one = Member(group)
    one.storage.is_owned = True
    one.hold("a", "a", "a")
    one.join("a", "b")
    one.book.reading = {group: (ReaderSeen("b", 1, 0),)}
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: one.seat.said)
    assert one.seat.said[0] == "leaves"
    nursery.cancel_scope.cancel()


async def test_a_group_that_is_about_to_come_is_looked_for_more_often(
    nursery: trio.Nursery,
) -> None:
    one = Member(1)
    one.hold("b", "b", "b")
    one.join("a", "b")
    one.book.wished = Wishes(placed={1: "a", 0: "b", 2: "b"})
    nursery.start_soon(one.member.watch_owner)
    await _until(lambda: one.turn.is_expected)
    one.hold("b", "a", "b")
    await _until(lambda: not one.turn.is_expected)
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_who_stands_by_is_asked_only_if_a_group_is_to_go(nursery: trio.Nursery) -> None:
    one = Member()
    asked: list[None] = []
    reading = one.book.readers

    def readers() -> dict[int, tuple[ReaderSeen, ...]]:
        asked.append(None)
        return reading()

    one.book.readers = readers  # type: ignore[method-assign]
    one.storage.is_owned = True
    one.hold("a", "b", "c")
    one.join("a", "b", "c")
    nursery.start_soon(one.member.watch_owner)
    await trio.sleep(10 * LOOK_S)
    assert asked == []
    one.book.wished = Wishes(frozenset("a"))
    await _until(lambda: asked)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("seen_ms", "mesh", "lives"),
    [(0, "b:9", True), (CLUSTER_LIVING_MS + 1, "b:9", False), (0, None, False)],
)
def test_who_counts_as_living(seen_ms: int, mesh: str | None, lives: bool) -> None:
    seen = SeenCluster(members=[MemberSeen("b", "", "1", seen_ms, mesh)])
    assert seen.living("a") == ({"a", "b"} if lives else {"a"})
