"""A check each second, even without writes, that the data directory is still where it was.

A server whose directory was deleted or replaced would acknowledge data that is lost. The log itself
checks after each batch, and before it begins or removes a file; this is for the rest.
"""

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

    A directory that cannot be examined for a while is not lost: that is logged, once.
    """
    is_unknown = False
    while True:
        await trio.sleep(INTERVAL_S)
        try:
            await in_thread(check)
        except DataDirectoryLost as error:
            fail(error)
            return
        except OSError as error:
            if not is_unknown:
                _log.warning("the data directory cannot be examined", problem=str(error))
            is_unknown = True
        else:
            is_unknown = False
