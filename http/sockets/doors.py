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
from .descriptors import DescriptorShares, part_of
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
        sharers_count: int = 1,
    ) -> None:
        self._handed_over = handed_over
        self._are_all = are_all
        self.listener = SocketListener(
            self._answer,
            address,
            settings,
            name=name,
            flag=flag,
            url=settings.url,
            room=room,
            limit_count=part_of(settings.connection_limit_count, sharers_count),
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


def sharers_of(handed_over: GivenSockets, processes_count: int) -> int:
    """Return how many processes have connections of these ports.

    Sockets that a service manager made are not spread: one process has all connections.
    """
    are_spread = all(
        one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for one in handed_over.api
    )
    return processes_count if are_spread else 1


def make_doors(
    settings: Settings,
    shares: DescriptorShares,
    handed_over: GivenSockets = NO_SOCKETS,
    processes_count: int = 1,
) -> list[Door]:
    """Return the API's port and, unless it is switched off, that of the poll streams.

    Each of several processes has its part of the connections that a port may have.
    """
    room = ConnectionRoom(
        shares.incoming_count,
        per_address_limit_count=settings.connections_per_address_limit_count,
        now=trio.current_time,
    )
    are_all = handed_over.are_all
    sharers_count = sharers_of(handed_over, processes_count)

    def door(
        address: ListenAddress, name: str, flag: str, sockets: Sequence[socket.socket]
    ) -> Door:
        return Door(
            *(address, settings, name, flag, room, sockets),
            are_all=are_all,
            sharers_count=sharers_count,
        )

    doors = [door(settings.listen, "API", "--listen", handed_over.api)]
    if settings.poll_listen is not None:
        poll = handed_over.poll
        doors.append(door(settings.poll_listen, "poll streams", "--poll-listen", poll))
    return doors
