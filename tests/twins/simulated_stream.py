"""A stream in simulated time, with all that an engine may do to who appends to it.

Frames land at once, late or never; answers come or do not; an engine refuses what is on its way
already (JetStream's 10071 for one's own proposal); a leader that was cut off shows an old stream.
Several clients may share one: each is a `SimulatedStream` on the same `SimulatedEngine`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, final

from troth.persistence.streams.stream import StreamUnreachable

FAULTS: Final = ("lost", "answer lost", "late", "late and refused", "stale read", "no read")
"""What may happen to a call, by name."""


@dataclass
class SimulatedClock:
    """The time of one machine, in ms; sleeping passes it."""

    time_ms: int = 1_000_000
    on_sleep: Callable[[], None] = lambda: None

    def boot_ms(self) -> int:
        """Return the time since some moment."""
        return self.time_ms

    def now_ms(self) -> int:
        """Return the time of day."""
        return 1_700_000_000_000 + self.time_ms

    def sleep_s(self, duration_s: float) -> None:
        """Let time pass."""
        self.time_ms += max(int(duration_s * 1000), 1)
        self.on_sleep()


@dataclass
class SimulatedEngine:
    """What stands in the stream, and what is under way to it."""

    identity: bytes | None = None
    frames: list[bytes] = field(default_factory=list)
    trimmed_count: int = 0
    under_way: list[tuple[int, int, bytes, bool]] = field(default_factory=list)
    epoch: int = 0

    def land(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Append a frame if it may stand here; return whether it does now."""
        if number != len(self.frames) + 1 or epoch != self.epoch + is_claim:
            return False
        self.frames.append(frame)
        self.epoch = epoch
        return True

    def land_late(self, random: Random) -> None:
        """Let some of what is under way land now, in any order."""
        random.shuffle(self.under_way)
        while self.under_way and random.random() < 0.5:
            number, epoch, frame, is_claim = self.under_way.pop()
            self.land(number, epoch, frame, is_claim=is_claim)


@final
class SimulatedStream:
    """One client of an engine. `chance` is that of a fault in each call; `faults` names them."""

    name = "a simulated stream"
    behind_ms = 20_000

    def __init__(
        self,
        engine: SimulatedEngine,
        random: Random,
        clock: SimulatedClock,
        chance: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
    ) -> None:
        self.chance = chance
        self.met: set[str] = set()
        self.is_closed = False
        self._engine = engine
        self._random = random
        self._clock = clock
        self._faults = faults

    def found(self, identity: bytes) -> bytes:
        if self._engine.identity is None:
            self._engine.identity = identity
        return self._engine.identity

    def _fault(self, *names: str) -> str | None:
        """Let a moment pass; return what goes wrong in this call, or None."""
        self._clock.time_ms += self._random.choice((0, 1, 1, 3, 20))
        self._engine.land_late(self._random)
        possible = [name for name in names if name in self._faults]
        if not possible or self._random.random() >= self.chance:
            return None
        fault = self._random.choice(possible)
        self.met.add(fault)
        if self._random.random() < 0.2:
            self._clock.time_ms += self._random.randrange(3_000)
        return fault

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        fault = self._fault("lost", "answer lost", "late", "late and refused")
        if fault in ("late", "late and refused"):
            self._engine.under_way.append((number, epoch, frame, is_claim))
        if fault == "late and refused":
            return False
        if fault in ("lost", "late"):
            raise StreamUnreachable("no answer")
        is_there = self._engine.land(number, epoch, frame, is_claim=is_claim)
        if fault == "answer lost":
            raise StreamUnreachable("no answer")
        return is_there

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        fault = self._fault("stale read", "no read")
        if fault == "no read":
            raise StreamUnreachable("no answer")
        shown = self._engine.frames
        if fault == "stale read":
            shown = shown[: self._random.randrange(len(shown) + 1)]
        some = list(enumerate(shown, 1))[max(from_number - 1, self._engine.trimmed_count) :]
        return some[: self._random.choice((1, 2, 100))]

    def first(self) -> int:
        if self._fault("no read") is not None:
            raise StreamUnreachable("no answer")
        engine = self._engine
        return engine.trimmed_count + 1 if len(engine.frames) > engine.trimmed_count else 0

    def close(self) -> None:
        self.is_closed = True
