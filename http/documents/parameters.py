"""Parameters of endpoints as OpenAPI shows them."""

from typing import Any, Final

from troth.core import limits
from troth.http.api.rows import Endpoint, Header, Parameter
from troth.http.wire.schema_parts import Schema

# What clients can send in a header without thinking about encodings. UTF-8 is understood too.
_HEADER_TEXT = r"^[\t -~]*$"

_HEADERS: Final[dict[Header, tuple[str, Schema]]] = {
    Header.IDEMPOTENCY_KEY: (
        "Makes repeating the request harmless: the same key means the same request. Present "
        "but empty is a key too.",
        {
            "type": "string",
            "pattern": _HEADER_TEXT,
            "maxLength": limits.IDEMPOTENCY_KEY_LIMIT_BYTES,
        },
    ),
    Header.STRICT: (
        "If true, a repeated request succeeds only while the promise is in the state asked for.",
        {"type": "string", "enum": ["true", "false", "1", "0"]},
    ),
    Header.TASK_ID: (
        "The task on whose behalf this is asked. If the sender no longer holds it: 412.",
        {"type": "string", "pattern": _HEADER_TEXT},
    ),
    Header.TASK_COUNTER: (
        "The counter of that task.",
        {"type": "string", "pattern": r"^([+-]?[0-9]{1,18})?$"},
    ),
    Header.TRACEPARENT: (
        "W3C trace context; handed on with messages.",
        {
            "type": "string",
            "pattern": _HEADER_TEXT,
            "maxLength": limits.TRACE_LIMIT_BYTES,
        },
    ),
    Header.TRACESTATE: (
        "W3C trace context; likewise.",
        {
            "type": "string",
            "pattern": _HEADER_TEXT,
            "maxLength": limits.TRACE_LIMIT_BYTES,
        },
    ),
}


def meaning_of(header: Header) -> str:
    """Return what a header means."""
    return _HEADERS[header][0]


_REQUEST_ID: dict[str, Any] = {
    "name": "Request-Id",
    "in": "header",
    "description": "Found again in the answer, in error details and in the server's log.",
    "schema": {"type": "string", "pattern": _HEADER_TEXT},
}


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "schema": parameter.schema,
    }
    if parameter.required:
        made["required"] = True
    if parameter.deep:
        made["style"] = "deepObject"
        made["explode"] = True
    if parameter.example is not None:
        made["example"] = parameter.example
    return made


def _header(header: Header) -> dict[str, Any]:
    description, schema = _HEADERS[header]
    return {"name": header.value, "in": "header", "description": description, "schema": schema}


def parameters_of(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return the parameters of an endpoint, in full."""
    return [
        *(_parameter(parameter, "path") for parameter in endpoint.path_parameters),
        *(_parameter(parameter, "query") for parameter in endpoint.query),
        *(_header(header) for header in endpoint.headers),
        *(_parameter(parameter, "header") for parameter in endpoint.raw_headers),
        _REQUEST_ID,
    ]
