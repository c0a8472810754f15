"""The ports of a server, taken before there is a server behind them.

A server that cannot have its ports must not touch its data directory, so they are opened first.
"""

from typing import Any

import trio

from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings

from .connection_room import ConnectionRoom
from .descriptors import DescriptorShares
from .hypercorn_connection import ASGIApplication
from .listener import SocketListener


class Door:
    """A port that is taken before the server behind it is made: `application` comes later."""

    def __init__(
        self,
        address: ListenAddress,
        settings: Settings,
        name: str,
        flag: str,
        room: ConnectionRoom | None = None,
    ) -> None:
        self.listener = SocketListener(
            self._answer, address, settings, name=name, flag=flag, url=settings.url, room=room
        )
        self.application: ASGIApplication | None = None

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.application is not None, "the listener runs only when there is a server"
        await self.application(scope, receive, send)


def make_doors(settings: Settings, shares: DescriptorShares) -> list[Door]:
    """Return the API's port and, unless it is switched off, that of the poll streams."""
    room = ConnectionRoom(
        shares.incoming_count,
        per_address_limit_count=settings.connections_per_address_limit_count,
        now=trio.current_time,
    )
    doors = [Door(settings.listen, settings, "API", "--listen", room)]
    if settings.poll_listen is not None:
        doors.append(Door(settings.poll_listen, settings, "poll streams", "--poll-listen", room))
    return doors
