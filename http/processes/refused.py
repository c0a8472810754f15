"""What a server of several processes cannot do yet, and refuses by name.

Each entry says why, for a client or an operator. What works over all processes is taken out here,
and out of the list in `shards/mesh/README.md`; when nothing is left, this module goes.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

REFUSED_GROUPS: Final[Mapping[str, str]] = MappingProxyType({})
"""Groups of endpoints that do not work, each with what they are about."""

REFUSED_ENDPOINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "importPromises": "imports",
    }
)
"""Other endpoints that do not work, each with what it is about."""


def served(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Return the endpoints of a server of several processes: some refuse all requests."""
    return tuple(map(_served, endpoints))


def _served(endpoint: Endpoint) -> Endpoint:
    about = REFUSED_ENDPOINTS.get(endpoint.name) or REFUSED_GROUPS.get(endpoint.group)
    return endpoint if about is None else replace(endpoint, handler=partial(_refuse, about))


async def _refuse(about: str, _api: Api, _call: Call) -> Response:
    """Refuse a request (501)."""
    raise ApiError(
        Code.SEVERAL_PROCESSES,
        message=f"A server of several processes does not have {about} yet; nothing was done.",
    )
