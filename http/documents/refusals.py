"""What endpoints can refuse requests with, and how OpenAPI shows it."""

import itertools
from typing import Any, Final

from troth.core.catalog import Scope
from troth.core.codes import MESSAGES, Code
from troth.http.api.rows import Endpoint
from troth.http.api.session_cookies import SessionUse
from troth.http.wire.answers import component_name
from troth.http.wire.errors import ErrorObject
from troth.http.wire.schema_parts import Schema, reference, typed

Codes = tuple[Code, ...]

_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "WWW-Authenticate": {
        "description": "With 401: the kind of credentials.",
        "schema": typed("string"),
        "x-statuses": [401],
    },
    "Retry-After": {
        "description": "With 429 and 503: after how many seconds to try again.",
        "schema": typed("integer"),
        "x-statuses": [429, 503],
    },
}


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
        codes |= {Code.UNAUTHORIZED, Code.TOO_MANY_ATTEMPTS}
    if endpoint.session_use is SessionUse.REFUSED:
        codes.add(Code.SESSION_FORBIDDEN)
    elif endpoint.session_use is not SessionUse.IGNORED:
        codes.add(Code.SESSION_ENDED)
        if endpoint.method != "GET":
            codes.add(Code.CSRF_MISSING)
    if not (endpoint.public or endpoint.any_scope):
        codes.add(Code.FORBIDDEN_SCOPE)
    if endpoint.body is not None or endpoint.raw_body is not None:
        codes.add(Code.ENCODING_UNSUPPORTED)
    if not endpoint.any_host:
        codes.add(Code.MISDIRECTED)
    if endpoint.scope in {Scope.PROMISES_READ, Scope.PROMISES_WRITE}:
        codes |= {Code.FORBIDDEN_PREFIX, Code.RESERVED_ID}
    if endpoint.sheltered:
        codes |= {Code.SHUTTING_DOWN, Code.OVERLOADED, Code.STORE_FAILED, Code.STARTING}
        codes |= {Code.OUT_OF_REACH, Code.LINK_BROKEN}
    return sorted(codes)


def _by_answer(endpoint: Endpoint) -> dict[str, Codes]:
    """Return what an endpoint can refuse a request with, by the name that OpenAPI has for statuses.

    Statuses of refusals that are its own have theirs; all others together are `4XX` and `5XX`.
    """
    own = {code.status for code in endpoint.refusals}
    found: dict[str, Codes] = {}
    for code in refusals_of(endpoint):
        name = str(code.status) if code.status in own else f"{code.status // 100}XX"
        found[name] = (*found.get(name, ()), code)
    return found


class SharedRefusals:
    """The sets of codes that endpoints refuse requests with, as components.

    `x-codes` has the codes of a set for programs, `x-statuses` those that come with a header.
    """

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        common = [endpoint for endpoint in endpoints if endpoint.refused is None]
        sets = {refusal for endpoint in common for refusal in _by_answer(endpoint).items()}
        self._names: dict[tuple[str, Codes], str] = {}
        for answer, same in itertools.groupby(sorted(sets), lambda refusal: refusal[0]):
            for number, refusal in enumerate(same, 1):
                self._names[refusal] = f"R{answer}.{number}"
        self.components = {name: _refusal(*refusal) for refusal, name in self._names.items()}
        self.headers = _HEADERS

    def of(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return references to the refusals of an endpoint.

        One whose refusals have a form of their own has them in full.
        """
        refusals = _by_answer(endpoint).items()
        if endpoint.refused is not None:
            return {answer: _refusal(answer, codes, typed("object")) for answer, codes in refusals}
        return {
            refusal[0]: {"$ref": f"#/components/responses/{self._names[refusal]}"}
            for refusal in refusals
        }


def _refusal(answer: str, codes: Codes, schema: Schema | None = None) -> dict[str, Any]:
    if answer.endswith("XX"):
        description = "One of `x-codes`; see `/docs/errors`."
    else:
        description = " ".join(f"{code.value}: {MESSAGES[code]}." for code in codes)
    response: dict[str, Any] = {
        "description": description,
        "x-codes": [code.value for code in codes],
        "content": {
            "application/json": {
                "schema": schema or reference(component_name(ErrorObject)),
            }
        },
    }
    statuses = {code.status for code in codes}
    headers = [name for name, header in _HEADERS.items() if statuses & {*header["x-statuses"]}]
    if headers:
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return response
