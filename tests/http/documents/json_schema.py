"""Schemas as OpenAPI 3.0.3 has them, made into JSON Schema, which validators understand."""

from typing import Any

import jsonschema_rs

from tests.http.client import World


async def served(world: World) -> dict[str, Any]:
    """The description that a server shows."""
    document: dict[str, Any] = (await world.send("GET", "/openapi.json")).json
    return document


def as_json_schema(part: Any) -> Any:
    """The same with the type null in place of `nullable`, at every level."""
    if isinstance(part, list):
        return [as_json_schema(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {name: as_json_schema(inner) for name, inner in part.items() if name != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if part.get("nullable") is True else made


def validator(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """A validator of a schema of a description, which refers to the description's components."""
    components = {"components": as_json_schema(document["components"])}
    return jsonschema_rs.validator_for({"allOf": [as_json_schema(schema)], **components})
