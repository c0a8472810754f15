"""Metrics of what has happened since the start: to promises, to tasks, to schedules."""

from typing import Final

from troth.core.buckets import Buckets
from troth.core.model import PENDING, PromiseState
from troth.core.state.activity import Activity, AttemptOutcome
from troth.http.metrics.families import Group, counter, histogram
from troth.http.overview.statistics_endpoints import STATE_WORDS

_FINAL: Final[dict[PromiseState, str]] = {
    state: word for state, word in STATE_WORDS.items() if state is not PENDING
}


def _created(activity: Activity) -> dict[str, int]:
    others_count = activity.scheduled_count + activity.imported_count
    return {
        "client": max(0, activity.created_count - others_count),
        "schedule": activity.scheduled_count,
        "import": activity.imported_count,
    }


def _completed(activity: Activity) -> dict[tuple[str, str], int]:
    counts = {}
    for state, word in _FINAL.items():
        counts[word, "client"] = activity.completed_otherwise(state)
        counts[word, "timeout"] = activity.timed_out[state]
        counts[word, "bulk"] = activity.bulk[state]
    return counts


WORK: Final[Group[Activity]] = Group(
    "Work done",
    (
        counter(
            "troth_promises_created_total",
            "Promises of clients that were created, by a `client`, a `schedule`, or an `import`. "
            "Compare its rate with that of troth_promises_completed_total: more created than "
            "completed for long means that work piles up.",
            _created,
            "by",
        ),
        counter(
            "troth_promises_completed_total",
            "Promises of clients that completed, by the state they went to, and by a `client`, "
            "their `timeout`, or a `bulk` job. Many `timedout` mean that no worker does the work.",
            _completed,
            "state",
            "by",
        ),
        histogram(
            "troth_promise_duration_seconds",
            "Time from a promise's creation to its completion, by the state it went to.",
            lambda activity: {
                word: activity.durations[state].scaled(1_000) for state, word in _FINAL.items()
            },
            "state",
        ),
        counter(
            "troth_promises_deleted_total",
            "Completed promises of clients that were deleted, by a `client`, by `retention` or by "
            "a `bulk` job.",
            lambda activity: {by.value: count for by, count in activity.deleted.items()},
            "by",
        ),
        histogram(
            "troth_task_wait_seconds",
            "Time that a task was ready until a worker claimed it, by receiver: the first 10 since "
            "the start, function tasks (`functions`), and `other`. Add workers if it grows. Of "
            "tasks from before the start it counts from their creation.",
            lambda activity: {
                label: waits.scaled(1_000) for label, waits in activity.waits.items()
            },
            "receiver",
        ),
        counter(
            "troth_task_claims_total",
            "Tasks that workers took, of both protocols.",
            lambda activity: activity.claims_count,
        ),
        histogram(
            "troth_task_lease_seconds",
            "Time from the claim of a task to its end, however it ended. Workers need a ttl, or "
            "heartbeats, that fits it.",
            lambda activity: Buckets.together(list(activity.leases.values())).scaled(1_000),
        ),
        counter(
            "troth_task_attempts_total",
            "Attempts of workers that ended: `completed` (or suspended), `dropped` or `released` "
            "by the worker, `expired` since the lease or the promise's time ran out. Many expired "
            "ones mean workers that crash, hang, or send no heartbeats.",
            lambda activity: {
                outcome.value: activity.attempts_count(outcome) for outcome in AttemptOutcome
            },
            "outcome",
        ),
        counter(
            "troth_schedule_fired_total",
            "Runs of schedules: those that `created` their promise, or found that it `existed`, "
            "and how often runs were `missed` after a downtime since there were too many.",
            lambda activity: {result.value: n for result, n in activity.fired.items()},
            "result",
        ),
        histogram(
            "troth_schedule_lateness_seconds",
            "Time from when a run of a schedule was due to the creation of its promise. Large "
            "after a downtime; else see troth_loop_lag_seconds.",
            lambda activity: activity.lateness.scaled(1_000),
        ),
    ),
)
