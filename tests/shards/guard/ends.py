"""Two ends of a guarded connection, whose bytes a test carries, keeps and changes."""

from dataclasses import dataclass, field

from troth.shards.guard.guarded_end import Guard
from troth.shards.guard.handshake import AnswererHandshake, AskerHandshake, Handshake
from troth.shards.guard.trust import NONCE_BYTES, Callee, ClusterTrust, Party, Use

SECRET = b"a secret that is long enough to be one"
TRUST = ClusterTrust("shop", SECRET)
HERE, THERE = Party("north", 0, 3), Party("south", 1, 7)
CALLEE = Callee("south", 1)


def nonce(number: int) -> bytes:
    """Return what stands for a random number."""
    return bytes([number]) * NONCE_BYTES


def asker(
    trust: ClusterTrust = TRUST,
    own: Party = HERE,
    callee: Callee = CALLEE,
    number: int = 1,
) -> AskerHandshake:
    """Make the asking end of a handshake."""
    return AskerHandshake(trust, own, callee, nonce(number))


def answerer(trust: ClusterTrust = TRUST, own: Party = THERE, number: int = 2) -> AnswererHandshake:
    """Make the answering end of a handshake."""
    return AnswererHandshake(trust, own, nonce(number))


@dataclass
class Heard:
    """What is guarded in these tests: it says what it is told to, and keeps what has come."""

    to_say: bytes = b""
    heard: bytes = b""
    ends: list[str] = field(default_factory=list)

    def received(self, data: bytes) -> bool:
        """Keep what has come."""
        self.heard += data
        return True

    def take(self) -> bytes:
        """Return what there is to say."""
        said, self.to_say = self.to_say, b""
        return said

    def look(self) -> bool:
        """Return that all is well."""
        return True

    def closed(self) -> None:
        """Note the end."""
        self.ends.append("closed")

    def say_last(self) -> None:
        """Note that it was told to."""
        self.ends.append("last")


@dataclass
class GuardedPair:
    """Both ends of a connection."""

    now_s: float = 100.0
    admitted: list[Party] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    asking: Heard = field(default_factory=Heard)
    answering: Heard = field(default_factory=Heard)

    def guard(self, handshake: Handshake, inner: Heard) -> Guard:
        """Make a guard on this clock."""

        def admit(party: Party, use: Use) -> Heard:
            self.admitted.append(party)
            self.uses.append(use)
            return inner

        return Guard(handshake, admit, now_s=lambda: self.now_s)


def carry(one: Guard, other: Guard, piece_bytes: int = 1 << 20) -> tuple[bytes, bytes]:
    """Carry bytes both ways until both are silent; return what each end has said."""
    said_by_one = said_by_other = b""
    while True:
        to_other, to_one = one.take(), other.take()
        if not to_other and not to_one:
            return said_by_one, said_by_other
        said_by_one += to_other
        said_by_other += to_one
        for end, data in ((other, to_other), (one, to_one)):
            for start in range(0, len(data), piece_bytes):
                end.received(data[start : start + piece_bytes])
