"""The JSON Schemas of answers about functions, tags and builds; see `response_schemas.py`."""

from typing import Final

from troth.core.catalog import BuildStatus
from troth.http.wire.fields import Schema
from troth.http.wire.schema_parts import integer, list_of, object_of, reference, text

from .values import ID_SCHEMA

_SECONDS = "1678029786"
_MOMENT = "2024-03-19T23:58:51Z"


def _id(description: str, example: str = "6405848581b16f7a07cd4c48") -> Schema:
    return {**ID_SCHEMA, "description": description, "examples": [example]}


def _seconds(description: str) -> Schema:
    return text(f"{description}, in decimal seconds since 1970.", _SECONDS)


def _moment(description: str) -> Schema:
    return text(f"{description}, as in RFC 3339.", _MOMENT)


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description, "examples": [False]}


def _array(name: str) -> Schema:
    return list_of("Newest first.", name)


_KIND: Schema = {
    "type": "string",
    "enum": ["code", "http"],
    "description": "Whether it is code for the nodes or calls a URL.",
    "examples": ["code"],
}
_LANGUAGE: Schema = {
    "type": "string",
    "enum": ["py", "js", ""],
    "description": "The language of the code; empty if it calls a URL.",
    "examples": ["py"],
}
_STATUS: Schema = {
    "type": "string",
    "enum": [status.value for status in BuildStatus],
    "description": "All but PENDING are final.",
    "examples": ["SUCCESS"],
}
_PAUSED = _flag("Whether new tasks are refused.")

FUNCTION_SCHEMAS: Final[dict[str, Schema]] = {
    "NewId": object_of("What was made.", id=_id("The new id.")),
    "Capabilities": object_of(
        "What a function demands of a node; 0 and false demand nothing.",
        timeout=integer("How many seconds one execution may take.", 10),
        cpuCount=integer("CPUs.", 0),
        memSize=integer("Memory in MB.", 0),
        networkLatency=integer("Largest network latency in ms.", 0),
        privileged=_flag("Whether the node must be privileged."),
    ),
    "Tag": object_of(
        "A tag.",
        id=_id("The id.", "641ae3f2c2f41a9a4d3c2f1e"),
        name=text("The name.", "production"),
        color=text("`#` and hexadecimal digits, or empty.", "#2e7d32"),
    ),
    "TagList": _array("Tag"),
    "FunctionMetrics": object_of(
        "How often a function was run. A day begins at midnight UTC.",
        todaysTasks=integer("Tasks created today.", 3),
        pendingTasks=integer("Tasks that are not finished.", 1),
        weekTasks=integer("Tasks created today or on the six days before.", 20),
        completedTasks=integer("Tasks that are finished, whatever became of them.", 41),
    ),
    "Function": object_of(
        "A function.",
        ("url", "buildId"),
        id=_id("The id."),
        name=text("The name.", "resize-image"),
        description=text("For people.", "Makes thumbnails"),
        type=_KIND,
        lang=_LANGUAGE,
        url=text("What it calls; only if it calls a URL.", "https://example.com/resize"),
        buildId=_id("The build that new tasks run; absent until one has succeeded."),
        paused=_PAUSED,
        tags=list_of("In the order given.", "Tag"),
        capabilities=reference("Capabilities"),
        metrics=reference("FunctionMetrics"),
        createdAt=_seconds("When it was made"),
    ),
    "FunctionRow": object_of(
        "A function in a list.",
        id=_id("The id."),
        name=text("The name.", "resize-image"),
        description=text("For people.", "Makes thumbnails"),
        type=_KIND,
        lang=_LANGUAGE,
        paused=_PAUSED,
        tags=list_of("In the order given.", "Tag"),
        createdAt=_seconds("When it was made"),
    ),
    "FunctionList": _array("FunctionRow"),
    "BuildStep": object_of(
        "When a build took on a status.", status=_STATUS, time=_moment("When that was")
    ),
    "Build": object_of(
        "A build.",
        id=_id("The id."),
        functionId=_id("The function."),
        status=_STATUS,
        arch={
            "type": "array",
            "items": {"type": "string"},
            "description": "The architectures it is for.",
            "examples": [["amd64"]],
        },
        size=integer("The size of the archive in bytes.", 1893),
        digest=text("The SHA-256 of the archive, in hexadecimal.", "e3b0c44298fc1c149afbf4c8…"),
        timeline=list_of("Its statuses, the oldest first.", "BuildStep"),
        log={
            "type": "array",
            "items": {"type": "string"},
            "description": "For people: what was found, or what is wrong and what to do.",
            "examples": [["handler.py: compiles with Python 3.12"]],
        },
    ),
    "BuildRow": object_of(
        "A build in a list.",
        id=_id("The id."),
        functionId=_id("The function."),
        status=_STATUS,
        createdAt=_moment("When it was uploaded"),
    ),
    "BuildPage": object_of(
        "A page of builds.",
        pageCount=integer("How many pages there are.", 1),
        pageSize=integer("How many builds a page has.", 10),
        totalCount=integer("How many builds there are.", 1),
        results=_array("BuildRow"),
    ),
    "Archive": {
        "type": "string",
        "contentMediaType": "application/zip",
        "description": "A zip archive.",
        "examples": ["PK…"],
    },
    "Usage": object_of(
        "What goes on in an account.",
        pendingTasks=integer("Tasks that are not finished.", 2),
        pendingBuilds=integer("Builds that are not checked yet.", 0),
        activeNodes=integer("Connected nodes that may run the account's functions.", 3),
        freeNodes=integer("Those of them that could take a task now.", 2),
        busyNodes=integer("Those of them that run something.", 1),
        todayTasks=integer("Tasks created today.", 12),
        completedTasks=integer("Tasks that are finished, whatever became of them.", 340),
        waitingTasks=integer("Tasks that wait for a node, or for their turn to call a URL.", 1),
        oldestWaitingSeconds=integer("For how long the oldest of them has waited.", 4),
    ),
}
"""By name; part of the components of the OpenAPI description."""
