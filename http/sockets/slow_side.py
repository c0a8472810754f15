"""What serves the connections that the hot lane does not: Quart and hypercorn, loaded late.

They take a fifth of the time of a start, and most connections need neither. So they are loaded in a
thread when the server is ready (`load_soon`), not later, since files of another version may be
installed while a server runs, and descriptors may run out. What a thread does holds up no client; a
connection that needs them before waits. Other libraries that no start needs are loaded along with
them: what schedules and `/metrics` use.
"""

import gc
import importlib
import sys
from typing import TYPE_CHECKING, Any, Final, final

import structlog
import trio

from troth.http.api.context import Api
from troth.http.api.rows import Endpoint
from troth.http.wire.in_flight import Hold, InFlight
from troth.persistence.shortage import PATIENCE_S
from troth.shards.threads import in_thread

from .connection_limits import ASGIApplication, ConnectionLimits
from .slow_gate import SlowGate

if TYPE_CHECKING:
    from .hypercorn_connection import HypercornConnection

MODULES: Final = (
    "croniter",
    "troth.http.metrics.of_process",
    "troth.http.sockets.asgi",
    "troth.http.sockets.hypercorn_connection",
)
"""What is loaded late."""
_PAUSE_S: Final = 0.1
_log = structlog.get_logger("troth.http.slow_side")


async def load() -> None:
    """Load what the slow side needs, if that was not done.

    While there are too few descriptors, or too little memory, it is tried again for a while. Raises
    ImportError, OSError or MemoryError after that.
    """
    until_s = trio.current_time() + PATIENCE_S
    while True:
        try:
            await in_thread(_load)
        except (ImportError, OSError, MemoryError):
            if trio.current_time() >= until_s:
                raise
            await trio.sleep(_PAUSE_S)
        else:
            return


async def load_soon() -> None:
    """Do as `load`; what fails is logged, and tried again when a connection needs it."""
    try:
        await load()
    except (ImportError, OSError, MemoryError) as error:
        _log.warning("a part of the server could not be loaded yet", reason=str(error))


def _load() -> None:
    if all(name in sys.modules for name in MODULES):
        return
    for name in MODULES:
        importlib.import_module(name)
    # It stays, so the collector need not look at it; what else is there so early is little.
    gc.freeze()


@final
class LateApplication:
    """The ASGI application of a port, which is made by its first request."""

    def __init__(self, api: Api, endpoints: tuple[Endpoint, ...]) -> None:
        self._api = api
        self._endpoints = endpoints
        self._made: ASGIApplication | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if self._made is None:
            from .asgi import Application

            self._made = Application(self._api, self._endpoints)
        await self._made(scope, receive, send)


@final
class SlowSide:
    """Makes what serves the connections of one port that left the lane."""

    def __init__(self, application: ASGIApplication, limits: ConnectionLimits) -> None:
        self._application = application
        self._limits = limits
        self._shared: tuple[Any, Any] | None = None

    async def connection(
        self,
        stream: trio.SocketStream,
        url: str,
        received: bytes,
        received_since: float,
        in_flight: InFlight,
        gate: SlowGate,
        received_hold: Hold | None,
    ) -> "HypercornConnection":
        """Return what serves a connection; see there."""
        if self._shared is None:
            await load()
        from hypercorn.trio.worker_context import WorkerContext

        from .hypercorn_connection import HypercornConnection, make_config

        if self._shared is None:
            self._shared = (WorkerContext(None), make_config(self._limits))
        context, config = self._shared
        return HypercornConnection(
            self._application,
            stream,
            self._limits,
            context,
            url,
            config,
            received,
            received_since,
            in_flight,
            gate,
            received_hold,
        )
