"""Metrics of the process: is it well, how late is its event loop; and of function tasks."""

from dataclasses import dataclass
from typing import Final

from troth.core.buckets import Buckets
from troth.http.executions.calls import FunctionCallsStatistics
from troth.http.functions.builder import BuilderStatistics
from troth.http.metrics.families import Family, Group, MetricKind, counter, gauge, histogram
from troth.shards.clock import ClockStatistics
from troth.shards.placement.placement import PlacementStatistics


@dataclass(frozen=True, slots=True)
class ServerReading:
    """The server itself. `started_s` is in seconds since 1970."""

    version: str
    python: str
    is_ready: bool
    started_s: float
    loop_lag_s: Buckets
    tokens_expiring_count: int
    sessions_count: int


SERVER: Final[Group[ServerReading]] = Group(
    "Server",
    (
        Family(
            "troth_build_info",
            MetricKind.INFO,
            "Versions of Troth and Python.",
            lambda server: {(server.version, server.python): 1.0},
            ("version", "python"),
        ),
        gauge(
            "troth_ready",
            "1 while requests are served; 0 while it starts or stops.",
            lambda server: server.is_ready,
        ),
        gauge(
            "troth_start_timestamp_seconds",
            "When the server was started.",
            lambda server: server.started_s,
        ),
        histogram(
            "troth_loop_lag_seconds",
            "How late a timer of the event loop fires, looked at ten times a second while records "
            "are written, else every five seconds. A p99 above "
            "100 ms means that something holds the loop, or that the machine is overloaded.",
            lambda server: server.loop_lag_s,
        ),
        gauge(
            "troth_tokens_expiring",
            "Tokens that expire within seven days. `troth token rotate` makes new secrets.",
            lambda server: server.tokens_expiring_count,
        ),
        gauge(
            "troth_sessions",
            "Sessions of people in the web UI. `troth account` shows who has access.",
            lambda server: server.sessions_count,
        ),
    ),
)

CLOCK: Final[Group[ClockStatistics]] = Group(
    "Clock",
    (
        counter(
            "troth_clock_steps_total",
            "How often the wall clock was set while the server ran, by direction. Find out "
            "who sets it: timeouts and schedules follow it.",
            lambda clock: {
                "back": clock.steps_back_total_count,
                "forward": clock.steps_forward_total_count,
            },
            "direction",
        ),
        counter(
            "troth_absences_total",
            "How often the process stood still for so much time that leases were prolonged.",
            lambda clock: clock.absences_total_count,
        ),
        gauge(
            "troth_clock_last_step_seconds",
            "By how much the wall clock was last set.",
            lambda clock: clock.last_step_ms / 1000,
        ),
    ),
)


def _by_account(name: str, text: str, field: str) -> Family[PlacementStatistics]:
    return Family(
        name,
        MetricKind.GAUGE,
        text,
        lambda placement: dict(getattr(placement, field)),
        ("account",),
        names_accounts=True,
        is_bounded=True,
    )


PLACEMENT: Final[Group[PlacementStatistics]] = Group(
    "Function tasks and nodes",
    (
        gauge(
            "troth_function_tasks_waiting",
            "Function tasks that wait for a node (`nodes`) or for room to call a URL (`calls`).",
            lambda placement: {
                "nodes": placement.waiting_count,
                "calls": placement.waiting_calls_count,
            },
            "for",
        ),
        gauge(
            "troth_function_tasks_withheld",
            "Function tasks that wait because their account is disabled or function paused.",
            lambda placement: placement.withheld_count,
        ),
        gauge(
            "troth_function_tasks_oldest_waiting_seconds",
            "Age of the function task that has waited longest. Add nodes if it grows.",
            lambda placement: placement.oldest_waiting_ms / 1000,
        ),
        gauge(
            "troth_function_tasks_running",
            "Function tasks that run on nodes, or are calls of URLs.",
            lambda placement: {
                "nodes": placement.running_count,
                "calls": placement.running_calls_count,
            },
            "on",
        ),
        gauge(
            "troth_nodes",
            "Nodes: all that are registered, connected ones, and of these free and busy ones.",
            lambda placement: {
                "registered": placement.nodes_count,
                "connected": placement.nodes_connected_count,
                "free": placement.nodes_free_count,
                "busy": placement.nodes_busy_count,
            },
            "state",
        ),
        gauge(
            "troth_function_result_waiters",
            "Requests that wait for a function task's result.",
            lambda placement: placement.waiters_count,
        ),
        counter(
            "troth_function_tasks_placed_total",
            "Function tasks by what happened: `placed` on a node, `replaced` after a node was "
            "lost, `returned` by a node, `finished`.",
            lambda placement: {
                "placed": placement.placed_total_count,
                "replaced": placement.replaced_total_count,
                "returned": placement.returned_total_count,
                "finished": placement.finished_total_count,
            },
            "event",
        ),
        _by_account(
            "troth_account_function_tasks_waiting",
            "Function tasks that wait, by account. For administrators only.",
            "waiting_by_account",
        ),
        _by_account(
            "troth_account_function_tasks_running",
            "Function tasks that run, by account. For administrators only.",
            "running_by_account",
        ),
    ),
)

FUNCTION_CALLS: Final[Group[FunctionCallsStatistics]] = Group(
    "Calls of functions",
    (
        counter(
            "troth_function_calls_total",
            "Calls of functions by URL: `begun`, `answered`, `failed`, `stopped`.",
            lambda calls: {
                "begun": calls.begun_total_count,
                "answered": calls.answered_total_count,
                "failed": calls.failed_total_count,
                "stopped": calls.stopped_total_count,
            },
            "event",
        ),
    ),
)

BUILDS: Final[Group[BuilderStatistics]] = Group(
    "Builds",
    (
        gauge(
            "troth_builds_waiting",
            "Uploaded packages that wait to be checked.",
            lambda builds: builds.waiting_count,
        ),
        counter(
            "troth_builds_total",
            "Uploaded packages that were checked, by result.",
            lambda builds: {
                "succeeded": builds.succeeded_total_count,
                "failed": builds.failed_total_count,
                "removed": builds.removed_total_count,
            },
            "result",
        ),
    ),
)
