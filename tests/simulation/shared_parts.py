"""What a process of several has for all of them, or a copy of: as `http/serve.py` wires it.

Process 0 places all executions, drives bulk jobs, and owns accounts and tokens; the others have
copies of these. A process serves when it knows what it has to know of the others. Whether there is
an owner the supervisor says (`world.py`), unless the processes are on several nodes.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from troth.core.catalog import Account, Node, Token
from troth.core.limits import COPY_LEASE_MS, COPY_LEASE_OF_NODES_MS
from troth.http.identity.attempts import Attempts
from troth.http.identity.copied import CopiedCredentials, CredentialsCopy
from troth.http.identity.credentials import Credentials
from troth.http.identity.spreading import CredentialsOwner
from troth.http.processes.mesh_member import RETRY_S
from troth.http.sockets.stream_homes import StreamHomes
from troth.http.supervision.seat import OWNER
from troth.shards.errors import LinkBroken, OutOfReach
from troth.shards.gathered.whole import AllProcesses, serials_by_shard
from troth.shards.mesh.homes import EXECUTIONS_HOME, MessageHomes
from troth.shards.mesh.mesh import Mesh
from troth.shards.mesh.placed_executions import PlacedExecutions, answer_about_executions
from troth.shards.placement.placement import Placement
from troth.shards.shards import Shards
from troth.shards.surveys.series import SeriesBook

ATTEMPTS_COUNT = 1_000

_Answered = TypeVar("_Answered")


class SharedParts:
    """What one process has. It `is_owning` from when its supervisor has heard so."""

    def __init__(
        self,
        mesh: Mesh,
        homes: MessageHomes,
        shards: Shards,
        placement: Placement,
        *,
        is_of_nodes: bool = False,
    ) -> None:
        calls, now_ms = mesh.calls, shards.clock.now_ms
        self.streams = StreamHomes(mesh.place)
        self.is_owning = False
        self.placed: PlacedExecutions | None = None
        self._groups = mesh.place.groups
        self._shards = shards
        self._placement = placement
        self._whole = AllProcesses(calls, shards, SeriesBook())
        answer_about_executions(calls, shards)
        attempts = Attempts(ATTEMPTS_COUNT, now_ms)
        self.credentials: Credentials
        self._shared: CredentialsOwner | CredentialsCopy
        if mesh.place.process == EXECUTIONS_HOME == OWNER:
            self.placed = PlacedExecutions(calls, placement, shards.shard_of, mesh.place.groups)
            homes.when_lost = self.placed.lost
            self.credentials = Credentials({}, attempts, now_ms)
            self._shared = CredentialsOwner(
                self.credentials,
                calls,
                epoch=mesh.place.incarnation,
                now_s=trio.current_time,
                now_ms=now_ms,
                of_cluster=is_of_nodes,
                lease_ms=COPY_LEASE_OF_NODES_MS if is_of_nodes else COPY_LEASE_MS,
            )
        else:
            copied = CopiedCredentials(
                {},
                attempts,
                now_ms,
                trio.current_time,
                lease_ms=COPY_LEASE_OF_NODES_MS if is_of_nodes else None,
            )
            self.credentials = copied
            self._shared = CredentialsCopy(copied, calls, now_s=trio.current_time, now_ms=now_ms)

    def owned(self, epoch: int) -> None:
        """Learn in which epoch the group is owned, where nodes share the groups."""
        if isinstance(self._shared, CredentialsOwner):
            self._shared.epoch = epoch

    async def largest_serials(self) -> tuple[int, ...]:
        """Return the newest serial of each shard. Raises ShardsError."""
        return await serials_by_shard(self._whole, self._groups)

    async def introduce(self, nursery: trio.Nursery, nodes: tuple[Node, ...]) -> None:
        """Learn what there is; this process may serve then. The links run."""
        self.credentials.unload()
        if self.placed is not None:
            for node in nodes:
                self._placement.put_node(node)
            self._placement.restore_all(self._shards.assigned_executions())
            for process in self.placed.others:
                await _known(self.placed.compare, process)
            nursery.start_soon(self.placed.run)
        if isinstance(self._shared, CredentialsCopy):
            nursery.start_soon(self._shared.run)
            await self._shared.loaded.wait()
            return
        accounts = await _known(self._shards.list_entries, Account, None)
        self.credentials.load(accounts, await _known(self._shards.list_entries, Token, None))
        self.is_owning = True
        self._shared.begin()
        nursery.start_soon(self._shared.run)
        self._placement.withhold(self.credentials.disabled_accounts())

    def had_no_owner(self, at_s: float) -> None:
        """Hear from the supervisor that no process owned the accounts at a time."""
        if isinstance(self.credentials, CopiedCredentials):
            self.credentials.had_no_owner(at_s)


async def _known(ask: Callable[..., Awaitable[_Answered]], *arguments: object) -> _Answered:
    """Ask; other processes that have a part of the answer are waited for."""
    while True:
        try:
            return await ask(*arguments)
        except (OutOfReach, LinkBroken):
            await trio.sleep(RETRY_S)
