"""Markers for the request bodies of the function-task API, in addition to those of `fields.py`."""

# ruff: noqa: ARG002 — markers share one signature, and not every one needs the limits.

import re
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from troth.http.wire.fields import Field, RequestLimits, shown
from troth.http.wire.schema_parts import Schema, typed

from .values import ID_SCHEMA, is_id


class Reference(Struct):
    """Something else, by its id; further keys, as in answers, do not matter."""

    id: str


def identifier_of(reference: Reference | str) -> str:
    """Return the id in either form that `References` accepts."""
    return reference if isinstance(reference, str) else reference.id


@dataclass(frozen=True, slots=True)
class Matching(Field):
    """A text of a certain form: all of it matches `pattern`, and `allowed` says so in words."""

    pattern: str = ""
    allowed: str = ""

    def check(self, value: str | None, limits: RequestLimits) -> str | None:
        """Refuse what is required and missing, or not of this form."""
        if value is None:
            return "is required" if self.required else None
        if re.fullmatch(self.pattern, value) is None:
            return f"must be {self.allowed} (got {shown(value)})"
        return None

    def schema(self, limits: RequestLimits) -> Schema:
        """Return a pattern; null only if it may be absent."""
        kind = typed("string", nullable=not self.required)
        return self.describe({**kind, "pattern": f"^(?:{self.pattern})$"})


@dataclass(frozen=True, slots=True)
class Within(Field):
    """An integer between two others, both included. 0 is a value like any other."""

    minimum: int = 0
    maximum: int = 0

    def check(self, value: int | None, limits: RequestLimits) -> str | None:
        """Refuse what is required and missing, or out of range."""
        if value is None:
            return "is required" if self.required else None
        if not self.minimum <= value <= self.maximum:
            return f"must be between {self.minimum} and {self.maximum} (got {value})"
        return None

    def schema(self, limits: RequestLimits) -> Schema:
        """Return an integer; null only if it may be absent."""
        kind = typed("integer", nullable=not self.required)
        return self.describe({**kind, "minimum": self.minimum, "maximum": self.maximum})


@dataclass(frozen=True, slots=True)
class References(Field):
    """Ids of other things, all different, each as a text or as an object that has it."""

    limit_count: int = 1

    def check(self, value: Sequence[Reference | str] | None, limits: RequestLimits) -> str | None:
        """Return ids, different, and not too many."""
        if value is None:
            return "is required" if self.required else None
        if len(value) > self.limit_count:
            return f"must have at most {self.limit_count} entries (got {len(value)})"
        identifiers = [identifier_of(reference) for reference in value]
        for place, identifier in enumerate(identifiers):
            if not is_id(identifier):
                return f"given {shown(identifier)}; an id has 24 hexadecimal digits"
            if identifier in identifiers[:place]:
                return f"has {identifier} twice"
        return None

    def schema(self, limits: RequestLimits) -> Schema:
        """Return an array of ids or of objects with ids; null only if it may be absent."""
        entry = {
            "anyOf": [
                ID_SCHEMA,
                {"type": "object", "properties": {"id": ID_SCHEMA}, "required": ["id"]},
            ]
        }
        return self.describe(
            {
                **typed("array", nullable=not self.required),
                "items": entry,
                "uniqueItems": True,
                "maxItems": self.limit_count,
            }
        )
