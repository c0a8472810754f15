"""A check each second, even without writes, that the data directory is still where it was.

A server whose directory was deleted or replaced would acknowledge data that is lost. The log itself
checks after each batch, and before it begins or removes a file; this is for the rest. A thread of
its own does it, so that the server's loop sleeps while all is well.
"""

import threading
from collections.abc import Callable
from typing import Final

import structlog
import trio

from troth.persistence.errors import DataDirectoryLost
from troth.shards.threads import in_thread

INTERVAL_S: Final = 1.0

_log = structlog.get_logger("troth.place")


async def watch_place(check: Callable[[], None], fail: Callable[[DataDirectoryLost], None]) -> None:
    """Call `check` each second, in a thread, until it raises DataDirectoryLost: `fail` gets that.

    A directory that cannot be examined for a while is not lost: that is logged, once. Ends without
    waiting for the thread, which may hang in a file system that does not answer.
    """
    is_over = threading.Event()
    limiter = trio.CapacityLimiter(1)  # never one of the threads that others wait for
    is_unknown = False

    def until_news() -> OSError | None:
        """Check until there is something else to say than before."""
        while not is_over.wait(INTERVAL_S):
            try:
                check()
            except DataDirectoryLost:
                raise
            except OSError as error:
                if not is_unknown:
                    return error
            else:
                if is_unknown:
                    return None
        return None

    try:
        while True:
            problem = await in_thread(until_news, limiter=limiter, abandon_on_cancel=True)
            is_unknown = problem is not None
            if is_unknown:
                _log.warning("the data directory cannot be examined", problem=str(problem))
    except DataDirectoryLost as error:
        fail(error)
    finally:
        is_over.set()
