"""Schemas and examples of answers, made from types."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import UNSET, Struct, UnsetType
from msgspec import field as struct_field

from troth.http.wire.answers import (
    component_name,
    component_of,
    example_of,
    schema_of,
    structs_in,
    time_ms,
    told,
)
from troth.http.wire.json_text import dump, dump_in_order


class Color(StrEnum):
    """Two words."""

    RED = "red"
    BLUE = "blue"


class PartObject(Struct):
    """A part."""

    name: Annotated[str, told("Its name.", "wheel")]


class WholeObject(Struct, rename="camel"):
    """A whole, of
    parts.

    More is not for clients.
    """

    FURTHER: ClassVar[dict[str, Any]] = {"type": "string"}

    main_part: PartObject
    spare: Annotated[PartObject | None, told("One more.")]
    parts: Annotated[list[PartObject] | UnsetType, told("All of them.")]
    color: Color
    made_on: Annotated[int, time_ms("When it was made")]
    tags: dict[str, str] | UnsetType
    word: Annotated[str, told("A word.", "a", enum=["a", "b"])] = struct_field(name="@word")


PART = {"$ref": "#/components/schemas/Part"}


@pytest.mark.parametrize(
    ("shape", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer", "format": "int64"}),
        (bool | None, {"type": "boolean", "nullable": True}),
        (bytes, {"type": "string", "format": "binary"}),
        (str | UnsetType, {"type": "string"}),
        (Color, {"type": "string", "enum": ["red", "blue"]}),
        (dict[str, str], {"type": "object", "additionalProperties": {"type": "string"}}),
        (dict[str, Any], {"type": "object"}),
        (PartObject, PART),
        (PartObject | None, {"nullable": True, "allOf": [PART]}),
        (list[PartObject], {"type": "array", "items": PART}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (
            Annotated[PartObject, told("One.")],
            {"allOf": [PART], "description": "One."},
        ),
        (
            Annotated[str | None, told("A text.", "x", pattern="^x$")],
            {
                "type": "string",
                "pattern": "^x$",
                "nullable": True,
                "description": "A text.",
            },
        ),
        (
            Annotated[int, told("A code.", 7, enum=[7, 8])],
            {"type": "integer", "enum": [7, 8], "description": "A code."},
        ),
    ],
)
def test_a_type_has_one_schema(shape: Any, schema: dict[str, Any]) -> None:
    assert schema_of(shape) == schema


def test_a_struct_is_a_component() -> None:
    made = component_of(WholeObject)

    assert component_name(WholeObject) == "Whole"
    assert made["description"] == "A whole, of parts."
    assert made["additionalProperties"] == {"type": "string"}
    assert list(made["properties"]) == [
        "mainPart",
        "spare",
        "parts",
        "color",
        "madeOn",
        "tags",
        "@word",
    ]
    assert made["required"] == ["mainPart", "spare", "color", "madeOn", "@word"]
    assert made["properties"]["spare"] == {
        "nullable": True,
        "allOf": [PART],
        "description": "One more.",
    }
    assert set(structs_in(list[WholeObject])) == {WholeObject, PartObject}
    assert component_of(PartObject)["additionalProperties"] is False


def test_an_example_has_everything() -> None:
    assert example_of(list[WholeObject]) == [
        {
            "mainPart": {"name": "wheel"},
            "spare": {"name": "wheel"},
            "parts": [{"name": "wheel"}],
            "color": "red",
            "madeOn": 1_767_225_600_000,
            "tags": {},
            "@word": "a",
        }
    ]


def test_fields_are_written_in_their_order_and_unset_ones_are_not() -> None:
    part = PartObject("p")
    whole = WholeObject(part, None, UNSET, Color.BLUE, 1, {"b": "1", "a": "2"}, "b")

    assert dump(whole) == (
        b'{"mainPart":{"name":"p"},"spare":null,"color":"blue","madeOn":1,'
        b'"tags":{"a":"2","b":"1"},"@word":"b"}'
    )
    assert dump_in_order([{"b": 1, "a": 2}]) == b'[{"b":1,"a":2}]'
