"""Whether other nodes let this one in: asked before it serves, by the handshake of a link.

A node whose secret or certificate the others refuse could own groups that no other node reaches. So
it asks a process of each node that is there, as for a link, and ends the connection when that has
proved who it is. Its incarnation is 0 then, so that it is taken for no owner's successor. A node
that cannot be reached refuses nothing. Calls block, for seconds at most.
"""

import secrets
import socket
import time
from typing import Final

from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S, Guard, LinkEnd
from troth.shards.guard.handshake import AskerHandshake, encode_call
from troth.shards.guard.trust import NONCE_BYTES, Callee, ClusterTrust, Party
from troth.shards.mesh.frames import LinkDamaged
from troth.shards.mesh.owners import Owner

from .tls_end import LinkTls, TlsEnd

_READ_BYTES: Final = 65536
_SILENCE_S: Final = HANDSHAKE_LIMIT_S * 3 / 4
"""A node that ends a connection after this long, and has said nothing, waited for something."""


class _Admitted(Exception):
    """The other end has proved that it belongs to the cluster, and so has this one."""


def _admitted(*_: object) -> LinkEnd:
    raise _Admitted


def refusal_of(
    trust: ClusterTrust, node: str, owner: Owner, group: int, tls: LinkTls | None
) -> str | None:
    """Return why the owner of a group does not let a node in; None if it does, or is not there."""
    other_group = 0 if group else 1
    asker = Party(node, other_group, incarnation=0)
    nonce = secrets.token_bytes(NONCE_BYTES)
    shake = AskerHandshake(trust, asker, Callee(owner.node, group), nonce)
    guard = Guard(shake, _admitted, now_s=time.monotonic)
    try:
        end = guard if tls is None else TlsEnd(guard, tls, owner.host)
        address = (owner.host, owner.port)
        with socket.create_connection(address, timeout=2 * HANDSHAKE_LIMIT_S) as connected:
            return _asked(connected, end, group, is_plain=tls is None)
    except _Admitted:
        return None
    except LinkDamaged as error:
        return str(error)
    except OSError:
        return None


def _asked(
    connected: socket.socket, end: Guard | TlsEnd, group: int, *, is_plain: bool
) -> str | None:
    """Shake hands; return why the other end ended it. Raises _Admitted, LinkDamaged or OSError."""
    begun_s, has_heard = time.monotonic(), False
    connected.sendall(encode_call(group))
    while True:
        connected.sendall(end.take())
        data = connected.recv(_READ_BYTES)
        if not data:
            break
        has_heard = True
        end.received(data)
    if has_heard:
        return "it has another secret, or is of another cluster"
    if is_plain and time.monotonic() - begun_s >= _SILENCE_S:
        return "it waits for TLS"
    return None  # the group has just gone elsewhere
