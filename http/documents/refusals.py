"""What endpoints can refuse requests with, and how OpenAPI shows it."""

import itertools
from typing import Any

from troth.core.catalog import Scope
from troth.core.codes import MESSAGES, Code
from troth.http.api.rows import Endpoint
from troth.http.wire.answers import component_name
from troth.http.wire.errors import ErrorObject
from troth.http.wire.schema_parts import Schema, reference, typed

Codes = tuple[Code, ...]


def refusals_of(endpoint: Endpoint) -> list[Code]:
    """Return every code that an endpoint can refuse a request with, in order."""
    codes = {
        *endpoint.refusals,
        Code.INVALID,
        Code.ORIGIN_FORBIDDEN,
        Code.REQUEST_TIMEOUT,
        Code.BODY_TOO_LARGE,
        Code.INTERNAL,
    }
    if not endpoint.public:
        codes |= {Code.UNAUTHORIZED, Code.FORBIDDEN_SCOPE, Code.TOO_MANY_ATTEMPTS}
    if endpoint.body is not None or endpoint.raw_body is not None:
        codes.add(Code.ENCODING_UNSUPPORTED)
    if not endpoint.any_host:
        codes.add(Code.MISDIRECTED)
    if endpoint.scope in {Scope.PROMISES_READ, Scope.PROMISES_WRITE}:
        codes |= {Code.FORBIDDEN_PREFIX, Code.RESERVED_ID}
    if endpoint.sheltered:
        codes |= {Code.SHUTTING_DOWN, Code.OVERLOADED, Code.STORE_FAILED, Code.STARTING}
    return sorted(codes)


def _by_status(endpoint: Endpoint) -> dict[int, Codes]:
    """Return what an endpoint can refuse a request with, by status."""
    found: dict[int, Codes] = {}
    for code in refusals_of(endpoint):
        found[code.status] = (*found.get(code.status, ()), code)
    return found


class SharedRefusals:
    """The sets of codes that endpoints refuse requests with, a set for each status, as components.

    `x-codes` has the codes of a set for programs.
    """

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        common = [endpoint for endpoint in endpoints if endpoint.refused is None]
        sets = {codes for endpoint in common for codes in _by_status(endpoint).values()}
        self._names: dict[Codes, str] = {}
        for _, same in itertools.groupby(sorted(sets), lambda codes: codes[0].status):
            for number, codes in enumerate(same, 1):
                self._names[codes] = f"R{codes[0].status}.{number}"
        self.components = {name: _refusal(codes) for codes, name in self._names.items()}

    def of(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return references to the refusals of an endpoint, by status.

        One whose refusals have a form of their own has them in full.
        """
        if endpoint.refused is not None:
            return {
                str(status): _refusal(codes, typed("object"))
                for status, codes in _by_status(endpoint).items()
            }
        return {
            str(status): {"$ref": f"#/components/responses/{self._names[codes]}"}
            for status, codes in _by_status(endpoint).items()
        }


def _refusal(codes: Codes, schema: Schema | None = None) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"{code.value}: {MESSAGES[code]}." for code in codes),
        "x-codes": [code.value for code in codes],
        "content": {
            "application/json": {
                "schema": schema or reference(component_name(ErrorObject)),
            }
        },
    }
    status = codes[0].status
    if status in {429, 503}:
        response["headers"] = {
            "Retry-After": {
                "description": "After how many seconds to try again.",
                "schema": {"type": "integer"},
            }
        }
    if status == 401:
        response["headers"] = {
            "WWW-Authenticate": {
                "description": "The kind of credentials.",
                "schema": {"type": "string"},
            }
        }
    return response
