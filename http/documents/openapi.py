"""`/openapi.json`: the whole API as OpenAPI 3.0.3, derived from nothing but the endpoint table.

Version 3.0.3 is what generators of clients understand. What several endpoints have in common is
written once, among the components: headers, refusals, and the schemas of requests and answers.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson
from msgspec import Struct

from troth.http.api.context import VERSION_HEADER_VALUE
from troth.http.api.rows import Endpoint, RawBody
from troth.http.wire.answers import component_name, component_of, schema_of, structs_in
from troth.http.wire.errors import ErrorObject
from troth.http.wire.fields import RequestLimits, bodies_in, body_schema, rules
from troth.http.wire.schema_parts import ANY_JSON, BYTES, Schema, or_null, reference

from .parameters import parameters_of
from .refusals import SharedRefusals
from .shared import Part, Shared

# What it must save to show a field of a body or answer once: in clients it may become a class.
_FIELD_WORTH_SHARING_BYTES: Final = 100
_REST_PARAMETER = re.compile(r"\{(\w+)\.\.\.\}")
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


class Documented(NamedTuple):
    """What documents say of a server, besides its tables.

    `base_path` is that of the web UI; None if there is none.
    """

    url: str
    has_users: bool
    limits: RequestLimits
    base_path: str | None


def openapi_document(server: Documented, endpoints: tuple[Endpoint, ...]) -> bytes:
    """Return the description as JSON."""
    named = ((part["name"], part) for row in endpoints for part in parameters_of(row))
    parameters = Shared("parameters", named)
    answers = Shared("responses", (part for row in endpoints for part in _named_answers(row)))
    refusals = SharedRefusals(endpoints)
    security = _most_frequent_security(endpoints, has_users=server.has_users)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _REST_PARAMETER.sub(r"{\1}", endpoint.path)
        operation = paths.setdefault(path, {})[endpoint.method.lower()] = {
            **_operation(endpoint),
            "parameters": [parameters.shown(part) for part in parameters_of(endpoint)],
            "responses": {
                **{status: answers.shown(part) for status, part in _answers(endpoint).items()},
                **refusals.of(endpoint),
            },
        }
        own_security = _security(endpoint, has_users=server.has_users)
        if own_security != security:
            operation["security"] = own_security
    groups = dict.fromkeys(endpoint.group for endpoint in endpoints)
    document = {
        "openapi": "3.0.3",
        "info": {
            "title": "Troth",
            "version": VERSION_HEADER_VALUE.decode(),
            "description": (
                "Durable promises over HTTP. A write is answered once it is on disk. JSON bodies "
                "may hold keys that are not described here; they are ignored. A null is as good "
                "as an absent field."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"url": server.url}],
        "tags": [{"name": group} for group in groups],
        "security": security,
        "paths": paths,
        "components": {
            "schemas": _schemas(endpoints, server.limits),
            "parameters": parameters.components,
            "responses": {**answers.components, **refusals.components},
            "headers": refusals.headers,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }
    return orjson.dumps(document)


def _schemas(endpoints: tuple[Endpoint, ...], limits: RequestLimits) -> dict[str, Schema]:
    """Return everything that requests and answers consist of, by name."""
    made: dict[str, Schema] = {}
    for endpoint in endpoints:
        raw = endpoint.raw_body
        raw_parts = () if raw is None else (raw.body, raw.items)
        for sent in filter(None, (endpoint.body, *raw_parts)):
            for body in bodies_in(sent):
                made[body.__name__] = body_schema(body, limits)
        for success in endpoint.successes:
            for struct in structs_in(success.shape):
                made[component_name(struct)] = component_of(struct)
    for struct in structs_in(ErrorObject):
        made[component_name(struct)] = component_of(struct)
    named = (
        (f"{name[0].upper()}{name[1:]}Field", field)
        for schema in made.values()
        for name, field in schema["properties"].items()
    )
    shared = Shared("schemas", named, least_bytes=_FIELD_WORTH_SHARING_BYTES)
    for schema in made.values():
        fields = schema["properties"].items()
        schema["properties"] = {name: shared.shown(field) for name, field in fields}
    return dict(sorted({**made, **shared.components}.items()))


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    """Return what is not shared with other endpoints."""
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.group],
        "summary": endpoint.summary,
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": _described(endpoint.body)},
        }
    raw_body = endpoint.raw_body
    if raw_body is not None:
        operation["requestBody"] = {
            "description": raw_body.description,
            "required": raw_body.required,
            "content": {
                media_type: _raw(media_type, raw_body) for media_type in raw_body.media_types
            },
        }
    if endpoint.deprecated:
        operation["deprecated"] = True
    return operation


def _described(body: type[Struct]) -> dict[str, Any]:
    """Return what JSON a body is."""
    schema = reference(body.__name__)
    if not any(marker.is_needed for _, _, marker in rules(body)):
        schema = or_null(schema)
    return {"schema": schema}


def _raw(media_type: str, raw_body: RawBody) -> dict[str, Any]:
    """Return what a body of this type is."""
    if raw_body.body is not None:
        return _described(raw_body.body)
    if media_type != "application/json":
        return {"schema": BYTES}
    if raw_body.items is None:
        return {"schema": ANY_JSON if raw_body.schema is None else raw_body.schema}
    return {"schema": {"type": "array", "items": reference(raw_body.items.__name__)}}


def scopes_of(endpoint: Endpoint) -> list[str]:
    """Return the scopes; a token needs one of them. Public endpoints have none."""
    return [scope.value for scope in (endpoint.scope, endpoint.or_scope) if scope is not None]


def _security(endpoint: Endpoint, *, has_users: bool) -> list[dict[str, list[str]]]:
    """Return what is to be sent: one of these.

    Nothing at all may do while there are no accounts.
    """
    if endpoint.public:
        return []
    kinds: list[dict[str, list[str]]] = [{"bearer": [scope]} for scope in scopes_of(endpoint)]
    if endpoint.any_scope:
        kinds.append({"bearer": []})
    kinds.append({"basic": []})
    if not endpoint.needs_account and not has_users:
        kinds.append({})
    return kinds


def _most_frequent_security(
    endpoints: tuple[Endpoint, ...], *, has_users: bool
) -> list[dict[str, list[str]]]:
    """Return what most endpoints need: the others say what they need."""
    kinds = [_security(endpoint, has_users=has_users) for endpoint in endpoints]
    return max(kinds, key=kinds.count)


def _named_answers(endpoint: Endpoint) -> Iterator[tuple[str, Part]]:
    for status, part in _answers(endpoint).items():
        yield f"{endpoint.name}.{status}", part


def _answers(endpoint: Endpoint) -> dict[str, Part]:
    made: dict[str, Part] = {}
    for success in endpoint.successes:
        response: Part = {"description": success.description}
        if success.shape is not None:
            response["content"] = {success.media_type: {"schema": schema_of(success.shape)}}
        made[str(success.status)] = response
    return made
