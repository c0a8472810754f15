"""Small pieces that the JSON Schemas of answers are made of."""

from troth.core.limits import INTEGER_MAX, INTEGER_MIN

from .fields import Schema

_TIME_MS = 1767225600000


def text(description: str, example: str) -> Schema:
    """A text."""
    return {"type": "string", "description": description, "examples": [example]}


def integer(description: str, example: int) -> Schema:
    """An integer within 64 bits."""
    return {
        "type": "integer",
        "format": "int64",
        "minimum": INTEGER_MIN,
        "maximum": INTEGER_MAX,
        "description": description,
        "examples": [example],
    }


def map_of(description: str, example: dict[str, str]) -> Schema:
    """An object from texts to texts."""
    return {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": description,
        "examples": [example],
    }


def object_of(about: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object. Its properties are required but for the named ones."""
    return {
        "type": "object",
        "description": about,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def reference(name: str) -> Schema:
    """Another schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(name: str) -> Schema:
    """Another schema, or null."""
    return {"anyOf": [reference(name), {"type": "null"}]}


def time_ms(description: str) -> Schema:
    """A time in milliseconds since 1970."""
    return integer(f"{description}, in milliseconds since 1970.", _TIME_MS)


def list_of(description: str, name: str) -> Schema:
    """An array of another schema."""
    return {"type": "array", "description": description, "items": reference(name)}
