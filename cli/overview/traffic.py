"""`troth workers` and `troth queues`: who takes work from a server, and what waits for whom."""

import json
from typing import Any

import click

from troth.cli.connection.answers import ApiAnswer
from troth.cli.options import (
    TEXT,
    OrderedGroup,
    ServerCommand,
    Session,
    limit_option,
    page_options,
    page_query,
    server_command,
)
from troth.cli.output import note, short_moment, table


@click.command(cls=ServerCommand)
@page_options()
@server_command
def workers(session: Session, limit_count: int, cursor: str | None, all_pages: bool) -> None:
    """List connected workers and nodes, and what they hold.

    LEASES counts the tasks that are held by a process of the worker's id; for a node, what it runs.

    \b
    Examples:
      troth workers
      troth workers --all --json
    """
    answer = session.client.ask("GET", "/workers", query=page_query(limit_count, cursor))
    while all_pages and answer.content.get("cursor"):
        answer = _joined(session, answer)
    session.show(answer, lambda: _workers(answer.content))
    following = answer.content.get("cursor")
    if following and not session.as_json:
        note(f"there may be more: --all, or --cursor {following}")


def _joined(session: Session, first: ApiAnswer) -> ApiAnswer:
    """Return an answer that has the following page too."""
    query = [("cursor", first.content["cursor"])]
    more = session.client.ask("GET", "/workers", query=query).content
    whole = {**first.content, "cursor": more["cursor"]}
    whole["workers"] = first.content["workers"] + more["workers"]
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    return ApiAnswer(200, text, whole)


def _workers(found: Any) -> str:
    rows = [
        (
            row["group"],
            row["id"],
            row["protocol"] or "?",
            row["address"] or "",
            short_moment(row["since"]),
            str(row["waiting"]),
            str(row["delivered"]),
            "?" if row["leases"] is None else str(row["leases"]),
        )
        for row in found["workers"]
    ]
    rows += [
        (
            "(node)",
            row["id"],
            "node",
            row["address"] or "",
            "away" if row["since"] is None else short_moment(row["since"]),
            str(row["waiting"]),
            str(row["delivered"]),
            f"{row['leases']} of {row['slots']}",
        )
        for row in found["nodes"]
    ]
    if not rows:
        return "No worker is connected."
    columns = ("GROUP", "ID", "PROTOCOL", "ADDRESS", "SINCE", "WAITING", "DELIVERED", "LEASES")
    return table(columns, rows)


@click.group(cls=OrderedGroup, invoke_without_command=True)
@limit_option("How many.")
@server_command
@click.pass_context
def queues(context: click.Context, session: Session, limit_count: int) -> None:
    """List the receivers of messages, and what waits for each.

    Those with most messages come first. STALLED are messages that could not be sent; IN and OUT are
    rates per second, over the last ten seconds.

    \b
    Examples:
      troth queues
      troth queues retry poll://default
    """
    if context.invoked_subcommand is not None:
        return
    answer = session.client.ask("GET", "/queues", query=[("limit", str(limit_count))])
    session.show(answer, lambda: queues_table(answer.content["queues"]))
    if not session.as_json:
        note(f"{len(answer.content['queues'])} of {answer.content['total']}")


@queues.command("retry")
@click.argument("receiver", type=TEXT)
@server_command
def retry_queue(session: Session, receiver: str) -> None:
    """Send all that is stalled for RECEIVER now.

    A message stalls when it could not be sent; it is tried again after a while, which grows up to a
    minute. Use this when the receiver is well again. RECEIVER is as `troth queues` shows it.

    \b
    Examples:
      troth queues retry poll://default
      troth queues retry https://worker.example
    """
    answer = session.client.ask("POST", "/queues/retry", {"receiver": receiver})
    session.show(answer, lambda: f"Sent again: {answer.content['retried']}")


def queues_table(rows: list[Any]) -> str:
    """Return receivers as a table."""
    return table(
        (
            *("RECEIVER", "HEALTH", "WORKERS", "WAITING", "SENDING", "STALLED", "OLDEST"),
            *("IN", "OUT", "ERROR", "NEXT TRY"),
        ),
        [
            (
                row["receiver"],
                _health(row),
                str(row["workers"]),
                str(row["waiting"]),
                str(row["inFlight"]),
                str(row["stalled"]),
                short_moment(row["oldestOn"]),
                _rate(row["rateIn"]),
                _rate(row["rateOut"]),
                row.get("lastError", ""),
                short_moment(row.get("nextTry")),
            )
            for row in rows
        ],
    )


def _health(row: Any) -> str:
    since = row.get("failingSince")
    return row["health"] if since is None else f"{row['health']}, {short_moment(since)}"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1f}"
