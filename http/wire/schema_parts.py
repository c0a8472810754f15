"""Pieces of schemas as OpenAPI 3.0.3 has them, for requests and answers alike.

That is JSON Schema, but there is one type only, `nullable` instead of the type null, `example`
instead of `examples`, and nothing next to a `$ref`, which therefore goes into an `allOf`.
"""

from typing import Any, Final

from troth.core.limits import INTEGER_MAX, INTEGER_MIN

Schema = dict[str, Any]

BYTES: Final[Schema] = {"type": "string", "format": "binary"}
"""A body that is not JSON."""

ANY_JSON: Final[Schema] = {"description": "Any JSON."}
"""A body that is JSON, whatever it is."""

ANY_BUT_NULL: Final[Schema] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "additionalProperties": {}},
        {"type": "number", "minimum": INTEGER_MIN, "maximum": INTEGER_MAX},
        {"type": "boolean"},
        {"type": "array", "items": {}},
    ]
}
"""Any JSON but null. That numbers deeper inside have limits too cannot be said for generators: a
schema that refers to itself is too much for some of them."""


def typed(kind: str, *, nullable: bool = False) -> Schema:
    """Return the schema of a type."""
    return {"type": kind, "nullable": True} if nullable else {"type": kind}


def reference(name: str) -> Schema:
    """Return a reference to a schema among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    """Return a schema that accepts null, too."""
    if "$ref" in schema:
        return {"nullable": True, "allOf": [schema]}
    return {**schema, "nullable": True}


def not_null(schema: Schema) -> Schema:
    """Return a schema that accepts the same values but null."""
    return {name: rule for name, rule in schema.items() if name != "nullable"}


def described(schema: Schema, description: str) -> Schema:
    """Return a schema with a description."""
    if "$ref" in schema:
        return {"description": description, "allOf": [schema]}
    return {**schema, "description": description}
