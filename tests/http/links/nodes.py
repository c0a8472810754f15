"""Nodes of a cluster on one machine, with real sockets, in one loop."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from tests.http.sockets.test_link_sockets import Served, make, until_linked
from tests.shards.guard.ends import SECRET
from tests.shards.mesh.world import Process
from troth.http.links.node_links import NodeLinks
from troth.http.links.strangers import Strangers
from troth.http.links.tls_end import LinkTls
from troth.shards.guard.trust import ClusterTrust, Party
from troth.shards.mesh.owners import Owner

HOST = "127.0.0.1"
GROUPS_COUNT = 3


class Cluster:
    """Nodes of a cluster on one machine, each with a door and a directory of its own."""

    def __init__(
        self, nursery: trio.Nursery, directory: Path, tls: LinkTls | None, stack: ExitStack
    ) -> None:
        self.served: dict[int, Served] = {}
        self.strangers = Strangers(trio.current_time)
        self.owners: dict[int, Owner] = {}
        self._nursery = nursery
        self._directory = directory
        self._tls = tls
        self._doors: dict[str, socket.socket] = {}
        self._stack = stack

    def door(self, node: str) -> socket.socket:
        """Return where a node listens."""
        if node not in self._doors:
            (self._directory / node).mkdir()
            door = self._stack.enter_context(socket.create_server((HOST, 0)))
            self._doors[node] = door
        return self._doors[node]

    def place(self, node: str) -> tuple[str, int]:
        """Return the address of a node's door."""
        return HOST, self.door(node).getsockname()[1]

    async def start(self, node: str, group: int, epoch: int = 1, secret: bytes = SECRET) -> Served:
        """Start the process of a group on a node, and tell it who serves the others."""
        door = self.door(node)
        port = door.getsockname()[1]

        def nodes_of(process: Process) -> NodeLinks:
            for other, owner in self.owners.items():
                process.mesh.owners.learn(other, owner)
            listening = self._stack.enter_context(door.dup())
            return NodeLinks(
                trust=ClusterTrust("shop", secret),
                own=Party(node, group, epoch),
                owners=process.mesh.owners,
                listening=[listening],
                directory=self._directory / node,
                tls=self._tls,
                strangers=self.strangers,
                now_s=trio.current_time,
            )

        served = await make(
            self._nursery,
            self._directory / node,
            group,
            GROUPS_COUNT,
            incarnation=epoch,
            nodes_of=nodes_of,
        )
        self.served[group] = served
        self.owners[group] = Owner(node, HOST, port, epoch)
        return served

    def tell_all(self, group: int) -> None:
        """Tell all processes who serves a group."""
        for served in self.served.values():
            served.process.mesh.owners.learn(group, self.owners[group])

    async def until_linked(self) -> None:
        """Wait until all links are up."""
        await until_linked(list(self.served.values()))


@asynccontextmanager
async def cluster(directory: Path, tls: LinkTls | None = None) -> AsyncIterator[Cluster]:
    """Run a cluster in one loop."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            found = Cluster(nursery, directory, tls, stack)
            yield found
            for one in found.served.values():
                one.listener.cut()
            nursery.cancel_scope.cancel()
