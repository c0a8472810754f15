"""The pages of the server that this process is, which can be made before it has clients.

They take 40 ms or more, for which the clients of a restarted process would wait.
"""

from typing import Any, final

from troth.http.api.context import Api, Pages, limits_of
from troth.http.api.rows import Endpoint
from troth.http.metrics.families import Group
from troth.http.settings.settings import Settings

from .openapi import Documented
from .pages import documented, pages_of


@final
class ServedPages:
    """The pages of one server, which are kept once they were made. `groups` are its metrics."""

    def __init__(self, endpoints: tuple[Endpoint, ...], groups: tuple[Group[Any], ...]) -> None:
        self._endpoints = endpoints
        self._groups = groups
        self._made: tuple[Documented, Pages] | None = None

    def make_ahead(self, settings: Settings) -> None:
        """Make the pages of a server with these settings.

        It is done again if the server has another address, since the system has chosen its port.
        """
        url = settings.url or f"http://{settings.listen}"
        base_path = settings.base_path if settings.ui else None
        has_users = bool(settings.basic_auth)
        self._of(Documented(url.rstrip("/"), has_users, limits_of(settings), base_path))

    def of(self, api: Api) -> Pages:
        """Return the pages of a server."""
        return self._of(documented(api))

    def _of(self, server: Documented) -> Pages:
        if self._made is None or self._made[0] != server:
            self._made = server, pages_of(server, self._endpoints, self._groups)
        return self._made[1]
