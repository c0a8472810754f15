"""Connections that leave the hot lane, and why: a bounded set of reasons, for `/metrics`."""

import socket
from dataclasses import dataclass
from typing import Final

from troth.http.wire.in_flight import Hold

REQUEST_LINE: Final = "request_line"
ENDPOINT: Final = "endpoint"
FIELDS: Final = "fields"
EXPECTATION: Final = "expectation"
CHUNKS: Final = "chunks"
LARGE: Final = "large"
SLOW: Final = "slow"
CREDENTIALS: Final = "credentials"
ROOM: Final = "room"
UNFINISHED: Final = "unfinished"
HOME: Final = "home"
"""A worker's stream that another process has to serve; counted where there are several."""

ANY_HOME: Final = 0
"""The home of what any process may serve that has a group (`http/processes/passing_on.py`)."""

REASONS: Final = {
    REQUEST_LINE: "a method, version or form of target that the lane does not read",
    ENDPOINT: "an endpoint that the lane does not serve, or none",
    FIELDS: "header fields that the lane does not judge",
    EXPECTATION: "a body that is not wanted, or not waited for",
    CHUNKS: "a chunked body with extensions or trailers, or in many pieces",
    LARGE: "a head or body above the lane's limits",
    SLOW: "a request that took more than a second to arrive",
    CREDENTIALS: "a body in pieces from a client that is not known yet",
    ROOM: "no room in memory for a body in pieces",
    UNFINISHED: "a request that ended, or met the server's stop, before it was whole",
}
"""What each reason means; `http/README.md` says what to do about them."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A connection that leaves the lane: what was read of its next request, and since when.

    `hold` counts what was read, if that is much; the new owner releases it. `home` is the process
    that it is for, if that is another one.
    """

    socket: socket.socket
    received: bytes
    since: float
    hold: Hold | None = None
    home: int | None = None
