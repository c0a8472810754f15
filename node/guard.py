"""A process that ends what functions have started, if the node itself is killed.

A program of its own, run as `python -I -S guard.py`; it needs only the standard library. The kernel
ends a function's processes with the node, but not what these have forked. This program waits for
the end of its standard input, whose other end only the node has, and then ends what is left:

- `users FIRST COUNT`: everything that runs for one of these users; nothing can escape; -
`marked TEXT`: every process with an environment variable that begins with TEXT. A process that has
replaced
  its environment is not found; README.md says so.

It holds the locks of the node's directory until then, so the next node starts after it has ended.
"""

import contextlib
import os
import select
import signal
import sys
import time
from typing import Final

END_LIMIT_S: Final = 4.0
"""What has not ended by then hangs in the kernel; the next start says so."""
_INTERVAL_S: Final = 0.005
_ROUNDS_WITHOUT_COUNT: Final = 2
"""Rounds in which nothing was found, until nothing is there: a fork may have been in between."""


def main() -> None:
    """Wait for the end of the node, and end what it has left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # They are the node's, which may take its time to end.
        signal.signal(number, signal.SIG_IGN)
    kind, *arguments = sys.argv[1:]
    while os.read(0, 1):
        pass
    deadline = time.monotonic() + END_LIMIT_S
    if kind == "users":
        first_uid, count = map(int, arguments)
        for uid in range(first_uid, first_uid + count):
            end_user(uid, deadline)
    else:
        end_marked(os.fsencode(arguments[0]), deadline)


def end_user(uid: int, deadline: float) -> None:
    """End whatever runs for a user, until nothing does or the time is over."""
    while _has_processes(uid) and time.monotonic() < deadline:
        killer = os.fork()
        if killer == 0:
            try:
                os.setresuid(uid, uid, uid)
                # Every process of the user but this one, with no gap for a new one.
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)
        _pause()


def _pause() -> None:
    select.select((), (), (), _INTERVAL_S)


def _has_processes(uid: int) -> bool:
    try:
        os.getpriority(os.PRIO_USER, uid)
    except ProcessLookupError:
        return False
    return True


def end_marked(mark: bytes, deadline: float) -> None:
    """End all processes of this user with such a variable, until there are none."""
    rounds_left_count = _ROUNDS_WITHOUT_COUNT
    while rounds_left_count and time.monotonic() < deadline:
        everything = map(int, filter(str.isdecimal, os.listdir("/proc")))
        found = [one for one in everything if one != os.getpid() and _is_marked(one, mark)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, number)
        rounds_left_count = _ROUNDS_WITHOUT_COUNT if found else rounds_left_count - 1
        _pause()


def _is_marked(process_id: int, mark: bytes) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{process_id}/environ", "rb") as file:
        # It may have ended, or not be this user's.
        return any(variable.startswith(mark) for variable in file.read().split(b"\0"))
    return False


if __name__ == "__main__":
    main()
