"""What `/v1` answers about functions, tags and builds: the types, and how they are made."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import UNSET, Struct, UnsetType

from troth.core.catalog import Build, BuildStatus, Capabilities, Function, Label
from troth.http.wire.answers import Told, told

from .values import ID_SCHEMA, rfc3339, unix_seconds

Labels = Mapping[str, Label]


def id_of(description: str, example: str = "6405848581b16f7a07cd4c48") -> Told:
    """Describe an id of 24 hexadecimal digits."""
    return told(description, example, pattern=ID_SCHEMA["pattern"])


def _seconds(description: str) -> Told:
    return told(f"{description}, in decimal seconds since 1970.", "1678029786")


def _moment(description: str) -> Told:
    return told(f"{description}, as in RFC 3339.", "2024-03-19T23:58:51Z")


_Kind = Annotated[
    str, told("Whether it is code for the nodes or calls a URL.", "code", enum=["code", "http"])
]
_Language = Annotated[
    str,
    told("The language of the code; empty if it calls a URL.", "py", enum=["py", "js", ""]),
]
_Status = Annotated[BuildStatus, told("All but PENDING are final.", "SUCCESS")]
_Paused = Annotated[bool, told("Whether new tasks are refused.", False)]


class NewIdObject(Struct, gc=False):
    """What was made."""

    id: Annotated[str, id_of("The new id.")]


class CapabilitiesObject(Struct, gc=False, rename="camel"):
    """What a function demands of a node; 0 and false demand nothing."""

    timeout: Annotated[int, told("How many seconds one execution may take.", 10)]
    cpu_count: Annotated[int, told("CPUs.", 0)]
    mem_size: Annotated[int, told("Memory in MB.", 0)]
    network_latency: Annotated[int, told("Largest network latency in ms.", 0)]
    privileged: Annotated[bool, told("Whether the node must be privileged.", False)]


class TagObject(Struct, gc=False):
    """A tag."""

    id: Annotated[str, id_of("The id.", "641ae3f2c2f41a9a4d3c2f1e")]
    name: Annotated[str, told("The name.", "production")]
    color: Annotated[str, told("`#` and hexadecimal digits, or empty.", "#2e7d32")]


class FunctionMetricsObject(Struct, gc=False, rename="camel"):
    """How often a function was run. A day begins at midnight UTC."""

    todays_tasks: Annotated[int, told("Tasks created today.", 3)]
    pending_tasks: Annotated[int, told("Tasks that are not finished.", 1)]
    week_tasks: Annotated[int, told("Tasks created today or on the six days before.", 20)]
    completed_tasks: Annotated[int, told("Tasks that are finished, whatever their outcome.", 41)]


class FunctionRowObject(Struct, gc=False, rename="camel"):
    """A function in a list."""

    id: Annotated[str, id_of("The id.")]
    name: Annotated[str, told("The name.", "resize-image")]
    description: Annotated[str, told("For people.", "Makes thumbnails")]
    type: _Kind
    lang: _Language
    paused: _Paused
    tags: Annotated[list[TagObject], told("In the order given.")]
    created_at: Annotated[str, _seconds("When it was made")]


class FunctionObject(FunctionRowObject, gc=False, rename="camel"):
    """A function."""

    url: Annotated[
        str | UnsetType,
        told("What it calls; only if it calls a URL.", "https://example.com/resize"),
    ]
    build_id: Annotated[
        str | UnsetType, id_of("The build that new tasks run; absent until one has succeeded.")
    ]
    capabilities: CapabilitiesObject
    metrics: FunctionMetricsObject


class BuildStepObject(Struct, gc=False):
    """When a build took on a status."""

    status: _Status
    time: Annotated[str, _moment("When the build took on this status")]


class BuildObject(Struct, gc=False, rename="camel"):
    """A build."""

    id: Annotated[str, id_of("The id.")]
    function_id: Annotated[str, id_of("The function.")]
    status: _Status
    arch: Annotated[list[str], told("The architectures it is for.", ["amd64"])]
    size: Annotated[int, told("The size of the archive in bytes.", 1893)]
    digest: Annotated[
        str, told("The SHA-256 of the archive, in hexadecimal.", "e3b0c44298fc1c149afbf4c8…")
    ]
    timeline: Annotated[list[BuildStepObject], told("Its statuses, the oldest first.")]
    log: Annotated[
        tuple[str, ...],
        told(
            "For people: what was found, or what is wrong and what to do.",
            ["handler.py: compiles with Python 3.12"],
        ),
    ]


class BuildRowObject(Struct, gc=False, rename="camel"):
    """A build in a list."""

    id: Annotated[str, id_of("The id.")]
    function_id: Annotated[str, id_of("The function.")]
    status: _Status
    created_at: Annotated[str, _moment("When it was uploaded")]


class BuildPageObject(Struct, gc=False, rename="camel"):
    """A page of builds."""

    page_count: Annotated[int, told("How many pages there are.", 1)]
    page_size: Annotated[int, told("How many builds a page has.", 10)]
    total_count: Annotated[int, told("How many builds there are.", 1)]
    results: Annotated[list[BuildRowObject], told("Newest first.")]


class UsageObject(Struct, gc=False, rename="camel"):
    """The current activity of an account."""

    pending_tasks: Annotated[int, told("Tasks that are not finished.", 2)]
    pending_builds: Annotated[int, told("Builds that are not checked yet.", 0)]
    active_nodes: Annotated[int, told("Connected nodes that may run the account's functions.", 3)]
    free_nodes: Annotated[int, told("Those of them that could take a task now.", 2)]
    busy_nodes: Annotated[int, told("Those of them that run something.", 1)]
    today_tasks: Annotated[int, told("Tasks created today.", 12)]
    completed_tasks: Annotated[int, told("Tasks that are finished, whatever their outcome.", 340)]
    waiting_tasks: Annotated[
        int, told("Tasks that wait for a node, or for their turn to call a URL.", 1)
    ]
    oldest_waiting_seconds: Annotated[int, told("For how long the oldest of them has waited.", 4)]


PACKAGE: Final = Annotated[bytes, told("A zip archive.", "PK…")]
"""What a build is made of, as it is downloaded."""


def label_object(label: Label) -> TagObject:
    """Return a tag."""
    return TagObject(label.id, label.name, label.color)


def function_row(function: Function, labels: Labels) -> FunctionRowObject:
    """Return a function as lists show it; `labels` has its tags, but for those that are gone."""
    return FunctionRowObject(*_row(function, labels))


def function_object(
    function: Function, labels: Labels, metrics: FunctionMetricsObject
) -> FunctionObject:
    """Return all of a function."""
    return FunctionObject(
        *_row(function, labels),
        UNSET if function.url is None else function.url,
        UNSET if function.build_id is None else function.build_id,
        capabilities_object(function.capabilities),
        metrics,
    )


def _row(
    function: Function, labels: Labels
) -> tuple[str, str, str, str, str, bool, list[TagObject], str]:
    return (
        function.id,
        function.name,
        function.description,
        function.kind.value.lower(),
        "" if function.language is None else function.language.value.lower(),
        function.paused,
        [label_object(labels[one]) for one in function.label_ids if one in labels],
        unix_seconds(function.created_on),
    )


def capabilities_object(capabilities: Capabilities) -> CapabilitiesObject:
    """Return what a function demands."""
    return CapabilitiesObject(
        capabilities.timeout_s,
        capabilities.cpu_count,
        capabilities.memory_mb,
        capabilities.network_latency_ms,
        capabilities.privileged,
    )


def build_object(build: Build) -> BuildObject:
    """Return all of a build."""
    return BuildObject(
        build.id,
        build.function_id,
        build.status,
        [build.architecture],
        build.size_bytes,
        build.digest,
        [BuildStepObject(step.status, rfc3339(step.at)) for step in build.timeline],
        build.log,
    )


def build_row(build: Build) -> BuildRowObject:
    """Return a build as lists show it."""
    return BuildRowObject(build.id, build.function_id, build.status, rfc3339(build.created_on))
