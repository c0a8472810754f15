"""Links to and from processes on other nodes: over TCP, and each end behind a guard.

`link_sockets.py` moves the bytes, as of links on one machine. Here is where others are reached,
and what stands between a connection and the end of a link.
"""

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import trio

from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S, Guard, LinkEnd
from troth.shards.guard.handshake import (
    AnswererHandshake,
    AskerHandshake,
    Handshake,
    encode_call,
)
from troth.shards.guard.trust import NONCE_BYTES, Callee, ClusterTrust, Party, Use
from troth.shards.mesh.owners import Owner, Owners

from .node_door import NodeDoor, Welcome
from .strangers import Strangers
from .tls_end import LinkTls, TlsEnd

Admit = Callable[[Party, Use], LinkEnd]
"""Gives the end of a link for who has proved to belong; may raise LinkDamaged."""


@final
@dataclass(frozen=True)
class NodeLinks:
    """What process `own` has for links with other nodes; `now_s` is a monotonic clock.

    `listening` listen at its node's door, and `directory` has the sockets of the processes there.
    Without `tls`, what crosses can be read on its way.
    """

    trust: ClusterTrust
    own: Party
    owners: Owners
    listening: Sequence[socket.socket]
    directory: Path
    tls: LinkTls | None
    strangers: Strangers
    now_s: Callable[[], float]

    def is_here(self, owner: Owner) -> bool:
        """Return whether an owner is on this node: then it is reached without all this."""
        return owner.node == self.own.node

    def door(self, welcome: Welcome) -> NodeDoor:
        """Make the door by which others come to this process."""
        return NodeDoor(self.listening, self.own.group, self.directory, self.strangers, welcome)

    async def connect(self, owner: Owner, group: int) -> socket.socket | None:
        """Return a connection to the owner of a group; None if it cannot be reached now."""
        with trio.move_on_after(HANDSHAKE_LIMIT_S):
            try:
                stream = await trio.open_tcp_stream(owner.host, owner.port)
                await stream.send_all(encode_call(group))
            except (OSError, trio.BrokenResourceError):
                return None
            return socket.socket(fileno=stream.socket.detach())
        return None

    def asking_end(
        self, owner: Owner, group: int, admit: Admit, use: Use = Use.LINK
    ) -> Guard | TlsEnd:
        """Make what stands before the end by which this process asks the owner of a group."""
        callee = Callee(owner.node, group, use)
        shake = AskerHandshake(self.trust, self.own, callee, secrets.token_bytes(NONCE_BYTES))
        return self._end(shake, admit, owner.host)

    def answering_end(self, admit: Admit) -> Guard | TlsEnd:
        """Make what stands before the end by which this process is asked."""
        shake = AnswererHandshake(self.trust, self.own, secrets.token_bytes(NONCE_BYTES))
        return self._end(shake, admit, None)

    def _end(self, shake: Handshake, admit: Admit, host: str | None) -> Guard | TlsEnd:
        guard = Guard(shake, admit, now_s=self.now_s)
        return guard if self.tls is None else TlsEnd(guard, self.tls, host)
