"""`/openapi.json`: the whole API as OpenAPI 3.1, derived from nothing but the endpoint table."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Struct

from troth.core import limits as core_limits
from troth.core.catalog import Scope
from troth.core.codes import EXPLANATIONS, MESSAGES, Code
from troth.http.api.context import VERSION_HEADER_VALUE, Api
from troth.http.api.rows import Endpoint, Header, Parameter
from troth.http.wire.fields import RequestLimits, Schema, body_schema, example

from .response_schemas import SCHEMAS, example_of

_REST_PARAMETER = re.compile(r"\{(\w+)\.\.\.\}")
# What clients can send in a header without thinking about encodings. UTF-8 is understood too.
_HEADER_TEXT = r"^[\t -~]*$"


def _header_schemas() -> dict[Header, tuple[str, Schema]]:
    return {
        Header.IDEMPOTENCY_KEY: (
            "Makes repeating the request harmless: the same key means the same request. Present "
            "but empty is a key too.",
            {
                "type": "string",
                "pattern": _HEADER_TEXT,
                "maxLength": core_limits.IDEMPOTENCY_KEY_LIMIT_BYTES,
            },
        ),
        Header.STRICT: (
            "If true, a repeated request succeeds only while the promise is in the state "
            "asked for.",
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
            "W3C trace context; handed on with the messages that this request causes.",
            {
                "type": "string",
                "pattern": _HEADER_TEXT,
                "maxLength": core_limits.TRACE_LIMIT_BYTES,
            },
        ),
        Header.TRACESTATE: (
            "W3C trace context; handed on likewise.",
            {
                "type": "string",
                "pattern": _HEADER_TEXT,
                "maxLength": core_limits.TRACE_LIMIT_BYTES,
            },
        ),
    }


_SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": (
            "A token of an account, from `troth token create`; it needs the scope that is named. "
            "`Authorization` may also hold the token alone."
        ),
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": (
            "A user of the setting `basic_auth`; or a token as the password, for clients that "
            "can send nothing else."
        ),
    },
}

_REQUEST_ID: dict[str, Any] = {
    "name": "Request-Id",
    "in": "header",
    "description": "Found again in the answer, in error details and in the server's log.",
    "schema": {"type": "string"},
}


def openapi_document(api: Api, endpoints: tuple[Endpoint, ...]) -> bytes:
    """The description as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _REST_PARAMETER.sub(r"{\1}", endpoint.path)
        operation = _operation(endpoint, api.limits, has_users=api.credentials.has_users)
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    groups = dict.fromkeys(endpoint.group for endpoint in endpoints)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Troth",
            "version": VERSION_HEADER_VALUE.decode(),
            "summary": "Durable promises over HTTP.",
            "description": (
                "A write is answered once it is on disk. JSON bodies may hold keys that are not "
                "described here; they are ignored. A null is as good as an absent field."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": api.url}],
        "tags": [{"name": group} for group in groups],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }
    return orjson.dumps(document)


def _operation(endpoint: Endpoint, limits: RequestLimits, *, has_users: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "parameters": [
            *(_parameter(parameter, "path") for parameter in endpoint.path_parameters),
            *(_parameter(parameter, "query") for parameter in endpoint.query),
            *(_header(header) for header in endpoint.headers),
            *(_parameter(parameter, "header") for parameter in endpoint.raw_headers),
            _REQUEST_ID,
        ],
        "responses": _responses(endpoint),
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": _described(endpoint.body, limits)},
        }
    raw_body = endpoint.raw_body
    if raw_body is not None:
        described = {} if raw_body.body is None else _described(raw_body.body, limits)
        operation["requestBody"] = {
            "description": raw_body.description,
            "required": raw_body.required,
            "content": dict.fromkeys(raw_body.media_types, described),
        }
    if endpoint.deprecated:
        operation["deprecated"] = True
    operation["security"] = _security(endpoint, has_users=has_users)
    return operation


def _described(body: type[Struct], limits: RequestLimits) -> dict[str, Any]:
    """What JSON a body is, with an example."""
    schema = body_schema(body, limits)
    if not schema["required"]:
        schema["type"] = ["object", "null"]
    return {"schema": schema, "example": example(body)}


def scopes_of(endpoint: Endpoint) -> list[str]:
    """The scopes of which a token needs one; none for public endpoints."""
    return [scope.value for scope in (endpoint.scope, endpoint.or_scope) if scope is not None]


def _security(endpoint: Endpoint, *, has_users: bool) -> list[dict[str, list[str]]]:
    """What is to be sent: one of these. Nothing at all may do while there are no accounts."""
    if endpoint.public:
        return []
    kinds: list[dict[str, list[str]]] = [{"bearer": [scope]} for scope in scopes_of(endpoint)]
    kinds.append({"basic": []})
    if not endpoint.needs_account and not has_users:
        kinds.append({})
    return kinds


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "required": parameter.required,
        "schema": parameter.schema,
    }
    if parameter.deep:
        made["style"] = "deepObject"
        made["explode"] = True
    if parameter.example is not None:
        made["example"] = parameter.example
    return made


def _header(header: Header) -> dict[str, Any]:
    description, schema = _header_schemas()[header]
    return {"name": header.value, "in": "header", "description": description, "schema": schema}


def refusals_of(endpoint: Endpoint) -> list[Code]:
    """Every code that an endpoint can refuse a request with, in order."""
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


def _responses(endpoint: Endpoint) -> Mapping[str, Any]:
    made: dict[str, Any] = {}
    for success in endpoint.successes:
        response: dict[str, Any] = {"description": success.description}
        if success.schema is not None:
            schema = SCHEMAS[success.schema]
            response["content"] = {
                success.media_type: {
                    "schema": {"$ref": f"#/components/schemas/{success.schema}"},
                    "example": example_of(schema),
                }
            }
        made[str(success.status)] = response
    by_status: dict[int, list[Code]] = {}
    for code in refusals_of(endpoint):
        by_status.setdefault(code.status, []).append(code)
    for status, codes in by_status.items():
        made[str(status)] = _refusal(status, codes)
    return made


def _refusal(status: int, codes: list[Code]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"{code.value}: {MESSAGES[code]}." for code in codes),
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "examples": {str(code.value): {"value": _error_example(code)} for code in codes},
            }
        },
    }
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


def _error_example(code: Code) -> dict[str, Any]:
    if code is Code.INVALID:
        made: dict[str, Any] = example_of(SCHEMAS["Error"])
        return made
    ours = code.status >= 500 or code is Code.RECEIVER_NOT_FOUND
    return {
        "error": {
            "code": code.value,
            "message": MESSAGES[code],
            "details": [
                {
                    "@type": "ServerError" if ours else "RequestError",
                    "message": EXPLANATIONS[code],
                    "domain": "server" if ours else "request",
                    "metadata": {"url": f"http://127.0.0.1:8001/docs/errors#{code.value}"},
                }
            ],
        }
    }
