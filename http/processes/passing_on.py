"""Where the connections of clients go on a node of a cluster that serves no group: to any owner.

Each is passed on whole, to a process of this node that serves by now, else to one of another node
(`http/links/stream_carrier.py`), in turn. That one serves it as if it had accepted it, so any node
takes any request.

While none can be reached, what would be harmed by a refusal waits for `LONG_WAIT_S`: requests of
`POST /` and for workers' streams (envelope.md 1). Others are refused after `SHORT_WAIT_S`.

An owner that is lost before it has begun to answer leaves its client with a request that may have
been carried out. What may be asked again is, of the next owner, with a header that says so; other
clients are told (503).
"""

import contextlib
import re
import socket
from dataclasses import replace
from typing import Final, final

import orjson
import trio

from troth.core.codes import Code
from troth.http.links.passed_connections import PassedConnection
from troth.http.links.stream_carrier import StreamCarrier
from troth.http.sockets.early_answers import BEGINNING_BYTES, early_answer
from troth.http.sockets.stream_homes import STREAM_WAIT_S, StreamHomes
from troth.http.wire.asked_again import AGAIN_HEADER
from troth.http.wire.errors import ApiError
from troth.shards.mesh.owners import Owners

LONG_WAIT_S: Final = STREAM_WAIT_S
SHORT_WAIT_S: Final = 2.0
RETRY_S: Final = 0.1

AWAY: Final = (
    "No process that serves can be reached from this node just now. Send the request again after "
    "`Retry-After`."
)
_WAITS: Final = re.compile(rb"\r?\n?(POST /(\?[^ ]*)? |GET /poll/)")
_HEAD_END: Final = b"\r\n\r\n"
_ASKED_AGAIN: Final = frozenset(
    {
        *("promise.create", "promise.get", "promise.settle", "promise.search", "task.fence"),
        *("task.get", "task.search", "task.heartbeat", "schedule.get", "schedule.search"),
    }
)
"""Operations that give the same the second time."""


def may_be_asked_again(asked: bytes) -> bool:
    """Return whether a request is whole, and does no harm if it was carried out already."""
    head, _, body = asked.partition(_HEAD_END)
    if head.startswith(b"GET "):
        return True
    if not head.startswith(b"POST / "):
        return False
    try:
        return orjson.loads(body)["kind"] in _ASKED_AGAIN
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def again(asked: bytes) -> bytes:
    """Return a request as it is asked once more.

    Without that, a fence that does not hold any more would be refused as if nothing had been done.
    """
    line, end, rest = asked.partition(b"\r\n")
    said = AGAIN_HEADER + b": 1\r\n"
    return asked if rest.startswith(said) else b"".join((line, end, said, rest))


@final
class PassingOn:
    """Passes connections on. `homes` are those of this process, `url` is for links in refusals.

    A `ConnectionHomes`, and the `Client` of its carrier.
    """

    def __init__(
        self,
        homes: StreamHomes,
        carrier: StreamCarrier,
        owners: Owners,
        groups_count: int,
        url: str,
    ) -> None:
        self.away = AWAY
        self.carrier = carrier
        self._homes = homes
        self._owners = owners
        self._groups_count = groups_count
        self._url = url
        self._next_group = 0
        self._is_ending = False

    @property
    def is_possible(self) -> bool:
        """Return whether a group is known to have an owner on another node."""
        groups = range(self._groups_count)
        return any(self.carrier.elsewhere(group) is not None for group in groups)

    async def bring(self, home: int, passed: PassedConnection) -> bool:  # noqa: ARG002  any will do
        """Pass a connection on; return whether another process has it now."""
        wait_s = LONG_WAIT_S if _WAITS.match(passed.received) is not None else SHORT_WAIT_S
        return await self._bring(wait_s, passed)

    def stop(self) -> None:
        """Do nothing: what waits does so for its time, or until `end`."""

    def end(self) -> None:
        """Refuse what waits, since this process ends."""
        self._is_ending = True

    async def _bring(self, wait_s: float, passed: PassedConnection) -> bool:
        with trio.move_on_after(wait_s):
            while not self._is_ending:
                for group in self._in_turn():
                    owner = self._owners.of(group)
                    if owner is None:
                        continue
                    if self.carrier.elsewhere(group) is None:
                        is_there = await self._homes.pass_on(group, passed)
                    else:
                        is_there = await self.carrier.bring(owner, group, passed, self)
                    if is_there:
                        return True
                await trio.sleep(RETRY_S)
        return False

    def _in_turn(self) -> list[int]:
        """Return all groups, each time beginning with another one."""
        count = self._groups_count
        self._next_group = first = (self._next_group + 1) % count
        return [(first + one) % count for one in range(count)]

    async def lost(self, passed: PassedConnection, *, is_whole: bool) -> None:
        """Ask for a client elsewhere whose owner was lost, or tell it that it was."""
        asked = passed.received
        is_again = is_whole and may_be_asked_again(asked)
        if is_again and await self._bring(LONG_WAIT_S, replace(passed, received=again(asked))):
            return
        answer = early_answer(asked[:BEGINNING_BYTES], ApiError(Code.LINK_BROKEN), self._url)
        with contextlib.suppress(OSError):  # it has gone
            passed.socket.send(answer, socket.MSG_DONTWAIT)
            passed.socket.shutdown(socket.SHUT_WR)
