"""The lives of server processes, as their supervisor sees them: what it knows, and what it does.

Nothing here waits, starts or ends anything: times are arguments, and what is to be done is
returned.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, final

DOWN_AFTER_S: Final = 2.0
"""A process that says nothing for this long counts as down."""

KILL_AFTER_S: Final = 10.0
"""A process that says nothing for this long is killed, to be started again."""

FIRST_WORD_S: Final = 60.0
"""How long a process may take until its first word: it loads its modules, perhaps on a busy
machine."""

BACK_OFFS_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""How long a process that has ended waits before it is started again: the first time, the second,
and so on; the last is for all later ones."""

STEADY_AFTER_S: Final = 60.0
"""A process that has served for this long has no earlier ends counted."""


GONE_KEPT_COUNT: Final = 64
"""How many ends are remembered by their incarnations; what is older was not the last owner."""


class LifeStage(StrEnum):
    """How far a process is."""

    WAITING = "waiting"  # not there; it is started at a known time
    STARTING = "starting"  # loads its modules, or reads its group
    READY = "ready"
    STOPPING = "stopping"  # it was told to
    GONE = "gone"  # it has ended as it was told


class Act(StrEnum):
    """What the supervisor has to do with a process now."""

    START = "start"
    KILL = "kill"


@final
@dataclass(slots=True)
class Life:
    """One process of a server, with all that were started for it one after the other."""

    process: int
    stage: LifeStage = LifeStage.WAITING
    incarnation: int = 0
    is_listening: bool = False
    """Others may connect to it; False again when it has ended."""
    is_silent: bool = False
    gone: tuple[int, ...] = ()
    """The incarnations of those that were started before and have ended, the last of them."""
    starts_count: int = 0
    ends_count: int = 0
    """Ends that were not wanted, since it was last steady."""
    start_at_s: float = 0.0
    """When it is to be started, while it waits."""
    heard_at_s: float = 0.0
    has_spoken: bool = False
    ready_at_s: float | None = None
    is_killed: bool = False

    @property
    def is_up(self) -> bool:
        """Return whether others can expect an answer of it."""
        return self.is_listening and not self.is_silent

    @property
    def is_alive(self) -> bool:
        """Return whether there is a process."""
        return self.stage not in (LifeStage.WAITING, LifeStage.GONE)

    def started(self, now_s: float, incarnation: int) -> None:
        """Note that a process was started."""
        if self.incarnation:
            self.gone = (*self.gone, self.incarnation)[-GONE_KEPT_COUNT:]
        self.stage, self.incarnation = LifeStage.STARTING, incarnation
        self.starts_count += 1
        self.heard_at_s, self.has_spoken, self.ready_at_s = now_s, False, None
        self.is_listening = self.is_silent = self.is_killed = False

    def heard(self, now_s: float) -> None:
        """Note that it has said something."""
        self.heard_at_s, self.has_spoken, self.is_silent = now_s, True, False

    def became_ready(self, now_s: float) -> None:
        """Note that it serves."""
        if self.stage is LifeStage.STARTING:
            self.stage, self.ready_at_s = LifeStage.READY, now_s

    def told_to_stop(self) -> None:
        """Note that its end is wanted from here on."""
        self.stage = LifeStage.STOPPING if self.is_alive else LifeStage.GONE

    def ended(self, now_s: float, *, is_wanted: bool) -> None:
        """Note that it has ended; unless that was wanted, say when it is started again."""
        self.is_listening = self.is_silent = False
        if is_wanted:
            self.stage = LifeStage.GONE
            return
        if self.ready_at_s is not None and now_s - self.ready_at_s >= STEADY_AFTER_S:
            self.ends_count = 0
        pause_s = BACK_OFFS_S[min(self.ends_count, len(BACK_OFFS_S) - 1)]
        self.ends_count += 1
        self.stage, self.start_at_s = LifeStage.WAITING, now_s + pause_s

    def act(self, now_s: float) -> Act | None:
        """Look at the time; return what is to be done."""
        if self.stage is LifeStage.WAITING:
            return Act.START if now_s >= self.start_at_s else None
        if not self.is_alive or self.is_killed:
            return None
        silence_s = now_s - self.heard_at_s
        self.is_silent = self.has_spoken and silence_s >= DOWN_AFTER_S
        if silence_s >= (KILL_AFTER_S if self.has_spoken else FIRST_WORD_S):
            self.is_killed = True
            return Act.KILL
        return None

    def due_s(self) -> float:
        """Return when `act` may next have something to say."""
        if self.stage is LifeStage.WAITING:
            return self.start_at_s
        if not self.is_alive or self.is_killed:
            return float("inf")
        if not self.has_spoken:
            return self.heard_at_s + FIRST_WORD_S
        return self.heard_at_s + (KILL_AFTER_S if self.is_silent else DOWN_AFTER_S)

    def excuse(self, pause_s: float) -> None:
        """Do not count a time in which the supervisor itself did not run as silence."""
        self.heard_at_s += pause_s


@final
@dataclass(slots=True)
class Lives:
    """The lives of all processes of a server."""

    lives: list[Life] = field(default_factory=list)

    @classmethod
    def of(cls, processes_count: int, now_s: float) -> "Lives":
        """Return so many, each to be started now."""
        return cls([Life(process, start_at_s=now_s) for process in range(processes_count)])

    def peers(self) -> dict[int, int]:
        """Return the processes that are up, with their incarnations."""
        return {life.process: life.incarnation for life in self.lives if life.is_up}

    @property
    def are_ready(self) -> bool:
        """Return whether all serve."""
        return all(life.stage is LifeStage.READY and life.is_up for life in self.lives)

    @property
    def is_any_ready(self) -> bool:
        """Return whether at least one serves."""
        return any(life.stage is LifeStage.READY and life.is_up for life in self.lives)

    @property
    def are_gone(self) -> bool:
        """Return whether none is left, nor comes again."""
        return all(life.stage is LifeStage.GONE for life in self.lives)

    def due_s(self) -> float:
        """Return when the next of them has to be looked at."""
        return min(life.due_s() for life in self.lives)
