"""What two processes of a cluster prove to each other, and the keys that follow from it. No I/O.

All that is proved rests on the cluster's secret. A proof covers the cluster's name, who asks and
who answers (node, group, incarnation), what for, random numbers of both, and which says it. So one
that was heard on one connection is worth nothing on another, in the other direction, to another
node, group or cluster, or to the next process of the same group.

The keys for what is said afterwards cover the same, one for each direction. They hide nothing:
without TLS, what crosses can be read. They are as secret as the cluster's secret stays.
"""

import hmac
from enum import IntEnum
from typing import Final, final

import msgspec
from msgspec import Struct

SECRET_LEAST_BYTES: Final = 32
"""A shorter secret could be guessed from one proof that was heard."""

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32

_DIGEST: Final = "sha256"
_PURPOSE: Final = b"troth mesh 1"
_encode: Final = msgspec.msgpack.Encoder().encode


class Party(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One end of a link: a process, by its node and the group that it serves.

    `incarnation` is larger for each process that has served the group, on whatever node.
    """

    node: str
    group: int
    incarnation: int


class Use(IntEnum):
    """What a connection between nodes is for."""

    LINK = 1
    """A link of the mesh."""
    STREAM = 2
    """The stream of one worker, on its way to the home of its poll group."""


class Callee(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whom the asking end means to reach, and what for; of its incarnation it need not know."""

    node: str
    group: int
    use: Use = Use.LINK


class Meeting(Struct, frozen=True):
    """All that both ends have said before they prove anything."""

    asker: Party
    callee: Callee
    nonce_of_answerer: bytes
    nonce_of_asker: bytes


class SessionKeys(Struct, frozen=True):
    """The keys of one connection: for what the asker says, and for what the answerer says."""

    of_asker: bytes
    of_answerer: bytes


@final
class ClusterTrust:
    """What all processes of a cluster share: its name and its secret."""

    def __init__(self, cluster: str, secret: bytes) -> None:
        assert len(secret) >= SECRET_LEAST_BYTES, "who reads the secret has checked it"
        self._key = hmac.digest(secret, _encode([_PURPOSE, cluster]), _DIGEST)

    def asker_proof(self, meeting: Meeting) -> bytes:
        """Return what proves to the answerer that the asker belongs to the cluster."""
        return self._sign(b"asks", meeting, 0)

    def answerer_proof(self, meeting: Meeting, incarnation: int) -> bytes:
        """Return what proves to the asker that an answerer of an incarnation belongs to it."""
        return self._sign(b"answers", meeting, incarnation)

    def session_keys(self, meeting: Meeting, incarnation: int) -> SessionKeys:
        """Return the keys of the connection that a meeting was about."""
        return SessionKeys(
            self._sign(b"key of asker", meeting, incarnation),
            self._sign(b"key of answerer", meeting, incarnation),
        )

    def _sign(self, use: bytes, meeting: Meeting, incarnation: int) -> bytes:
        content = [
            use,
            meeting.asker,
            meeting.callee,
            meeting.nonce_of_answerer,
            meeting.nonce_of_asker,
            incarnation,
        ]
        return hmac.digest(self._key, _encode(content), _DIGEST)


def is_same(one: bytes, other: bytes) -> bool:
    """Return whether two proofs are equal, in a time that does not say where they differ."""
    return hmac.compare_digest(one, other)
