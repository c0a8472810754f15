"""A restart of one process after the other, while the others serve.

The next program is started first, loads its modules and does what else it can do before it has its
group, so that nothing is touched if it cannot, and clients wait for none of that. The old one makes
a checkpoint, then it finishes what clients have in flight, and ends its group; the next one opens
it, and reads what came after the checkpoint. The process after that is replaced when this one is
ready, or stands by for a group that another node of a cluster owns. A group in a cluster is not
released in between: the next one knows that the old one has ended and claims it immediately, while
other nodes wait until it was silent for 3 s.
"""

from enum import Enum
from typing import Final, Protocol, final

import structlog

from .children import Child
from .lives import FIRST_WORD_S, Life, LifeStage, Lives
from .requests import ControlRequest

PREPARE_LIMIT_S: Final = 15.0
"""How long a program that has loaded may take to prepare itself; one of another version may not say
when that is done."""

CHECKPOINT_LIMIT_S: Final = 60.0
"""How long the old process may take to make a checkpoint, while it serves. If that is not enough,
it makes one at its end."""

FOLLOW_LIMIT_S: Final = 60.0
"""How long the next process may take to read all there is, while the old one serves. If that is not
enough, it reads the rest when that has ended."""

_log = structlog.get_logger("troth.supervisor")


class RollingStep(Enum):
    """How far the replacement of one process is."""

    LOADING = 1  # the next program loads its modules
    PREPARING = 2  # it does what else it can before it has its group
    CHECKPOINTING = 3  # the old one makes a checkpoint, so that the next has little to read
    FOLLOWING = 4  # the next one reads all there is, and what the old one goes on to write
    DRAINING = 5  # the old one finishes what clients have in flight
    STOPPING = 6  # it ends its group
    OPENING = 7  # the next one opens it


class Parent(Protocol):
    """What a restart needs of the supervisor."""

    def spawn(self, process: int) -> Child:
        """Start a program that waits until it is told to serve."""

    def child_of(self, process: int) -> Child | None:
        """Return the process that has a seat now, if there is one."""

    def may_follow(self, old: Child, new: Child) -> bool:
        """Return whether the next process can follow the old one's group before it has its seat."""

    def seat_early(self, process: int, child: Child) -> None:
        """Tell the next process its seat, which another one still has."""

    def is_in_place(self, process: int) -> bool:
        """Return whether a process serves, or stands by where other nodes may serve its group."""

    def rolled(self) -> None:
        """Note that a restart has ended, for better or worse."""


@final
class Rolling:
    """One restart. `process` is the one that is replaced now.

    `was_serving` says whether any process served when it began: then connections wait for the next
    one of those, however long it takes.
    """

    def __init__(
        self, parent: Parent, lives: Lives, request: ControlRequest, drain_s: float
    ) -> None:
        self.process = -1
        self.was_serving = lives.is_any_ready
        self.successor: Child | None = None
        self._parent = parent
        self._lives = lives
        self._request = request
        self._drain_s = drain_s
        self._step = RollingStep.OPENING
        self._ends_s = float("inf")
        self._starts_count = 0
        self._is_over = False

    @property
    def has_successor(self) -> bool:
        """Return whether the next program has been started, and does not serve yet."""
        return self.successor is not None

    def take_successor(self) -> Child | None:
        """Return the next program, which serves from here on; None while it still loads."""
        child = self.successor
        if child is None or not child.has_loaded:
            return None
        self.successor = None
        self._step = RollingStep.OPENING
        self._starts_count = self._life.starts_count + 1
        return child

    @property
    def _life(self) -> Life:
        return self._lives.lives[self.process]

    def go_on(self, now_s: float) -> None:
        """Do what can be done now."""
        if self._is_over:
            return  # only the end of a next program is waited for
        if self.process < 0:
            self._begin(0, now_s)
        elif self._step is RollingStep.OPENING:
            self._look_at_opening(now_s)
        elif self._step is RollingStep.LOADING:
            self._look_at_loading(now_s)
        elif self._step is RollingStep.PREPARING:
            self._look_at_preparing(now_s)
        elif self._step is RollingStep.CHECKPOINTING:
            self._look_at_checkpoint(now_s)
        elif self._step is RollingStep.FOLLOWING:
            self._look_at_following(now_s)
        elif self._step is RollingStep.DRAINING:
            child = self._parent.child_of(self.process)
            if child is not None and (child.has_drained or now_s >= self._ends_s):
                self._step = RollingStep.STOPPING
                self._life.told_to_stop()
                child.tell({"tell": "stop", "is_replaced": True})

    def _begin(self, process: int, now_s: float) -> None:
        self.process, self._step, self._ends_s = process, RollingStep.LOADING, now_s + FIRST_WORD_S
        try:
            self.successor = self._parent.spawn(process)
        except OSError as error:
            self.give_up(f"no program can be started: {error.strerror or error}")

    def _look_at_loading(self, now_s: float) -> None:
        assert self.successor is not None, "it is taken only when it has loaded"
        if self.successor.has_loaded:
            self._step, self._ends_s = RollingStep.PREPARING, now_s + PREPARE_LIMIT_S
            self._look_at_preparing(now_s)
        elif now_s >= self._ends_s:
            self.give_up(f"the next program of process {self.process} did not start")

    def _look_at_preparing(self, now_s: float) -> None:
        assert self.successor is not None, "it is taken only when the old one has ended"
        old = self._parent.child_of(self.process)
        is_prepared = self.successor.is_prepared or now_s >= self._ends_s
        if is_prepared and old is not None:
            self._step, self._ends_s = RollingStep.CHECKPOINTING, now_s + CHECKPOINT_LIMIT_S
            old.has_checkpointed = old.is_covered = False
            old.tell({"tell": "checkpoint"})

    def _look_at_checkpoint(self, now_s: float) -> None:
        old, new = self._parent.child_of(self.process), self.successor
        assert new is not None, "it is taken only when the old one has ended"
        if old is None or not (old.has_checkpointed or now_s >= self._ends_s):
            return
        if self._parent.may_follow(old, new):
            self._step, self._ends_s = RollingStep.FOLLOWING, now_s + FOLLOW_LIMIT_S
            self._parent.seat_early(self.process, new)
        else:
            self._drain(old, now_s)

    def _look_at_following(self, now_s: float) -> None:
        old, new = self._parent.child_of(self.process), self.successor
        assert new is not None, "it is taken only when the old one has ended"
        if old is not None and (new.is_following or now_s >= self._ends_s):
            self._drain(old, now_s)

    def _drain(self, old: Child, now_s: float) -> None:
        self._step, self._ends_s = RollingStep.DRAINING, now_s + self._drain_s
        old.tell({"tell": "drain"})

    def _look_at_opening(self, now_s: float) -> None:
        life = self._life
        if life.starts_count > self._starts_count or life.stage is LifeStage.WAITING:
            self.give_up(f"process {self.process} has ended while it started; see the log")
        elif self._parent.is_in_place(self.process):
            self._request.answer({"restarted": self.process})
            if self.process + 1 < len(self._lives.lives):
                self._begin(self.process + 1, now_s)
                return
            _log.info("all processes have been restarted")
            self._request.answer({"done": True}, is_last=True)
            self._parent.rolled()

    def successor_has_ended(self) -> None:
        """Note that the next program is gone before it served."""
        self.successor = None
        if self._is_over:
            self._parent.rolled()
            return
        old = self._parent.child_of(self.process)
        if self._step is RollingStep.DRAINING and old is not None:
            # It takes no connections any more: it is of no use without a next one.
            self._life.told_to_stop()
            old.tell({"tell": "stop"})
        self.give_up(f"the next program of process {self.process} has ended; see the log")

    def give_up(self, reason: str) -> None:
        """End the restart here; what serves goes on."""
        _log.error("the restart has ended early", reason=reason)
        self._is_over = True
        if self.successor is not None:
            self.successor.kill()
        old = self._parent.child_of(self.process)
        if old is not None:
            old.tell({"tell": "stay"})
        self._request.answer({"failed": reason}, is_last=True)
        if self.successor is None:
            self._parent.rolled()
