"""Where clients wait, and are told to, on a node of a cluster none of whose processes serves.

Nodes that share groups have one socket for a port, and each process of a node may accept there. So
one that stands by leaves connections to those that serve. As long as there are none, it takes some
itself, after a while in which they wait in the queue: requests are answered as by a server that
starts. When another process of the node serves, or this one, those connections end, and their
clients come again.
"""

from typing import Final, final

import trio

from troth.http.api.context import Api
from troth.http.api.rows import Endpoint
from troth.http.sockets.descriptors import DescriptorShares
from troth.http.sockets.doors import make_doors
from troth.http.sockets.lane import Lane
from troth.http.sockets.slow_side import LateApplication
from troth.http.supervision.manager_environment import GivenSockets
from troth.http.supervision.seated import Seated

from .mesh_member import HELD_S

_LOOK_S: Final = 0.1
_LAST_WAIT_S: Final = 31.0
"""How long requests may be in flight: those that wait for the server wait for 30 s."""


@final
class WaitingRoom:
    """Answers on the API's port while no process of this node does; `ready` is this one's."""

    def __init__(
        self,
        seated: Seated,
        api: Api,
        shares: DescriptorShares,
        endpoints: tuple[Endpoint, ...],
        ready: trio.Event,
    ) -> None:
        self._seated = seated
        self._api = api
        self._shares = shares
        self._endpoints = endpoints
        self._ready = ready

    async def run(self) -> None:
        """Open whenever no process of the node has served for a while, until this one does."""
        while not self._ready.is_set():
            idle_since_s = trio.current_time()
            while trio.current_time() < idle_since_s + HELD_S:
                await trio.sleep(_LOOK_S)
                if self._is_closed:
                    idle_since_s = trio.current_time()
                if self._ready.is_set():
                    return
            async with trio.open_nursery() as nursery:
                await self._be_open(nursery)
                nursery.cancel_scope.cancel()

    @property
    def _is_closed(self) -> bool:
        return self._seated.is_node_serving or self._ready.is_set()

    async def _be_open(self, nursery: trio.Nursery) -> None:
        api = self._api
        given = GivenSockets(
            tuple(one.dup() for one in self._seated.handed_over.api),
            are_all=True,
            api_address=self._seated.seat.api_address,
        )
        door = make_doors(api.settings, self._shares, given)[0]
        listener = door.listener
        await door.open()
        door.application = LateApplication(api, self._endpoints)
        listener.in_flight = api.in_flight
        lane = listener.lane = Lane(api, self._endpoints, listener.limits)
        await nursery.start(lane.run)
        await nursery.start(listener.run)
        while not self._is_closed:  # noqa: ASYNC110  one of two things, with time
            await trio.sleep(_LOOK_S)
        with trio.move_on_after(_LAST_WAIT_S):
            await listener.stop()
        listener.cut()
