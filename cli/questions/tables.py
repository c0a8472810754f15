"""How tasks, locks and waiters are shown: as the rows of a table, or as the fields of one."""

from typing import Any

from troth.cli.output import fields, moment, short_moment, table, visible


def tasks_table(rows: list[Any]) -> str:
    """Return tasks of all kinds as a table."""
    return table(
        ("ID", "KIND", "STATE", "RECEIVER", "COUNTER", "PROCESS", "CREATED", "UNTIL", "ERROR"),
        [
            (
                row["id"],
                row["kind"],
                row["state"],
                row["receiver"],
                str(row["counter"]),
                row.get("processId", ""),
                short_moment(row.get("createdOn")),
                short_moment(row.get("until")),
                row.get("lastError", ""),
            )
            for row in rows
        ],
    )


def task_fields(row: Any) -> str:
    """Return everything about a task."""
    sent_count, failed_count = row["sentCount"], row["failedCount"]
    return fields(
        "",
        [
            ("id", visible(row["id"])),
            ("kind", f"{visible(row['kind'])}, {visible(row['type'])}"),
            ("state", visible(row["state"])),
            ("promise", visible(row["promiseId"])),
            (
                "completed promise",
                visible(row["leafPromiseId"]) if "leafPromiseId" in row else None,
            ),
            ("receiver", visible(row["receiver"])),
            ("counter", str(row["counter"])),
            ("process", visible(row["processId"]) if "processId" in row else None),
            ("created", moment(row.get("createdOn"))),
            ("not before", moment(row.get("notBefore"))),
            ("until", moment(row.get("until"))),
            ("timeout", moment(row["timeout"])),
            ("completed", moment(row.get("completedOn"))),
            ("sent", f"{sent_count} times since the server started" if sent_count else None),
            ("failed", f"{failed_count} times in a row" if failed_count else None),
            ("last error", visible(row["lastError"]) if "lastError" in row else None),
            ("next try", moment(row.get("nextTry"))),
        ],
    )


def locks_table(rows: list[Any]) -> str:
    """Return locks as a table."""
    return table(
        ("RESOURCE", "EXECUTION", "PROCESS", "ENDS"),
        [
            (
                row["resourceId"],
                row["executionId"],
                row["processId"],
                short_moment(row["expiresAt"]),
            )
            for row in rows
        ],
    )


def waiters_table(rows: list[Any]) -> str:
    """Return who waits for a promise as a table."""
    return table(
        ("KIND", "ID", "PROMISE", "RECEIVER", "CREATED"),
        [
            (
                row["kind"],
                row["id"],
                row.get("promiseId", ""),
                row.get("receiver", ""),
                short_moment(row.get("createdOn")),
            )
            for row in rows
        ],
    )
