"""Before a node shares groups, those that are there say whether they let it in."""

from pathlib import Path
from typing import Any

import pytest

from tests.shards.guard.ends import SECRET
from troth.core.limits import CLUSTER_LIVING_MS
from troth.http.processes import admission
from troth.http.processes.admission import check_mesh
from troth.http.processes.mesh_files import MeshFilesRefused
from troth.http.settings.settings import Settings
from troth.persistence.streams.cluster import HolderSeen, MemberSeen
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.mesh.owners import Owner
from troth.shards.streams import stream_opening

SETTINGS = Settings(log="postgresql:///shop", cluster="shop", node="north", data=Path("/nowhere"))


def member(node: str, seen_ms: int = 0) -> MemberSeen:
    """Return a node that is there."""
    mesh = f"{node}.internal:8003"
    return MemberSeen(node, f"http://{node}:8001", "1", seen_ms, mesh, 1, f"home of {node}")


class Book:
    """What is kept of a cluster."""

    def __init__(self) -> None:
        gone = member("gone", CLUSTER_LIVING_MS + 1)
        self.all = [member("north"), member("south"), member("west"), gone]
        self.is_away = False

    def members(self) -> list[MemberSeen]:
        """Return the nodes. Raises StreamUnreachable."""
        if self.is_away:
            raise StreamUnreachable("it is away")
        return self.all

    def holders(self) -> list[HolderSeen]:
        """Return the owners of the groups."""
        nodes = ("north", "south", "south", "gone")
        return [HolderSeen(group, node, 7, 0) for group, node in enumerate(nodes)]

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what is asked, and what to answer: a `problem` for each time."""
    found: dict[str, Any] = {"book": Book(), "owners": [], "problems": []}

    def refusal_of(_trust: object, node: str, owner: Owner, group: int, _tls: object) -> str | None:
        assert node == "north"
        found["owners"].append((owner.node, group, owner.host, owner.port))
        problems: list[str | None] = found["problems"]
        return problems.pop(0) if problems else None

    monkeypatch.setattr(admission, "refusal_of", refusal_of)
    monkeypatch.setattr(admission, "read_mesh_files", lambda _: (SECRET, None))
    monkeypatch.setattr(stream_opening, "cluster_book", lambda _: found["book"])
    return found


def test_one_process_of_each_other_node_that_lives_is_asked(asked: dict[str, Any]) -> None:
    assert check_mesh(SETTINGS) == SECRET
    assert asked["owners"] == [("south", 1, "south.internal", 8003)]


def test_who_is_refused_twice_does_not_serve(asked: dict[str, Any]) -> None:
    asked["problems"] = ["it has another secret", None]
    check_mesh(SETTINGS)
    asked["problems"] = ["it has another secret", "it has another secret"]
    with pytest.raises(MeshFilesRefused, match="south does not let this one in: it has another"):
        check_mesh(SETTINGS)


def test_an_engine_that_is_away_refuses_nothing(asked: dict[str, Any]) -> None:
    asked["book"].is_away = True
    assert check_mesh(SETTINGS) == SECRET
    assert asked["owners"] == []
