"""What one process of several has of the mesh: calls are answered within the lease of its log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from tests.http.sockets.test_link_sockets import Heard
from tests.shards.mesh.world import make_process
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


@pytest.mark.parametrize(
    ("is_shared", "are_ready", "up", "found"),
    [
        (True, False, (), (1, 3)),
        (True, False, (2,), (2, 3)),
        (True, False, (1, 2), (3, 3)),
        (False, True, (), (3, 3)),
        (False, False, (1, 2), (2, 3)),
        (False, False, (), (1, 3)),
    ],
)
def test_groups_are_counted_that_can_be_reached(
    is_shared: bool, are_ready: bool, up: tuple[int, ...], found: tuple[int, int]
) -> None:
    seat = SimpleNamespace(process=0, mesh_directory="/nowhere", incarnation=1)
    storage: Any = SimpleNamespace(group_shards=(1, 1, 1), data_id=bytes(16))
    seated: Any = SimpleNamespace(seat=seat, are_ready=are_ready)
    settings = Settings(mesh_listen=ListenAddress("host", 1) if is_shared else None)
    member = MeshMember(seated, storage, settings)
    for group in up:
        member.mesh.links[group].is_up = True

    assert member.groups_reached() == found


def test_the_epoch_of_its_group_is_a_process_s_incarnation_where_nodes_share_groups() -> None:
    seat = SimpleNamespace(process=0, mesh_directory="/nowhere", incarnation=77)
    storage: Any = SimpleNamespace(group_shards=(1, 1), data_id=bytes(16))
    seated: Any = SimpleNamespace(seat=seat)
    member = MeshMember(seated, storage, Settings())
    assert member.place.incarnation == 77
    member.owned(4)
    assert msgspec.msgpack.decode(encode_hello(member.mesh.place))[-1] == 4
    assert member.homes._parcels.incarnation == 4
