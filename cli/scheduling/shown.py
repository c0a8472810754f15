"""How a schedule is shown, with everything about it."""

from typing import Any

from troth.cli.output import fields, moment, pairs, span, value_fields, visible


def schedule_fields(schedule: Any, headline: str) -> str:
    """Return everything about a schedule."""
    key = schedule.get("idempotencyKey")
    return fields(
        headline,
        [
            ("id", visible(schedule["id"])),
            ("description", visible(schedule.get("description", "")) or None),
            ("cron", visible(schedule["cron"])),
            ("last run", moment(schedule.get("lastRunTime"))),
            ("next run", moment(schedule["nextRunTime"])),
            ("paused", moment(schedule.get("pausedOn"))),
            ("created", moment(schedule["createdOn"])),
            ("tags", pairs(schedule.get("tags"))),
            ("create key", None if key is None else visible(key) or '"" (empty)'),
            ("promise id", visible(schedule["promiseId"])),
            ("promise timeout", span(schedule["promiseTimeout"])),
            *value_fields("promise param", schedule.get("promiseParam") or {}),
            ("promise tags", pairs(schedule.get("promiseTags"))),
        ],
    )
