"""Opening files, or writing, while the process or the machine is short of descriptors or memory.

A temporary shortage is not a failing disk. Code that opens something on a disk does so through
`opening`: it calls the functions that can relieve the shortage (a server closes idle connections),
waits, and tries again until `PATIENCE_S` has passed. Code that serves requests must not use it,
since it can wait that long.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors of opening something that say nothing about what was to be opened."""

PATIENCE_S: Final = 30.0

_PAUSE_FIRST_S: Final = 0.01
_PAUSE_LIMIT_S: Final = 0.5

Result = TypeVar("Result")

_forever = threading.Event()
"""Never set: waiting for it is how a thread pauses."""

_reliefs: list[Callable[[], None]] = []
_reliefs_lock = threading.Lock()


def add_relief(relief: Callable[[], None]) -> Callable[[], None]:
    """Register `relief`, to be called when something cannot be opened; return its removal.

    It is called in the thread that is short, and must neither block nor raise.
    """
    with _reliefs_lock:
        _reliefs.append(relief)

    def remove() -> None:
        with _reliefs_lock:
            _reliefs.remove(relief)

    return remove


def is_shortage(error: Exception) -> bool:
    """Return whether an error of opening is about descriptors or memory, not about the file."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


def is_out_of_memory(error: Exception) -> bool:
    """Return whether there was no memory for something; for what has left nothing half done."""
    return isinstance(error, MemoryError)


def opening(
    action: Callable[[], Result],
    is_short: Callable[[Exception], bool] = is_shortage,
    *,
    patience_s: float = PATIENCE_S,
    pause: Callable[[float], object] = _forever.wait,
) -> Result:
    """Call `action`, which opens something, and return its result; wait out a shortage.

    `is_short` tells its errors apart. Raises what `action` raises.
    """
    waits_s = pauses(patience_s)
    while True:
        try:
            return action()
        except Exception as error:
            pause_s = next(waits_s, None) if is_short(error) else None
            if pause_s is None:
                raise
        relieve()
        pause(pause_s)


def pauses(patience_s: float = PATIENCE_S) -> Iterator[float]:
    """Yield how long to wait after each failure, until patience is over."""
    waited_s = 0.0
    pause_s = _PAUSE_FIRST_S
    while waited_s < patience_s:
        yield pause_s
        waited_s += pause_s
        pause_s = min(2 * pause_s, _PAUSE_LIMIT_S)


def relieve() -> None:
    """Call who may relieve a shortage."""
    with _reliefs_lock:
        reliefs = list(_reliefs)
    for relief in reliefs:
        relief()
