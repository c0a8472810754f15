"""The spare process: a program that has loaded its modules, and takes the seat of one that ends.

Loading is most of what a start takes, so a group whose process was killed is back much sooner. The
spare owns nothing: neither the directory's lock nor a socket, until it is told its seat. It is
started when all processes have been in place for a while, so that it costs those nothing which
start. Before a restart, and when the server stops, it is ended: the next one has the files and
settings that are there then.

It says several times a second that it lives. One that says nothing is not given a seat, and is
killed after a while. One that ends is replaced later and later: what ends it may end the next one,
too, and the server does without.
"""

from collections.abc import Callable
from typing import Final, Protocol, final

import structlog

from .children import Child, end_words
from .lives import Act, Life, LifeStage

AFTER_S: Final = 5.0
"""How long all processes are in place before a spare one is started."""

LATER_AFTER_S: Final = (5.0, 10.0, 30.0, 60.0, 300.0)
"""How long after the end of a spare process the next is started: the first time, the second, and so
on; the last is for all later ones."""

_NOT_DUE_S: Final = float("inf")
_log = structlog.get_logger("troth.supervisor")


class Start(Protocol):
    """Starts a program that waits for a seat. Raises OSError."""

    def __call__(self, process: int | None) -> Child: ...


@final
class Spare:
    """At most one program that waits for a seat. Times are arguments.

    `start` begins one, `release` ends what was begun for one that has ended.
    """

    def __init__(self, start: Start, release: Callable[[Child], None]) -> None:
        self.child: Child | None = None
        self._start = start
        self._release = release
        self._life = Life(-1, start_at_s=_NOT_DUE_S)
        self._is_unwanted = False
        """Whether its end was asked for."""

    @property
    def shown(self) -> dict[str, object] | None:
        """Return what people may know of it."""
        child = self.child
        if child is None or self._is_unwanted:
            return None
        return {"pid": child.process_id, "loaded": child.has_loaded, "silent": self._life.is_silent}

    def heard(self, now_s: float) -> None:
        """Note that it has said something."""
        self._life.heard(now_s)
        if self.child is not None and self.child.has_loaded and self._life.ready_at_s is None:
            self._life.became_ready(now_s)
            _log.info("a spare process has loaded", pid=self.child.process_id)

    def look(self, now_s: float, *, is_wanted: bool) -> None:
        """Start one, or end one that hangs, if it is time. `is_wanted`: all are in place."""
        life = self._life
        if self.child is None and not is_wanted:
            life.start_at_s = _NOT_DUE_S
        elif self.child is None and life.start_at_s == _NOT_DUE_S:
            pauses_s = (AFTER_S, *LATER_AFTER_S)
            life.start_at_s = now_s + pauses_s[min(life.ends_count, len(LATER_AFTER_S))]
        match life.act(now_s):
            case Act.START:
                self._begin(now_s)
            case Act.KILL if self.child is not None:
                _log.warning("the spare process says nothing and is killed")
                self.child.kill()

    def _begin(self, now_s: float) -> None:
        self._is_unwanted = False
        try:
            self.child = self._start(None)
        except OSError as error:
            self._wait(now_s, is_wanted=False)
            _log.warning("no spare process can be started", reason=str(error))
        else:
            self._life.started(now_s, 0)

    def due_s(self) -> float:
        """Return when `look` may next have something to do."""
        return self._life.due_s()

    def excuse(self, pause_s: float) -> None:
        """Do not count a time in which the supervisor itself did not run as silence."""
        self._life.excuse(pause_s)

    def take(self, now_s: float) -> Child | None:
        """Return the program, which is no spare one from here on; None if there is none fit.

        One that still loads is ahead of a new one.
        """
        child, life = self.child, self._life
        if child is None or self._is_unwanted or life.is_killed or life.is_silent:
            return None
        self.child = None
        self._wait(now_s, is_wanted=True)
        return child

    def discard(self) -> None:
        """End it: it is not needed, or is not what is needed any more."""
        if self.child is not None:
            self._is_unwanted = True
            self.child.kill()

    def reap(self, now_s: float) -> None:
        """See to it if it has ended."""
        child = self.child
        status = None if child is None else child.exit_status()
        if child is None or status is None:
            return
        self._release(child)
        self.child = None
        self._wait(now_s, is_wanted=self._is_unwanted)
        if not self._is_unwanted:
            _log.warning("the spare process has ended", **end_words(status))

    def _wait(self, now_s: float, *, is_wanted: bool) -> None:
        """Wait until one is to be started; `is_wanted` says whether the last one's end was."""
        self._life.ended(now_s, is_wanted=is_wanted)
        self._life.stage, self._life.start_at_s = LifeStage.WAITING, _NOT_DUE_S
