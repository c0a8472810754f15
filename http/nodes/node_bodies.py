"""The request bodies of nodes; see `schemas.py` for what the markers mean."""

# ruff: noqa: ARG002 — markers share one signature, and not every one needs the limits.

from dataclasses import dataclass
from typing import Annotated

from msgspec import Struct
from msgspec import field as struct_field

from troth.core import limits
from troth.core.catalog import Language
from troth.http.functions.markers import Matching, Within
from troth.http.functions.values import ID_SCHEMA
from troth.http.wire.fields import BodyList, Field, Flag, RequestLimits, Text
from troth.http.wire.schema_parts import Schema

_ID_PATTERN = ID_SCHEMA["pattern"].strip("^$")


@dataclass(frozen=True, slots=True)
class Languages(Field):
    """The languages a node can run: at least one."""

    def check(self, value: list[str] | None, limits: RequestLimits) -> str | None:
        """Return all known, in upper or lower case."""
        known = [language.value for language in Language]
        if not value or any(language.upper() not in known for language in value):
            return f"must be a list of some of {', '.join(known)}"
        return None

    def schema(self, limits: RequestLimits) -> Schema:
        """Return an array of words."""
        words = "|".join(f"{one.value}|{one.value.lower()}" for one in Language)
        return self.describe(
            {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "pattern": f"^(?:{words})$"},
            }
        )


_COUNT = 2**31 - 1


class RegisterNodeBody(Struct, rename="camel"):
    """A node's name and offer."""

    description: Annotated[
        str | None,
        Text("For people.", "Rack 3", limit_bytes=limits.DESCRIPTION_LIMIT_BYTES),
    ] = None
    languages: Annotated[
        list[str] | None, Languages("What it can run.", ["PY", "JS"], required=True)
    ] = None
    cpu_count: Annotated[int | None, Within("CPUs.", 4, minimum=0, maximum=_COUNT)] = None
    mem_size: Annotated[int | None, Within("Memory, in MB.", 2048, minimum=0, maximum=_COUNT)] = (
        None
    )
    network_latency: Annotated[
        int | None, Within("Network latency, in ms.", 20, minimum=0, maximum=_COUNT)
    ] = None
    privileged: Annotated[
        bool | None, Flag("Whether functions that must run without a sandbox may run there.", False)
    ] = None
    slots: Annotated[
        int | None,
        Within(
            "How many tasks it runs at a time; 1 unless given.",
            1,
            minimum=1,
            maximum=limits.NODE_SLOTS_LIMIT_COUNT,
        ),
    ] = None
    shared: Annotated[
        bool | None,
        Flag("Whether it runs the functions of all accounts. Needs the scope `admin`.", False),
    ] = None


class ChangeNodeBody(Struct, rename="camel", forbid_unknown_fields=True):
    """The changes to a node."""

    description: Annotated[
        str | None,
        Text("For people.", "Rack 3", limit_bytes=limits.DESCRIPTION_LIMIT_BYTES),
    ] = None
    disabled: Annotated[bool | None, Flag("Whether it is given no tasks.", False)] = None
    draining: Annotated[
        bool | None, Flag("Whether it is given no further tasks and gives back what it can.", True)
    ] = None


class AssignBody(Struct, rename="camel"):
    """Which execution a node takes on."""

    id: Annotated[
        str | None,
        Matching(
            "The task's id.",
            "6405942c9956fae80d7e0e91",
            required=True,
            pattern=_ID_PATTERN,
            allowed="24 hexadecimal digits",
        ),
    ] = None
    counter: Annotated[
        int | None,
        Within("The counter of the message.", 1, required=True, minimum=1, maximum=2**63 - 1),
    ] = None


class RunningBody(AssignBody, rename="camel"):
    """An execution that a node works on."""

    progress: Annotated[
        int | None, Within("The progress, in percent.", 50, minimum=0, maximum=100)
    ] = None


class Running(BodyList):
    """Any number of executions up to a limit; an empty list is fine."""

    __slots__ = ()

    def check(self, value: list[Struct] | None, limits: RequestLimits) -> str | None:
        """Return their number."""
        return None if not value else BodyList.check(self, value, limits)

    def schema(self, limits: RequestLimits) -> Schema:
        """Return the schema of the list, which may be empty."""
        return {**BodyList.schema(self, limits), "minItems": 0}


class ReportBody(Struct, rename="camel"):
    """Everything a node works on."""

    running: Annotated[
        list[RunningBody],
        Running("The tasks.", body=RunningBody, limit_count=2 * limits.NODE_SLOTS_LIMIT_COUNT),
    ] = struct_field(default_factory=list)
