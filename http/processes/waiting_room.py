"""What a node of a cluster does with clients while none of its processes serves.

Nodes that share groups have one socket for a port, and each process of a node may accept there. So
one that stands by leaves connections to those that serve. As long as there are none, it takes some
itself, and passes them on to who serves on another node (`passing_on.py`). Only what is asked of
this node is answered here, as by a server that starts: whether it lives, whether it is ready, its
metrics.

If no owner is known, connections wait in the queue for a while first: this node may be the next.
When another process of the node serves, or this one, no further ones are taken; what was passed on
before goes on.
"""

from typing import Final, final

import trio

from troth.http.api.context import Api
from troth.http.api.rows import Endpoint
from troth.http.sockets.descriptors import DescriptorShares
from troth.http.sockets.doors import Door, make_doors
from troth.http.sockets.lane import Lane
from troth.http.sockets.slow_side import LateApplication
from troth.http.supervision.manager_environment import GivenSockets
from troth.http.supervision.seated import Seated

from .mesh_member import HELD_S
from .passing_on import LONG_WAIT_S, PassingOn

KEPT_ENDPOINTS: Final = frozenset({"ping", "health", "ready", "metrics"})
"""What is asked of this node."""

_LOOK_S: Final = 0.1
_LAST_WAIT_S: Final = LONG_WAIT_S + 1.0
"""How long requests may be in flight: those that wait for the server."""


@final
class WaitingRoom:
    """Takes clients while no process of this node serves; `ready` is this one's.

    `tables` are the endpoints of the ports.
    """

    def __init__(
        self,
        seated: Seated,
        api: Api,
        shares: DescriptorShares,
        tables: tuple[tuple[Endpoint, ...], ...],
        ready: trio.Event,
        passing: PassingOn,
    ) -> None:
        self._seated = seated
        self._api = api
        self._shares = shares
        self._tables = tables
        self._ready = ready
        self._passing = passing
        self._is_stopping = False
        self._is_open = False

    async def run(self) -> None:
        """Open whenever no process of the node has served for a while, until canceled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._passing.carrier.run)
            while not self._ready.is_set():
                await self._until_due()
                if not self._ready.is_set():
                    await self._be_open()
            await trio.sleep_forever()  # what was passed on goes on

    async def stop(self) -> None:
        """Take nothing more, and wait until clients have the answers to what they have asked."""
        self._is_stopping = True
        self._passing.end()
        while self._is_open:  # noqa: ASYNC110  with time
            await trio.sleep(_LOOK_S)
        await self._passing.carrier.finish()

    async def _until_due(self) -> None:
        """Wait until there is reason to be open, or this process serves."""
        idle_since_s = trio.current_time()
        while not self._ready.is_set():
            await trio.sleep(_LOOK_S)
            if self._is_closed:
                idle_since_s = trio.current_time()
            elif self._passing.is_possible or trio.current_time() >= idle_since_s + HELD_S:
                return

    @property
    def _is_closed(self) -> bool:
        return self._seated.is_node_serving or self._ready.is_set() or self._is_stopping

    async def _be_open(self) -> None:
        """Take connections until another process of this node serves, or this one."""
        self._is_open = True
        try:
            async with trio.open_nursery() as nursery:
                doors = await self._open_doors(nursery)
                while not self._is_closed:  # noqa: ASYNC110  one of several things, with time
                    await trio.sleep(_LOOK_S)
                with trio.move_on_after(_LAST_WAIT_S):
                    async with trio.open_nursery() as stopping:
                        for door in doors:
                            stopping.start_soon(door.listener.stop)
                for door in doors:
                    door.listener.cut()
                nursery.cancel_scope.cancel()
        finally:
            self._is_open = False

    async def _open_doors(self, nursery: trio.Nursery) -> list[Door]:
        api, seat = self._api, self._seated.seat
        given = GivenSockets(
            tuple(one.dup() for one in self._seated.handed_over.api),
            tuple(one.dup() for one in self._seated.handed_over.poll),
            are_all=True,
            api_address=seat.api_address,
            poll_address=seat.poll_address,
        )
        doors = make_doors(api.settings, self._shares, given)
        for number, (door, endpoints) in enumerate(zip(doors, self._tables, strict=False)):
            listener = door.listener
            await door.open()
            door.application = LateApplication(api, endpoints)
            listener.in_flight = api.in_flight
            lane = listener.lane = Lane(api, endpoints, listener.limits)
            listener.pass_on(self._passing, number, KEPT_ENDPOINTS)
            await nursery.start(lane.run)
            await nursery.start(listener.run)
        return doors
