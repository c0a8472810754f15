"""What a server answers whose log is in an engine that does not answer.

An owner may tell clients something only within its lease. Requests that come after it wait, since
that is mostly a matter of moments. When the lease has been over for a while, the server is as one
that starts: REST requests are refused with 503 and `Retry-After`, those of `POST /` wait. It is
ready again when the lease was renewed. Nothing is lost by that: what was refused was not done.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from troth.http.api.context import Api, Readiness

CUT_OFF_AFTER_S: Final = 1.0
"""How long a lease may be over before requests are refused."""

LOOK_S: Final = 0.25

_log = structlog.get_logger("troth.serve")


async def watch_lease(api: Api, may_answer: Callable[[], bool]) -> None:
    """Refuse requests while the lease is over, until canceled."""
    held_s = trio.current_time()
    while True:
        await trio.sleep(LOOK_S)
        if may_answer():
            held_s = trio.current_time()
            if api.is_cut_off and api.readiness is Readiness.STARTING:
                api.readiness = Readiness.READY
                _log.info("what keeps the log answers again")
            api.is_cut_off = False
        elif api.readiness is Readiness.READY and trio.current_time() - held_s >= CUT_OFF_AFTER_S:
            api.is_cut_off = True
            api.readiness = Readiness.STARTING
            _log.error("what keeps the log does not answer; requests are refused")
