"""The handshake of a link between nodes: three messages, after which both ends know the other.

```
asker     ── call: the group that it wants ──>  answerer    in the clear; says where it belongs
          <── challenge: a random number ─────
          ── introduction: who asks whom, a random number, and a proof ──>
          <── welcome: its incarnation, and a proof ──
```

The asker proves first, so a stranger learns nothing but a random number, and costs nothing but a
read. The answerer checks one proof, and keeps nothing of who fails. Each message has its length in
two bytes before it. The first thing that does not belong ends the connection, without an answer.
No I/O.
"""

import struct
from typing import Final, Protocol, TypeVar, final

import msgspec
from msgspec import Struct

from troth.core.json_errors import UNREADABLE_JSON
from troth.shards.mesh.frames import LinkDamaged

from .trust import (
    NONCE_BYTES,
    PROOF_BYTES,
    Callee,
    ClusterTrust,
    Meeting,
    Party,
    Use,
    is_same,
)

HANDSHAKE_LIMIT_BYTES: Final = 1_024
"""What one message of a stranger may have; names of nodes are much shorter."""

_MAGIC: Final = b"\xffTMesh1\n"
_CALL: Final = struct.Struct(">8sH")
CALL_BYTES: Final = _CALL.size
_LENGTH: Final = struct.Struct(">H")
_TLS_HELLO: Final = b"\x16\x03"
assert _LENGTH.unpack(_TLS_HELLO)[0] > HANDSHAKE_LIMIT_BYTES, "no message begins like this"

Message = TypeVar("Message", bound=Struct)


class NotTrusted(LinkDamaged):
    """Who is at the other end of a connection has not proved that it belongs here."""


class _Challenge(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    nonce: bytes


class _Introduction(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    asker: Party
    callee: Callee
    nonce: bytes
    proof: bytes


class _Welcome(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    incarnation: int
    proof: bytes


class Acquaintance(Struct, frozen=True):
    """What a handshake ends with: who is there, the keys, and what has come after it."""

    peer: Party
    use: Use
    own_key: bytes
    peer_key: bytes
    rest: bytes


class Handshake(Protocol):
    """Either end of a handshake."""

    def begin(self) -> bytes:
        """Return what is said first."""
        ...  # pragma: no cover

    def received(self, data: bytes) -> tuple[bytes, Acquaintance | None]:
        """Take what has come; return what to say, and at the end with whom.

        Raises NotTrusted.
        """
        ...  # pragma: no cover


def encode_call(group: int) -> bytes:
    """Return what an asker sends before all else: the group that it wants."""
    return _CALL.pack(_MAGIC, group)


def decode_call(data: bytes) -> int:
    """Return the group that a call is for. Raises NotTrusted."""
    try:
        magic, group = _CALL.unpack(data)
    except struct.error:
        magic, group = b"", 0
    if magic != _MAGIC:
        raise NotTrusted("it does not speak as processes of a cluster do")
    return int(group)


@final
class AskerHandshake:
    """The asking end: `own` wants to reach `callee`. `nonce` is random, and used once."""

    def __init__(self, trust: ClusterTrust, own: Party, callee: Callee, nonce: bytes) -> None:
        self._trust = trust
        self._own = own
        self._callee = callee
        self._nonce = nonce
        self._reader = _MessageReader()
        self._meeting: Meeting | None = None

    def begin(self) -> bytes:
        """Return what is said first: nothing."""
        return b""

    def received(self, data: bytes) -> tuple[bytes, Acquaintance | None]:
        """Take what has come; return what to say, and at the end with whom.

        Raises NotTrusted.
        """
        message = self._reader.next(data)
        if message is None:
            return b"", None
        if self._meeting is None:
            nonce = _decoded(message, _Challenge).nonce
            _check_nonce(nonce, self._nonce)
            self._meeting = Meeting(self._own, self._callee, nonce, self._nonce)
            proof = self._trust.asker_proof(self._meeting)
            said = _encoded(_Introduction(self._own, self._callee, self._nonce, proof))
            if self._reader.rest:
                raise NotTrusted("it speaks before its turn")
            return said, None
        welcome = _decoded(message, _Welcome)
        expected = self._trust.answerer_proof(self._meeting, welcome.incarnation)
        if not is_same(welcome.proof, expected):
            raise NotTrusted("it has another secret, or is of another cluster")
        keys = self._trust.session_keys(self._meeting, welcome.incarnation)
        peer = Party(self._callee.node, self._callee.group, welcome.incarnation)
        rest = self._reader.rest
        return b"", Acquaintance(peer, self._callee.use, keys.of_asker, keys.of_answerer, rest)


@final
class AnswererHandshake:
    """The answering end of process `own`. `nonce` is random, and used once."""

    def __init__(self, trust: ClusterTrust, own: Party, nonce: bytes) -> None:
        self._trust = trust
        self._own = own
        self._nonce = nonce
        self._reader = _MessageReader()

    def begin(self) -> bytes:
        """Return what is said first: the challenge."""
        return _encoded(_Challenge(self._nonce))

    def received(self, data: bytes) -> tuple[bytes, Acquaintance | None]:
        """Take what has come; return what to say, and at the end with whom.

        Raises NotTrusted.
        """
        message = self._reader.next(data)
        if message is None:
            return b"", None
        introduction = _decoded(message, _Introduction)
        _check_nonce(introduction.nonce, self._nonce)
        asker, callee = introduction.asker, introduction.callee
        meeting = Meeting(asker, callee, self._nonce, introduction.nonce)
        if not is_same(introduction.proof, self._trust.asker_proof(meeting)):
            raise NotTrusted("it has another secret, or is of another cluster")
        if callee != Callee(self._own.node, self._own.group, callee.use):
            raise NotTrusted(f"it wants group {callee.group} at node {callee.node!r}")
        if asker.group == self._own.group:
            raise NotTrusted(f"it says that it serves group {asker.group}, too")
        incarnation = self._own.incarnation
        proof = self._trust.answerer_proof(meeting, incarnation)
        keys = self._trust.session_keys(meeting, incarnation)
        rest = self._reader.rest
        known = Acquaintance(asker, callee.use, keys.of_answerer, keys.of_asker, rest)
        return _encoded(_Welcome(incarnation, proof)), known


@final
class _MessageReader:
    """Finds messages in what comes, piece by piece; what is behind one is `rest`."""

    def __init__(self) -> None:
        self.rest = b""

    def next(self, data: bytes) -> bytes | None:
        """Return the next message, if it is whole. Raises NotTrusted."""
        content = self.rest + data
        self.rest = content
        if len(content) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(content)
        if content.startswith(_TLS_HELLO):
            raise NotTrusted("it uses TLS, and this node does not")
        if not 0 < length <= HANDSHAKE_LIMIT_BYTES:
            raise NotTrusted(f"a message of {length} bytes is no part of a handshake")
        end = _LENGTH.size + length
        if len(content) < end:
            return None
        self.rest = content[end:]
        return content[_LENGTH.size : end]


def _encoded(message: Struct) -> bytes:
    content = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(content)) + content


def _decoded(content: bytes, kind: type[Message]) -> Message:
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except UNREADABLE_JSON as error:  # as of msgpack
        raise NotTrusted("a message of the handshake cannot be read") from error


def _check_nonce(theirs: bytes, ours: bytes) -> None:
    """Refuse a number of the wrong length, and our own, said back. Raises NotTrusted."""
    if len(theirs) != NONCE_BYTES or theirs == ours:
        raise NotTrusted("a random number that is not one")


assert PROOF_BYTES + NONCE_BYTES < HANDSHAKE_LIMIT_BYTES
