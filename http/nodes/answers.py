"""What `/v1/node` answers: the types, and how they are made of nodes."""

from typing import Annotated, Final

from msgspec import Struct

from troth.http.executions.answers import DemandsObject
from troth.http.executions.values import FunctionRequest
from troth.http.functions.answers import id_of
from troth.http.wire.answers import told
from troth.shards.placement.executions import NodePlace

_TASK_ID: Final = "6405942c9956fae80d7e0e91"

NODE_ORDERS: Final = Annotated[
    str,
    told(
        "Server-sent events. Each is one order as JSON.",
        f'data: {{"type":"run","task":{{"id":"{_TASK_ID}","counter":1}}}}\n\n',
    ),
]


class NodeObject(Struct, gc=False):
    """A node."""

    available: Annotated[bool, told("Whether its stream is open.", False)]
    description: Annotated[str, told("For people.", "Rack 3")]
    disabled: Annotated[bool, told("Whether it is given no tasks.", False)]
    hash: Annotated[str, told("Its id.", "1a061cfd-df01-4b02-a067-5122c5941e15")]
    draining: Annotated[bool, told("Whether it is given no further tasks.", False)]
    slots: Annotated[int, told("How many tasks it runs at a time.", 1)]
    running: Annotated[int, told("How many tasks it has.", 0)]
    languages: Annotated[list[str], told("What it can run.", ["PY", "JS"])]


class AssignmentObject(Struct, gc=False, rename="camel"):
    """What a node is to run."""

    function_id: Annotated[str, id_of("The function.")]
    build_id: Annotated[str, id_of("The build of its code.")]
    digest: Annotated[
        str, told("The SHA-256 of the build's archive, in hexadecimal.", "9f86d081884c7d65")
    ]
    language: Annotated[str, told("The language of the code.", "PY")]
    timeout: Annotated[int, told("How many seconds it may run, from now.", 10)]
    capabilities: DemandsObject
    account: Annotated[
        str, told("The account that the function belongs to.", "6405848581b16f7a07cd4c48")
    ]
    request: FunctionRequest


class TaskAndCounterObject(Struct, gc=False):
    """A task that a node has."""

    id: Annotated[str, id_of("The task.", _TASK_ID)]
    counter: Annotated[int, told("How often it was given out; the fence.", 1)]


class NodeReportObject(Struct, gc=False):
    """The tasks that a node must stop."""

    stop: Annotated[list[TaskAndCounterObject], told("Tasks that the node no longer has.")]


def node_object(node: NodePlace) -> NodeObject:
    """Return a node."""
    entry = node.entry
    return NodeObject(
        node.is_available,
        entry.description,
        entry.disabled,
        entry.id,
        entry.draining,
        entry.slots_count,
        len(node.executions),
        [language.value for language in entry.languages],
    )
