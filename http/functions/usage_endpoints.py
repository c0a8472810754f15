"""How much an account uses its functions: `GET /v1/metrics`, and the metrics of one function."""

from typing import Final

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.executions import DAY_MS, USAGE_DAYS_COUNT, Usage
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer, require_account
from troth.http.api.shards_port import answered
from troth.http.wire.requests import Response

from .answers import FunctionMetricsObject, UsageObject

NEVER_USED: Final = Usage("", "")
"""The usage of a function that never ran."""


async def usage_of(api: Api, account_id: str) -> dict[str, Usage]:
    """Return how often the functions of an account were run. Raises ApiError (503)."""
    return await answered(api.shards.usage(account_id))


def executions_in(usage: Usage, days_count: int, now_ms: int) -> int:
    """Return how many executions were created on the last `days_count` days, with today."""
    today = now_ms // DAY_MS
    return sum(count for day, count in usage.days.items() if today - days_count < day <= today)


def function_metrics_object(usage: Usage, now_ms: int) -> FunctionMetricsObject:
    """Return the metrics of a function, as answers show them."""
    return FunctionMetricsObject(
        todays_tasks=executions_in(usage, 1, now_ms),
        pending_tasks=usage.created_count - usage.finished_count,
        week_tasks=executions_in(usage, USAGE_DAYS_COUNT, now_ms),
        completed_tasks=usage.finished_count,
    )


async def show_usage(api: Api, call: Call) -> Response:
    """GET /v1/metrics."""
    account_id = require_account(call)
    used = (await usage_of(api, account_id)).values()
    now_ms = api.now_ms()
    placement = api.placement
    nodes = [] if placement is None else placement.nodes.values()
    within_reach = [
        node
        for node in nodes
        if node.is_available and (node.entry.shared or node.entry.account_id == account_id)
    ]
    made = UsageObject(
        pending_tasks=sum(usage.created_count - usage.finished_count for usage in used),
        pending_builds=0 if api.builder is None else api.builder.waiting_count(account_id),
        active_nodes=len(within_reach),
        free_nodes=sum(node.has_room for node in within_reach),
        busy_nodes=sum(bool(node.executions) for node in within_reach),
        today_tasks=sum(executions_in(usage, 1, now_ms) for usage in used),
        completed_tasks=sum(usage.finished_count for usage in used),
        waiting_tasks=0 if placement is None else placement.waiting_count(account_id),
        oldest_waiting_seconds=0
        if placement is None
        else placement.oldest_waiting_ms(account_id) // 1000,
    )
    return answer(Code.OK, made)


ENDPOINTS = (
    Endpoint(
        name="showUsage",
        group="Functions",
        method="GET",
        path="/v1/metrics",
        summary="Read the account's usage",
        description="Current counts of the account. Those of the whole server are at `/metrics`.",
        handler=show_usage,
        scope=Scope.FUNCTIONS_READ,
        successes=(Success(200, "The counts.", UsageObject),),
    ),
)
