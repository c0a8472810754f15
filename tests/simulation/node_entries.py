"""The nodes of a simulation, as the catalog would have them, and the functions to be run."""

from troth.core.catalog import Capabilities, FunctionKind, Language, Node
from troth.core.executions import ExecutionPlan

ACCOUNT = "account"
NODES = tuple(
    Node(
        f"node{number}",
        1,
        0,
        ACCOUNT,
        languages=(Language.PYTHON,),
        offers=Capabilities(timeout_s=10, cpu_count=4, memory_mb=1024),
        slots_count=1 + number % 2,
        shared=number == 0,
    )
    for number in range(3)
)
PLANS = (
    ExecutionPlan(
        ACCOUNT,
        "code",
        FunctionKind.CODE,
        Capabilities(timeout_s=10, cpu_count=1),
        Language.PYTHON,
        "build",
    ),
    ExecutionPlan(
        "another", "shared", FunctionKind.CODE, Capabilities(timeout_s=5), Language.PYTHON, "build"
    ),
    ExecutionPlan(
        ACCOUNT, "call", FunctionKind.HTTP, Capabilities(timeout_s=5), url="http://host.test/f"
    ),
)
