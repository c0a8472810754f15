"""The pages of the server that this process is, which are made before it has clients.

They take 40 ms or more, for which the clients of a restarted process would wait.
"""

from functools import lru_cache

from troth.http.api.context import Api, Pages, limits_of
from troth.http.metrics.of_processes import PROCESSES
from troth.http.monitoring.stream_metrics import STREAM
from troth.http.monitoring.tables import GROUPS
from troth.http.settings.settings import Settings

from .openapi import Documented
from .pages import documented, pages_of
from .table import API_ENDPOINTS


def make_ahead(settings: Settings) -> None:
    """Make the pages of a server with these settings.

    It is done again if the server has another address, since the system has chosen its port.
    """
    host = f"[{settings.listen.host}]" if ":" in settings.listen.host else settings.listen.host
    url = settings.url or f"http://{host}:{settings.listen.port}"
    base_path = settings.base_path if settings.ui else None
    has_users = bool(settings.basic_auth)
    _made(Documented(url.rstrip("/"), has_users, limits_of(settings), base_path))


def pages_of_server(api: Api) -> Pages:
    """Return the pages of a server."""
    return _made(documented(api))


@lru_cache(maxsize=1)
def _made(server: Documented) -> Pages:
    return pages_of(server, API_ENDPOINTS, (*GROUPS, STREAM, PROCESSES))
