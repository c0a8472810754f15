"""An end of a link that lets in only who has proved to belong: a handshake, then sealed pieces.

The end itself (`MeshLink`, `Answering`) is asked for when the other one is known, so a stranger
costs no more than a handshake. Who has not proved anything within `HANDSHAKE_LIMIT_S` is cut off.
The owner of the connection treats this end as any other. No I/O.
"""

from collections.abc import Callable
from typing import Final, Protocol, final

from .handshake import Acquaintance, Handshake
from .sealing import Opener, Sealer
from .trust import Party, Use

HANDSHAKE_LIMIT_S: Final = 2.0
"""How long the other end has for its proof; as long as a link may be silent."""


class LinkEnd(Protocol):
    """Either end of a link: what a connection has to do with it, guarded or not."""

    def received(self, data: bytes) -> bool:
        """Take what has come; return whether there is something for a turn.

        Raises LinkDamaged.
        """
        ...  # pragma: no cover

    def take(self) -> bytes:
        """Return what is to be sent now."""
        ...  # pragma: no cover

    def look(self) -> bool:
        """Look at the time; return whether the connection is still good."""
        ...  # pragma: no cover

    def closed(self) -> None:
        """Note that the connection has ended."""
        ...  # pragma: no cover

    def say_last(self) -> None:
        """Say that nothing further is carried out here, if that is for this end to say."""
        ...  # pragma: no cover


@final
class Guard:
    """A connection from its first byte on. `now_s` is a monotonic clock.

    `admit` gives the end for who has proved that it belongs, and for what it comes. It may raise
    LinkDamaged, too.
    """

    def __init__(
        self,
        handshake: Handshake,
        admit: Callable[[Party, Use], LinkEnd],
        *,
        now_s: Callable[[], float],
    ) -> None:
        self._handshake = handshake
        self._admit = admit
        self._now_s = now_s
        self._until_s = now_s() + HANDSHAKE_LIMIT_S
        self._outgoing = handshake.begin()
        self._inner: LinkEnd | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None

    @property
    def is_known(self) -> bool:
        """Return whether the other end has proved that it belongs here."""
        return self._inner is not None

    def received(self, data: bytes) -> bool:
        """Take what has come; return whether there is something for a turn.

        Raises LinkDamaged, and NotTrusted, which is one.
        """
        if self._opener is None:
            said, known = self._handshake.received(data)
            self._outgoing += said
            if known is None:
                return False
            data = self._meet(known)
        assert self._inner is not None, "it is there when the keys are"
        assert self._opener is not None, "the handshake is over"
        has_work = False
        for content in self._opener.open(data):
            has_work |= self._inner.received(content)
        return has_work

    def _meet(self, known: Acquaintance) -> bytes:
        """Take the other end in; return what it has said since."""
        self._inner = self._admit(known.peer, known.use)
        self._sealer = Sealer(known.own_key)
        self._opener = Opener(known.peer_key)
        return known.rest

    def take(self) -> bytes:
        """Return what is to be sent now; it counts as said."""
        outgoing, self._outgoing = self._outgoing, b""
        if self._inner is None or self._sealer is None:
            return outgoing
        said = self._inner.take()
        return outgoing + self._sealer.seal(said) if said else outgoing

    def look(self) -> bool:
        """Look at the time, some times a second; return whether the connection is still good."""
        if self._inner is None:
            return self._now_s() < self._until_s
        return self._inner.look()

    def closed(self) -> None:
        """Note that the connection has ended."""
        if self._inner is not None:
            self._inner.closed()

    def say_last(self) -> None:
        """Say that nothing further is carried out here."""
        if self._inner is not None:
            self._inner.say_last()
