"""What one process of several has of the mesh: calls are answered within the lease of its log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from tests.http.sockets.test_link_sockets import Heard
from tests.shards.mesh.world import make_process
from troth.core.limits import CLUSTER_AWAY_MS
from troth.http.processes.mesh_member import MeshMember
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.shards.mesh.place import encode_hello


@pytest.mark.parametrize("may_answer", [None, lambda: False], ids=["no lease", "a lease"])
async def test_the_lease_of_the_log_holds_for_calls_too(
    tmp_path: Path, nursery: trio.Nursery, may_answer: Any
) -> None:
    seat = SimpleNamespace(process=0, mesh_directory=str(tmp_path), incarnation=1)
    seated: Any = SimpleNamespace(seat=seat, on_peers=[], listening=lambda: None)
    storage: Any = SimpleNamespace(group_shards=(1, 1), data_id=bytes(16))
    member = MeshMember(seated, storage, Settings())
    shards = make_process(0, (1, 1)).shards
    shards.committer.may_answer = may_answer
    lane: Any = SimpleNamespace(
        serve_links=lambda _: None, **{name: getattr(Heard(), name) for name in ("watch", "stir")}
    )
    await nursery.start(member.run, shards, lane)
    assert member.mesh.calls.may_answer is may_answer
    nursery.cancel_scope.cancel()


def test_the_epoch_of_its_group_is_a_process_s_incarnation_where_nodes_share_groups() -> None:
    seat = SimpleNamespace(process=0, mesh_directory="/nowhere", incarnation=77)
    storage: Any = SimpleNamespace(group_shards=(1, 1), data_id=bytes(16))
    seated: Any = SimpleNamespace(seat=seat)
    member = MeshMember(seated, storage, Settings())
    assert member.place.incarnation == 77
    member.owned(4)
    assert msgspec.msgpack.decode(encode_hello(member.mesh.place))[-1] == 4
    assert member.homes._parcels.incarnation == 4


def test_a_node_stays_ready_while_a_group_has_no_owner_for_a_while() -> None:
    seat = SimpleNamespace(process=0, mesh_directory="/nowhere", incarnation=77)
    storage: Any = SimpleNamespace(group_shards=(1, 1), data_id=bytes(16))
    seated: Any = SimpleNamespace(seat=seat)
    member = MeshMember(seated, storage, Settings(mesh_listen=ListenAddress("a", 8003)))
    assert not member.are_ready(), "there was no link yet"
    links: dict[int, Any] = {1: SimpleNamespace(away_s=0.0)}
    member.mesh.links = links
    assert member.are_ready()
    links[1].away_s = CLUSTER_AWAY_MS / 1000 - 1
    assert member.are_ready(), "all nodes would be unready otherwise"
    links[1].away_s = CLUSTER_AWAY_MS / 1000
    assert not member.are_ready()
    links[1].away_s = 0.0
    member.is_drained = lambda: True
    assert not member.are_ready(), "clients go elsewhere before its groups do"
