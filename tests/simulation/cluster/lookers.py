"""Clients that only look: they ask each node that takes itself for the owner, again and again.

Other clients write, and a node that is cut off answers no read that came after a write.
"""

from typing import Final

import trio

from tests.simulation.server import Server, Unreachable
from troth.core.commands import ReadPromise

from .cluster_world import ClusterWorld

PAUSE_S: Final = (0.05, 0.5)
PATIENCE_S: Final = 5.0


async def look_at_owners(world: ClusterWorld) -> None:
    """Look, until canceled."""
    random = world.random("lookers")
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(random.uniform(*PAUSE_S))
            servers = world.running()
            random.shuffle(servers)
            for server in servers:
                if server.serves.is_set():
                    nursery.start_soon(_look, world, server, f"race/{random.randrange(4)}")


async def _look(world: ClusterWorld, server: Server, name: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        try:
            await world._ask(server, "looker", ReadPromise(name), 0)
        except Unreachable:
            return
