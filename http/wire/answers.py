"""Answers as types: a Struct says once what the JSON of an answer is, for bytes and for OpenAPI.

A field is `Annotated[<type>, told(<description>, <example>)]`, or a type alone where its own
docstring says enough. The encoder writes the fields in their order and leaves out what is UNSET;
`schema_of` makes the schema that OpenAPI 3.0.3 shows. A Struct's name without `Object` is the name
of its component, and its docstring's first line the description.
"""

import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, UnsetType

from .schema_parts import BYTES, Schema, described, or_null, reference, typed

Shape = Any
"""What JSON is: a Struct, `list[Struct]`, or any other annotation that a field may have."""

_SUFFIX: Final = "Object"
_TIME_MS: Final = 1_767_225_600_000
_INT64: Final[Schema] = {"type": "integer", "format": "int64"}
_SIMPLE: Final[dict[Any, Schema]] = {
    str: typed("string"),
    bool: typed("boolean"),
    int: _INT64,
    float: typed("number"),
    bytes: BYTES,
    dict[str, Any]: typed("object"),
}
_NO_EXAMPLE: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Told:
    """The description of a field: a text, one value, and rules beyond its type as JSON Schema."""

    description: str
    example: Any = _NO_EXAMPLE
    rules: Schema = field(default_factory=dict)


def told(description: str, example: Any = _NO_EXAMPLE, **rules: Any) -> Told:
    """Describe a field."""
    return Told(description, example, rules)


def time_ms(description: str) -> Told:
    """Describe a time."""
    return Told(f"{description}, in ms since 1970.", _TIME_MS)


def component_name(struct: type[Struct]) -> str:
    """Return the name that a Struct has among the components."""
    return struct.__name__.removesuffix(_SUFFIX)


def schema_of(shape: Shape) -> Schema:
    """Return the schema of what has this shape; Structs in it are references."""
    bare, told, is_nullable = _parts(shape)
    rules = told.rules if told is not None else {}
    if rules and bare in _SIMPLE:
        made = {"type": _SIMPLE[bare]["type"], **rules}
    else:
        made = {**_bare_schema(bare), **rules}
    if is_nullable:
        made = or_null(made)
    if told is None:
        return made
    return described(made, told.description)


def _bare_schema(bare: Any) -> Schema:
    if bare in _SIMPLE:
        return dict(_SIMPLE[bare])
    if isinstance(bare, type) and issubclass(bare, Struct):
        return reference(component_name(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return {"type": "string", "enum": [word.value for word in bare]}
    origin, inner = get_origin(bare), get_args(bare)
    if origin in (list, tuple):
        return {"type": "array", "items": schema_of(inner[0])}
    if origin is Union:
        return {"anyOf": [schema_of(one) for one in inner]}
    assert origin is dict, f"answers have no {bare}"
    return {"type": "object", "additionalProperties": schema_of(inner[1])}


def _parts(shape: Any) -> tuple[Any, Told | None, bool]:
    """Take an annotation apart: the type alone, its description, whether it may be null.

    Of several types that may be there the union is returned.
    """
    told = None
    origin: Any = get_origin(shape)
    if origin is Annotated:
        shape, *extras = get_args(shape)
        told = next((extra for extra in extras if isinstance(extra, Told)), None)
    is_nullable = False
    origin = get_origin(shape)
    if origin in (Union, types.UnionType):
        forms = get_args(shape)
        is_nullable = types.NoneType in forms
        left = [form for form in forms if form not in (types.NoneType, UnsetType)]
        if len(left) > 1:
            return Union[tuple(left)], told, is_nullable  # noqa: UP007  the types come as a list
        inner, more, _ = _parts(left[0])
        return inner, told or more, is_nullable
    return shape, told, is_nullable


@functools.cache
def _fields(struct: type[Struct]) -> tuple[tuple[str, Shape, bool], ...]:
    """Return a Struct's fields: name in JSON, annotation, whether it is always there."""
    hints = get_type_hints(struct, include_extras=True)
    return tuple(
        (info.encode_name, hints[info.name], UnsetType not in get_args(_union(hints[info.name])))
        for info in msgspec.structs.fields(struct)
    )


def _union(shape: Shape) -> Any:
    origin: Any = get_origin(shape)
    return get_args(shape)[0] if origin is Annotated else shape


def component_of(struct: type[Struct]) -> Schema:
    """Return the schema of a Struct itself, for the components."""
    fields = _fields(struct)
    return {
        "type": "object",
        "description": " ".join((struct.__doc__ or "").partition("\n\n")[0].split()),
        "properties": {name: schema_of(shape) for name, shape, _ in fields},
        "required": [name for name, _, is_there in fields if is_there],
        "additionalProperties": getattr(struct, "FURTHER", False),
    }


def structs_in(shape: Shape) -> Iterator[type[Struct]]:
    """Yield each Struct that an answer consists of, itself included; some perhaps twice."""
    bare, _, _ = _parts(shape)
    if isinstance(bare, type) and issubclass(bare, Struct):
        yield bare
        for _, inner, _ in _fields(bare):
            yield from structs_in(inner)
    else:
        for inner in get_args(bare):
            yield from structs_in(inner)


def example_of(shape: Shape) -> Any:
    """Return an example of what has this shape, with everything optional in it."""
    bare, told, is_nullable = _parts(shape)
    if told is not None and told.example is not _NO_EXAMPLE:
        return told.example
    if isinstance(bare, type) and issubclass(bare, Struct):
        return {name: example_of(inner) for name, inner, _ in _fields(bare)}
    if isinstance(bare, type) and issubclass(bare, Enum):
        return next(iter(bare)).value
    if get_origin(bare) in (list, tuple):
        return [example_of(get_args(bare)[0])]
    if get_origin(bare) is Union:
        return example_of(get_args(bare)[0])
    if get_origin(bare) is dict:
        return {}
    return None if is_nullable else "…"
