"""Metrics of what the server keeps: promises, tasks, schedules, locks, timers; and of shards."""

from typing import Final

from troth.core.buckets import Buckets
from troth.core.failures import FailureKind, Failures
from troth.http.metrics.families import Group, counter, gauge, histogram, in_parts
from troth.http.overview.statistics_endpoints import counts_object
from troth.shards.surveys.totals import ShardTotals

SHARDS: Final[Group[ShardTotals]] = Group(
    "Promises, tasks and shards",
    (
        gauge(
            "troth_promises",
            "Promises of clients by state. Pending ones that only grow mean that work is not done.",
            lambda totals: counts_object(totals.counts)["promises"],
            "state",
        ),
        gauge(
            "troth_tasks",
            "Tasks of the REST API by state. `init` wait for a worker: see troth_queue_waiting.",
            lambda totals: counts_object(totals.counts)["tasks"],
            "state",
        ),
        gauge(
            "troth_workflow_tasks",
            "Tasks of the envelope protocol by state. `suspended` ones wait for promises.",
            lambda totals: counts_object(totals.counts)["workflows"],
            "state",
        ),
        gauge(
            "troth_function_tasks",
            "Function tasks by the state of their promise.",
            lambda totals: counts_object(totals.counts)["functions"],
            "state",
        ),
        gauge(
            "troth_schedules",
            "Schedules by state. `paused` ones create nothing until they are resumed.",
            lambda totals: {
                "active": totals.sums.schedules_count - totals.sums.schedules_paused_count,
                "paused": totals.sums.schedules_paused_count,
            },
            "state",
        ),
        gauge("troth_locks", "Locks that are held.", lambda totals: totals.sums.locks_count),
        gauge(
            "troth_callbacks",
            "Promises that callbacks or subscriptions of the REST API wait for.",
            lambda totals: totals.sums.callbacks_count,
        ),
        gauge(
            "troth_catalog_entries",
            "Accounts, tokens, functions, builds and nodes.",
            lambda totals: totals.sums.entries_count,
        ),
        gauge(
            "troth_promises_in_memory",
            "Promises in memory: pending ones, and completed ones since the last checkpoint.",
            lambda totals: totals.sums.promises_in_memory_count,
        ),
        gauge(
            "troth_tasks_in_memory",
            "Tasks in memory: unfinished ones, and finished ones since the last checkpoint.",
            lambda totals: totals.sums.tasks_in_memory_count,
        ),
        gauge(
            "troth_shards",
            "Shards, as chosen when the data directory was made.",
            lambda totals: totals.shards_count,
        ),
        gauge(
            "troth_outbox_messages",
            "Messages between shards that are not acknowledged. More than a few thousand for long "
            "is a defect: please report it.",
            lambda totals: totals.sums.outbox_count,
        ),
        gauge(
            "troth_mailbox_commands",
            "Commands that wait in the mailboxes of all shards. Many mean overload.",
            lambda totals: totals.sums.mailbox_count,
        ),
        gauge(
            "troth_mailbox_largest_commands",
            "Commands in the fullest mailbox. At mailbox_limit_count requests are refused (503).",
            lambda totals: totals.mailbox_largest_count,
        ),
        counter(
            "troth_mailbox_refused_total",
            "Commands refused because a mailbox was full, or memory was short. Clients got 503.",
            lambda totals: totals.sums.refused_count,
        ),
        counter(
            "troth_commands_total",
            "Commands carried out.",
            lambda totals: totals.sums.commands_count,
        ),
        counter(
            "troth_busiest_shard_commands_total",
            "Commands carried out by the shard with the most. Over troth_commands_total this is "
            "the busiest shard's share: ids with the same origin are in one shard.",
            lambda totals: totals.busiest_commands_count,
        ),
        counter(
            "troth_turns_total",
            "Turns of shards. Commands by turns is how much one write to disk carries.",
            lambda totals: totals.sums.turns_count,
        ),
        gauge("troth_timers", "Timers that are set.", lambda totals: totals.sums.timers_count),
        counter(
            "troth_timers_fired_total",
            "Timers that came due.",
            lambda totals: totals.sums.timers_fired_count,
        ),
    ),
)

EACH_SHARD: Final = in_parts(SHARDS, "shard")
"""The same for each shard, as `metrics_per_shard` wants it."""

TIMERS: Final[Group[Buckets]] = Group(
    "Timers",
    (
        histogram(
            "troth_timer_lateness_seconds",
            "Time from a deadline to its handling. A p99 above a second means that the event loop "
            "is overloaded: see troth_loop_lag_seconds.",
            lambda lateness: lateness,
        ),
    ),
)

FAILURES: Final[Group[Failures]] = Group(
    "Failures",
    (
        counter(
            "troth_failures_total",
            "What went wrong, by kind: promise (rejected or timed out), lease (ran out), sending, "
            "function, build, login. `troth failures` shows the latest of each.",
            lambda failures: {kind.value: failures.totals[kind] for kind in FailureKind},
            "kind",
        ),
    ),
)
