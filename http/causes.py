"""How a server ended: one line for an operator, whatever else went wrong on the way out.

A failure of the log, of the checkpoints or of the data directory cancels everything that runs, and
what is being canceled may fail too: a connection in the middle of an answer, a file that cannot be
closed. None of that may hide the cause. So the cause is looked for anywhere in what was raised, and
what is left over is logged, a line each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from troth.http.sockets.descriptors import TooFewDescriptors
from troth.http.sockets.ports import ListenError
from troth.http.supervision.manager_environment import HandedOverRefused
from troth.persistence.errors import (
    CheckpointDamaged,
    CheckpointFailed,
    CheckpointsOvertaken,
    DataDirectoryError,
    DataDirectoryLost,
    LogFailed,
    MemoryRanOut,
)

_STOPPED: Final = "The server has stopped."
_CAUSES: Final = (
    # The first that is found is the cause: those further down may follow from it.
    (DataDirectoryLost, _STOPPED),
    (CheckpointDamaged, _STOPPED),
    (DataDirectoryError, ""),
    (ListenError, ""),
    (HandedOverRefused, ""),
    (MemoryRanOut, _STOPPED),
    (TooFewDescriptors, ""),
    (
        LogFailed,
        f"{_STOPPED[:-1]} without acknowledging anything more. Check the disk, then start it "
        "again: what was acknowledged is there.",
    ),
    (CheckpointFailed, _STOPPED),
)
_log = structlog.get_logger("troth.serve")


def problem_of(error: BaseException) -> str | None:
    """Return why a server ended, as a line for an operator, and log what went wrong besides.

    None if it is no failure that an operator can do something about: a defect, or Ctrl-C.
    """
    raised = list(_leaves(error))
    if not all(isinstance(one, Exception) for one in raised):
        return None
    for kind, advice in _CAUSES:
        found = next((one for one in raised if isinstance(one, kind)), None)
        if found is not None:
            for other in raised:
                if not isinstance(other, tuple(cause for cause, _ in _CAUSES)):
                    _log_other(other)
            return f"{found} {advice}".rstrip()
    return None


def is_succeeded(error: BaseException) -> bool:
    """Return whether a process of a cluster ended only because it lags behind another node."""
    # Only here: other servers need none of it.
    from troth.persistence.streams.chain import StreamTrimmed
    from troth.persistence.streams.stream_log import Deposed

    return _is_all(error, Deposed, StreamTrimmed)


def is_overtaken(error: BaseException) -> bool:
    """Return whether a process ended only because the one before it made another checkpoint."""
    return _is_all(error, CheckpointsOvertaken)


def _is_all(error: BaseException, *kinds: type[BaseException]) -> bool:
    raised = [one for one in _leaves(error) if isinstance(one, DataDirectoryError | LogFailed)]
    return bool(raised) and all(isinstance(one, kinds) for one in raised)


@contextmanager
def keeping_the_cause(doing: str) -> Iterator[None]:
    """Log an error of cleaning up instead of raising it, for use while another one is raised."""
    try:
        yield
    except Exception as error:
        _log.warning("something else failed", doing=doing, problem=_line(error))
        _log.debug("something else failed", doing=doing, exc_info=error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _log_other(error: BaseException) -> None:
    _log.warning("something else failed while the server was ending", problem=_line(error))
    _log.debug("something else failed while the server was ending", exc_info=error)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
