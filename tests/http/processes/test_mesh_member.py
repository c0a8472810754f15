"""What one process of several has of the mesh: calls are answered within the lease of its log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.http.sockets.test_link_sockets import Heard
from tests.shards.mesh.world import make_process
from troth.http.processes.mesh_member import MeshMember
from troth.http.settings.settings import Settings


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
