"""Who owns a stream, and until when it may answer: one node's part of it, as a table and a value.

Rules of this file: every transition of the protocol is in `TRANSITIONS`, from which README.md draws
its page. Nothing here sends, reads or looks at a clock: durations come in as `now_ms`, of a clock
that never steps and counts on while the machine sleeps. An `Ownership` is a value; what happens
gives another one, so a test can try all orders of events.

An owner has one frame in flight. It may answer clients only within its lease, which counts from
when it *sent* the last frame that was acknowledged. A new owner waits for as long, and for the
drift of both clocks, from when it *received* the last frame before its own.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from troth.core.limits import STREAM_ALIVE_MS, STREAM_LEASE_MS, STREAM_TAKEOVER_WAIT_MS

from .stream_frames import FrameKind, StreamFrame


class Standing(StrEnum):
    """What a node is to the stream."""

    FOLLOWING = "following"
    CLAIMING = "claiming"
    CLAIM_DOUBTED = "claim in doubt"
    OWNING = "owning"
    APPENDING = "appending"
    DOUBTED = "append in doubt"
    RELEASED = "released"
    DEPOSED = "deposed"


class Occurrence(StrEnum):
    """What can happen to it."""

    CLAIM = "it claims"
    APPEND = "it appends"
    ACKNOWLEDGED = "acknowledged"
    GIVEN_UP = "release acknowledged or found"
    UNANSWERED = "refused, or no answer"
    OURS = "ours stands there"
    ANOTHERS = "another's stands there"
    NOTHING = "nothing stands there"


_S, _O = Standing, Occurrence

TRANSITIONS: Final[Mapping[tuple[Standing, Occurrence], Standing]] = {
    (_S.FOLLOWING, _O.CLAIM): _S.CLAIMING,
    (_S.CLAIMING, _O.ACKNOWLEDGED): _S.OWNING,
    (_S.CLAIMING, _O.UNANSWERED): _S.CLAIM_DOUBTED,
    (_S.CLAIM_DOUBTED, _O.OURS): _S.OWNING,
    (_S.CLAIM_DOUBTED, _O.ANOTHERS): _S.FOLLOWING,
    (_S.CLAIM_DOUBTED, _O.NOTHING): _S.CLAIMING,
    (_S.OWNING, _O.APPEND): _S.APPENDING,
    (_S.APPENDING, _O.ACKNOWLEDGED): _S.OWNING,
    (_S.APPENDING, _O.GIVEN_UP): _S.RELEASED,
    (_S.APPENDING, _O.UNANSWERED): _S.DOUBTED,
    (_S.DOUBTED, _O.OURS): _S.OWNING,
    (_S.DOUBTED, _O.GIVEN_UP): _S.RELEASED,
    (_S.DOUBTED, _O.ANOTHERS): _S.DEPOSED,
    (_S.DOUBTED, _O.NOTHING): _S.APPENDING,
}
"""(standing, occurrence) -> standing. A pair that is not here cannot happen."""

_IN_FLIGHT: Final = (Standing.CLAIMING, Standing.APPENDING)
_OWNERS: Final = (Standing.OWNING, Standing.APPENDING, Standing.DOUBTED)


class Ownership(Struct, frozen=True):
    """One node's part in one stream.

    `number` and `epoch` are those of the last frame that is known to stand in the stream, received
    at `heard_ms`. All frames up to `durable_number` are durable. `in_flight` was sent first at
    `sent_ms`, and is the only thing that may be sent again until it is known what became of it.
    """

    standing: Standing = Standing.FOLLOWING
    number: int = 0
    epoch: int = 0
    heard_ms: int = 0
    is_free: bool = True
    """The last owner has stopped answering, or there never was one."""
    in_flight: StreamFrame | None = None
    sent_ms: int = 0
    durable_number: int = 0
    serves_from_ms: int = 0
    lease_until_ms: int = 0

    def _after(self, occurrence: Occurrence) -> Standing:
        standing = TRANSITIONS.get((self.standing, occurrence))
        assert standing is not None, f"{occurrence} cannot happen while {self.standing}"
        return standing

    def received(self, frame: StreamFrame, now_ms: int) -> "Ownership":
        """Note the next frame of the stream, which another node has sent."""
        assert self.standing is Standing.FOLLOWING, "an owner reads nothing"
        assert frame.number == self.number + 1, "frames are received in order"
        return replace(
            self,
            number=frame.number,
            epoch=frame.epoch,
            heard_ms=now_ms,
            is_free=frame.kind is FrameKind.RELEASED,
        )

    def owner_has_ended(self) -> "Ownership":
        """Note that the process which sent the last frame is known to be gone.

        It answers nothing any more.
        """
        assert self.standing is Standing.FOLLOWING
        return replace(self, is_free=True)

    def claim(self, frame: StreamFrame, now_ms: int) -> "Ownership":
        """Send the frame that claims the stream, behind all that was received."""
        assert frame.kind is FrameKind.OWNER
        assert frame.epoch == self.epoch + 1, "each owner has an epoch of its own"
        # The expected number makes the frame that was received last the one before this.
        serves_from_ms = now_ms if self.is_free else self.heard_ms + STREAM_TAKEOVER_WAIT_MS
        return replace(self._sent(Occurrence.CLAIM, frame, now_ms), serves_from_ms=serves_from_ms)

    def append(self, frame: StreamFrame, now_ms: int) -> "Ownership":
        """Send the owner's next frame."""
        assert frame.kind is not FrameKind.OWNER
        assert frame.epoch == self.epoch, "an owner appends in its own epoch"
        # The next owner does not wait after a release, so the lease of the one before must be over.
        assert frame.kind is not FrameKind.RELEASED or now_ms >= self.serves_from_ms
        return self._sent(Occurrence.APPEND, frame, now_ms)

    def _sent(self, occurrence: Occurrence, frame: StreamFrame, now_ms: int) -> "Ownership":
        assert frame.number == self.number + 1, "a frame goes behind the last one known"
        return replace(self, standing=self._after(occurrence), in_flight=frame, sent_ms=now_ms)

    @property
    def is_to_send(self) -> bool:
        """Return whether what is in flight is to be sent, for the first time or again."""
        return self.standing in _IN_FLIGHT

    @property
    def is_in_doubt(self) -> bool:
        """Return whether the frame behind the last one known has to be read."""
        return self.standing in (Standing.CLAIM_DOUBTED, Standing.DOUBTED)

    def acknowledged(self) -> "Ownership":
        """Note that what is in flight stands in the stream and is durable, with all before it."""
        frame = self.in_flight
        assert frame is not None
        return replace(
            self,
            standing=self._after(_landed(frame, Occurrence.ACKNOWLEDGED)),
            number=frame.number,
            epoch=frame.epoch,
            in_flight=None,
            durable_number=frame.number,
            lease_until_ms=self.sent_ms + STREAM_LEASE_MS,
        )

    def unanswered(self) -> "Ownership":
        """Note that it was refused, or not answered: both leave open whether it stands there."""
        return replace(self, standing=self._after(Occurrence.UNANSWERED))

    def found(self, frame: StreamFrame | None) -> "Ownership":
        """Note what stands where what is in flight should; None if nothing does yet.

        What is found to be ours is not durable yet: an engine may show what it has not replicated.
        The acknowledgment of a later frame says that it is.
        """
        ours = self.in_flight
        assert ours is not None
        if frame is None:
            return replace(self, standing=self._after(Occurrence.NOTHING))
        if frame != ours:
            return replace(self, standing=self._after(Occurrence.ANOTHERS), in_flight=None)
        return self._landed(ours, self._after(_landed(ours, Occurrence.OURS)))

    def _landed(self, frame: StreamFrame, standing: Standing) -> "Ownership":
        return replace(
            self, standing=standing, number=frame.number, epoch=frame.epoch, in_flight=None
        )

    def may_answer(self, now_ms: int) -> bool:
        """Return whether it may answer clients now: no other node answers before it stops."""
        if self.standing not in _OWNERS:
            return False
        if self.in_flight is not None and self.in_flight.kind is FrameKind.RELEASED:
            return False  # the next owner does not wait
        return self.serves_from_ms <= now_ms < self.lease_until_ms

    @property
    def alive_due_ms(self) -> int:
        """The time from which an owner that has nothing to append says so.

        It is over if the last frames are not known to be durable.
        """
        if self.durable_number < self.number:
            return self.sent_ms
        return self.sent_ms + STREAM_ALIVE_MS


def _landed(frame: StreamFrame, otherwise: Occurrence) -> Occurrence:
    return Occurrence.GIVEN_UP if frame.kind is FrameKind.RELEASED else otherwise
