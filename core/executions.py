"""Executions: what a shard knows of a function's run besides its promise and its leased task.

What users call a function task is a durable promise (`catalog.execution_promise_id`) with an invoke
task whose receiver is a `function` receiver: `placement` in `shards/` finds it a node. The
execution lives as long as the promise is pending. When the promise completes, what is worth keeping
of it goes into the headers of the promise's value, under the keys below, and the execution is
forgotten.
"""

from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from .catalog import Capabilities, FunctionKind, Language
from .model import Json

LOST_NODES_LIMIT_COUNT: Final = 3
"""An execution whose node died more often than this ends with status 502."""

EXECUTION_GRACE_MS: Final = 5_000
"""A node kills what runs too long; if it does not say so by then, the server ends the execution."""

# Keys in the headers of a finished execution's value. Clients never see them as such.
STATUS_KEY: Final = "troth:status"
"""The HTTP status of the result, in decimal; the function's own, or 410, 500, 502, 504."""
HEADERS_KEY: Final = "troth:headers"
"""The result's HTTP headers: JSON, an array of pairs of texts."""
ERROR_KEY: Final = "troth:error"
"""Why the function gave no result, in words; absent if it gave one."""
NODE_KEY: Final = "troth:node"
"""The id of the node that ran it last; absent if none ever did."""
ASSIGNED_KEY: Final = "troth:assigned"
"""When it was assigned to that node, in ms, decimal; absent if it never was."""
LOST_NODES_KEY: Final = "troth:lost-nodes"
"""How many nodes died with it, decimal; absent if none."""

METHOD_KEY: Final = "method"
"""In the headers of an execution's param: the method that its function is called with."""

# Tags of an execution's promise, by which it is found.
ACCOUNT_TAG: Final = "troth:account"
FUNCTION_TAG: Final = "troth:function"


class ExecutionPlan(Struct, frozen=True, array_like=True, gc=False):
    """The plan of an execution, fixed when the task is created; `build_id` is None for HTTP."""

    account_id: str
    function_id: str
    kind: FunctionKind
    capabilities: Capabilities
    language: Language | None = None
    build_id: str | None = None
    url: str | None = None


RECEIVER_TYPE: Final = "function"


@lru_cache(maxsize=4_096)
def receiver_of(plan: ExecutionPlan) -> Json:
    """Return the receiver of an execution's invoke task: all that finding it a node takes.

    Many tasks share it; it is not to be changed.
    """
    return {"type": RECEIVER_TYPE, "data": msgspec.to_builtins(plan)}


class _Receiver(Struct, frozen=True):
    data: ExecutionPlan


def plan_of(receiver: Json) -> ExecutionPlan:
    """Read back what `receiver_of` made. Raises msgspec.ValidationError for anything else."""
    return msgspec.convert(receiver, _Receiver).data


class Execution(Struct, frozen=True, array_like=True, gc=False):
    """An unfinished execution. `node_id` is empty and `assigned_on` None while it is queued.

    `progress` is a percentage. `lost_nodes_count` grows when a lease runs out; giving a task back
    in order (drain) does not count.
    """

    promise_id: str
    plan: ExecutionPlan
    node_id: str = ""
    assigned_on: int | None = None
    progress: int = 0
    lost_nodes_count: int = 0

    @property
    def ends_on(self) -> int | None:
        """Return when the server ends it automatically; None while it is queued."""
        if self.assigned_on is None:
            return None
        return self.assigned_on + self.time_ms

    @property
    def time_ms(self) -> int:
        """Return how long a node may hold it: the function's own time, plus a moment to report."""
        return self.plan.capabilities.timeout_s * 1_000 + EXECUTION_GRACE_MS


class Usage(Struct, frozen=True, array_like=True, gc=False):
    """How often a function ran, as far as its tasks live in one shard (or added up).

    `days` maps days since 1970 to tasks created on them. Only the last seven days are kept.
    """

    function_id: str
    account_id: str
    created_count: int = 0
    finished_count: int = 0
    days: dict[int, int] = {}


USAGE_DAYS_COUNT: Final = 7
DAY_MS: Final = 86_400_000


def added(left: Usage, right: Usage) -> Usage:
    """Return the usage of one function in two places together."""
    days = dict(left.days)
    for day, count in right.days.items():
        days[day] = days.get(day, 0) + count
    return Usage(
        left.function_id,
        left.account_id,
        left.created_count + right.created_count,
        left.finished_count + right.finished_count,
        days,
    )
