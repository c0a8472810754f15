"""What `/v1/task` answers: the types, and how they are made of executions."""

from typing import Annotated, Final

from msgspec import Struct

from troth.core.catalog import Capabilities
from troth.http.functions.answers import id_of
from troth.http.wire.answers import told

_SECONDS: Final = "1678087212"
_NODE_ID: Final = "1a061cfd-df01-4b02-a067-5122c5941e15"

_Progress = Annotated[int, told("How far it is, in percent; 100 when it is finished.", 0)]
_Issued = Annotated[str, told("When it was created, in decimal seconds since 1970.", _SECONDS)]

RESULT: Final = Annotated[bytes, told("The body of the function's answer.")]


class DemandsObject(Struct, gc=False, rename="camel"):
    """What a function demands of a node; 0 and false demand nothing."""

    cpu_count: Annotated[int, told("CPUs.", 0)]
    mem_size: Annotated[int, told("Memory, in MB.", 0)]
    network_latency: Annotated[int, told("The highest network latency, in ms.", 0)]
    privileged: Annotated[bool, told("Whether it must run without a sandbox.", False)]


class FunctionTaskObject(Struct, gc=False, rename="camel"):
    """A function task."""

    function_id: Annotated[str, id_of("The function.")]
    issued: _Issued
    assigned: Annotated[str, told("When the node took it on; empty before.", "1678088212")]
    finished: Annotated[str, told("When it ended; empty before.", "1678089212")]
    progress: _Progress
    node: Annotated[str, told("The node that runs it, or did last; empty before.", _NODE_ID)]
    timeout: Annotated[int, told("How many seconds it may run, from `assigned` on.", 10)]
    capabilities: DemandsObject


class FunctionTaskRowObject(Struct, gc=False):
    """A function task, in short."""

    id: Annotated[str, id_of("Its id.", "6405942c9956fae80d7e0e91")]
    issued: _Issued
    progress: _Progress
    status: Annotated[int, told("The HTTP status of its result; 0 before.", 200)]


def demands_object(capabilities: Capabilities) -> DemandsObject:
    """Return what an execution demands of its node."""
    return DemandsObject(
        capabilities.cpu_count,
        capabilities.memory_mb,
        capabilities.network_latency_ms,
        capabilities.privileged,
    )
