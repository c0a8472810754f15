"""The ports of a server, taken before there is a server behind them.

A server that cannot have its ports must not touch its data directory, so they are opened first.
Where a service manager has opened them already (socket activation), their real addresses are the
settings from there on: what they expose, and which names are the server's, is judged by them.
"""

import dataclasses
import socket
from collections.abc import Sequence
from typing import Any

import trio

from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.supervision.manager_environment import NO_SOCKETS, GivenSockets

from .connection_limits import ASGIApplication
from .connection_room import ConnectionRoom
from .descriptors import DescriptorShares
from .listener import SocketListener
from .ports import address_of


class Door:
    """A port that is taken before the server behind it is made: `application` comes later."""

    def __init__(
        self,
        address: ListenAddress,
        settings: Settings,
        name: str,
        flag: str,
        room: ConnectionRoom | None = None,
        handed_over: Sequence[socket.socket] = (),
        *,
        are_all: bool = False,
    ) -> None:
        self._handed_over = handed_over
        self._are_all = are_all
        self.listener = SocketListener(
            self._answer, address, settings, name=name, flag=flag, url=settings.url, room=room
        )
        self.application: ASGIApplication | None = None

    async def open(self) -> None:
        """Listen, if that is not done yet. Raises ListenError."""
        await self.listener.open(self._handed_over, are_all=self._are_all)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.application is not None, "the listener runs only when there is a server"
        await self.application(scope, receive, send)


def addressed(settings: Settings, handed_over: GivenSockets) -> Settings:
    """Return settings with the addresses of the sockets that were handed over."""
    if handed_over.are_all:
        assert handed_over.api_address is not None, "a supervisor says where the server is"
        poll_address = handed_over.poll_address
        return dataclasses.replace(
            settings,
            listen=ListenAddress(*handed_over.api_address),
            poll_listen=None if poll_address is None else ListenAddress(*poll_address),
        )
    listen, poll_listen = address_of(handed_over.api), address_of(handed_over.poll)
    given = {"listen": listen, "poll_listen": poll_listen}
    sources = {name: "the service manager" for name, address in given.items() if address}
    return dataclasses.replace(
        settings,
        listen=listen or settings.listen,
        poll_listen=poll_listen or settings.poll_listen,
        sources={**settings.sources, **sources},
    )


def make_doors(
    settings: Settings, shares: DescriptorShares, handed_over: GivenSockets = NO_SOCKETS
) -> list[Door]:
    """Return the API's port and, unless it is switched off, that of the poll streams."""
    room = ConnectionRoom(
        shares.incoming_count,
        per_address_limit_count=settings.connections_per_address_limit_count,
        now=trio.current_time,
    )
    are_all = handed_over.are_all
    doors = [
        Door(
            *(settings.listen, settings, "API", "--listen", room, handed_over.api), are_all=are_all
        )
    ]
    if settings.poll_listen is not None:
        doors.append(
            Door(
                settings.poll_listen,
                settings,
                "poll streams",
                "--poll-listen",
                room,
                handed_over.poll,
                are_all=are_all,
            )
        )
    return doors
