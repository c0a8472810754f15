"""The JSON Schemas of answers about executions and nodes; see `response_schemas.py`."""

from typing import Final

from troth.http.functions.values import ID_SCHEMA
from troth.http.wire.fields import Schema
from troth.http.wire.schema_parts import integer, list_of, object_of, reference, text

_SECONDS = "1678087212"
_EXECUTION_ID = "6405942c9956fae80d7e0e91"
_FUNCTION_ID = "6405848581b16f7a07cd4c48"
_NODE_ID = "1a061cfd-df01-4b02-a067-5122c5941e15"


def _id(description: str, example: str) -> Schema:
    return {**ID_SCHEMA, "description": description, "examples": [example]}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description, "examples": [False]}


_PROGRESS = integer("How far it is, in percent; 100 when it is finished.", 0)
_ISSUED = text("When it was created, in decimal seconds since 1970.", _SECONDS)
_EXECUTION_AND_COUNTER: dict[str, Schema] = {
    "id": _id("The task.", _EXECUTION_ID),
    "counter": integer("How often it was given out; the fence.", 1),
}

EXECUTION_SCHEMAS: Final[dict[str, Schema]] = {
    "Demands": object_of(
        "What a function demands of a node; 0 and false demand nothing.",
        cpuCount=integer("CPUs.", 0),
        memSize=integer("Memory, in MB.", 0),
        networkLatency=integer("The highest network latency, in ms.", 0),
        privileged=_flag("Whether it must not be confined."),
    ),
    "FunctionTask": object_of(
        "A function task.",
        functionId=_id("The function.", _FUNCTION_ID),
        issued=_ISSUED,
        assigned=text("When the node took it on; empty before.", "1678088212"),
        finished=text("When it ended; empty before.", "1678089212"),
        progress=_PROGRESS,
        node=text("The node that runs it, or did last; empty before.", _NODE_ID),
        timeout=integer("How many seconds it may run, from `assigned` on.", 10),
        capabilities=reference("Demands"),
    ),
    "FunctionTaskRow": object_of(
        "A function task, in short.",
        id=_id("Its id.", _EXECUTION_ID),
        issued=_ISSUED,
        progress=_PROGRESS,
        status=integer("The HTTP status of its result; 0 before.", 200),
    ),
    "FunctionTaskList": list_of("Newest first.", "FunctionTaskRow"),
    "Result": {"description": "Whatever the function answered."},
    "Node": object_of(
        "A node.",
        available=_flag("Whether its stream is open."),
        description=text("For people.", "Rack 3"),
        disabled=_flag("Whether it is given no tasks."),
        hash=text("Its id.", _NODE_ID),
        draining=_flag("Whether it is given no further tasks."),
        slots=integer("How many tasks it runs at a time.", 1),
        running=integer("How many tasks it has.", 0),
        languages={
            "type": "array",
            "description": "What it can run.",
            "items": {"type": "string"},
            "examples": [["PY", "JS"]],
        },
    ),
    "NodeList": list_of("In no particular order.", "Node"),
    "NodeOrder": {
        "type": "string",
        "description": "Server-sent events. Each is one order as JSON.",
        "examples": [f'data: {{"type":"run","task":{{"id":"{_EXECUTION_ID}","counter":1}}}}\n\n'],
    },
    "Assignment": object_of(
        "What a node is to run.",
        functionId=_id("The function.", _FUNCTION_ID),
        buildId=_id("The build of its code.", _FUNCTION_ID),
        digest=text("The SHA-256 of the build's archive, in hexadecimal.", "9f86d081884c7d65"),
        language=text("The language of the code.", "PY"),
        timeout=integer("How many seconds it may run, from now.", 10),
        capabilities=reference("Demands"),
        account=text("Whose function it is.", _FUNCTION_ID),
        request=object_of(
            "What the function is called with.",
            method=text("The method.", "POST"),
            query=text("The query string, as it came.", "myParam1=100"),
            headers={
                "type": "array",
                "description": "Names, in lower case, and values.",
                "items": {"type": "array", "items": {"type": "string"}},
                "examples": [[["content-type", "application/json"]]],
            },
            body=text("The body, in base64.", "e30="),
            host=text("The host that was called.", "127.0.0.1:8001"),
        ),
    ),
    "TaskAndCounter": object_of("A task that a node has.", **_EXECUTION_AND_COUNTER),
    "NodeReport": object_of(
        "What a node shall stop.", stop=list_of("These it has no longer.", "TaskAndCounter")
    ),
}
