"""`troth promises`: make, look at, complete and find durable promises."""

import itertools
import threading
from typing import Any, BinaryIO, Final

import click

from .connection.addresses import path_of
from .connection.answers import ApiAnswer, RequestRefused
from .create_many import create_from
from .options import (
    DURATION,
    TEXT,
    OrderedGroup,
    Pairs,
    Session,
    deadline_ms,
    key_option,
    pairs_option,
    request_headers,
    search_options,
    search_query,
    server_command,
    show_search,
    strict_option,
    together,
    value_body,
    value_options,
)
from .output import note, now_ms, promise_fields, short_moment, state_cell, table, visible
from .questions.tables import waiters_table

REQUESTED_STATES: Final = {
    "resolved": "RESOLVED",
    "rejected": "REJECTED",
    "canceled": "REJECTED_CANCELED",
}
"""How a promise can be completed: as the command says it, and as the API does."""

HINTED_REASONS: Final = frozenset(
    {"no-listener", "not-connected", "other-protocol", "undeliverable", "receiver-fails"}
)
"""Of what a pending promise waits for, that which `troth promises get` says without being asked."""

REJECTED_STATUS: Final = 4
WAITED_STATUS: Final = 5
_WAIT_FIRST_MS: Final = 100
_WAIT_LIMIT_MS: Final = 2000


@click.group(cls=OrderedGroup)
def promises() -> None:
    """Create, show, complete and search promises.

    A durable promise is a value that will be known later: one program creates it under an id,
    another completes it once, any number look at it, and the server forgets nothing in between. It
    is pending until it is resolved (it worked), rejected (it did not), canceled (it is no longer
    wanted) or its timeout passes.

    \b
    Example:
      troth promises create order-7 --timeout 1h
      troth promises resolve order-7 --data '{"sent": true}'
      troth promises get order-7
    """


@promises.command()
@click.argument("id", type=TEXT, required=False)
@click.option(
    "--from",
    "source",
    type=click.File("rb"),
    metavar="FILE",
    help="Create all promises of a file instead, one JSON object a line; - is standard input.",
)
@click.option(
    "--timeout",
    "timeout_ms",
    type=DURATION,
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="When the promise times out, from now: 10s, 5m, 2h, 1d, or milliseconds.",
)
@click.option(
    "--timeout-at",
    "timeout_at_ms",
    type=int,
    metavar="MS",
    help="The same as a time in milliseconds since 1970; overrides --timeout.",
)
@value_options
@pairs_option("tag", "A tag to search by; resonate:invoke=ADDRESS sends a task to a worker.")
@key_option
@strict_option
@server_command
def create(
    session: Session,
    id: str | None,  # noqa: A002 — the name that the help text shows
    source: BinaryIO | None,
    timeout_ms: int,
    timeout_at_ms: int | None,
    data: str | None,
    data_file: BinaryIO | None,
    headers: Pairs,
    tags: Pairs,
    idempotency_key: str | None,
    strict: bool,
) -> None:
    """Create the promise ID, to be completed later.

    A promise is a value that will be known later; it is pending until a program completes it or its
    timeout passes. The data given here is its param: what the program that completes it needs to
    know.

    \b
    Examples:
      troth promises create order-7 --timeout 1h --data '{"amount": 12}'
      troth promises create report --tag resonate:invoke=poll://any@default

    Each line of a FILE is an object as `POST /promises` takes it: id, and perhaps timeout, param,
    tags, idempotencyKey, strict. A line without a key has its id as its key, so the command can be
    run again; --timeout is for lines without one.

    \b
    Example:
      troth promises create --from orders.jsonl --timeout 7d
    """
    if source is not None:
        if id is not None or data is not None or data_file is not None or headers or tags:
            raise click.UsageError("--from takes everything but the timeout from the file.")
        create_from(session, source, deadline_ms(timeout_ms, timeout_at_ms))
        return
    if id is None:
        raise click.UsageError("Give the ID of the promise, or --from FILE.")
    body: dict[str, Any] = {"id": id, "timeout": deadline_ms(timeout_ms, timeout_at_ms)}
    body["param"] = value_body(data, data_file, headers)
    if tags:
        body["tags"] = dict(tags)
    answer = session.client.ask(
        "POST", "/promises", body, headers=request_headers(idempotency_key, strict)
    )
    _show(session, answer, "Created" if answer.is_new else "Already created with the same key")


@promises.command()
@click.argument("id", type=TEXT)
@server_command
def get(session: Session, id: str) -> None:  # noqa: A002
    """Show everything about the promise ID.

    A promise is a value that will be known later; as long as it is pending, it has none yet.
    Shown are its state, its times, and what it was created and completed with.
    Data that is not text is shown as base64.

    \b
    Examples:
      troth promises get order-7
      troth promises get order-7 --json
    """
    answer = session.client.ask("GET", path_of("promises", id))
    _show(session, answer, "")
    if not session.as_json and answer.content.get("state") == "PENDING":
        _show_hint(session, id)


def _show_hint(session: Session, promise_id: str) -> None:
    """Say what is wrong where nothing will happen automatically."""
    try:
        content = session.client.ask("GET", path_of("why", promise_id)).content
    except RequestRefused:
        return  # a server of another kind, or it has completed just now
    if "cause" in content and content["cause"]["reason"] in HINTED_REASONS:
        note(content["sentence"])


@promises.command()
@click.argument("id", type=TEXT)
@server_command
def waiting(session: Session, id: str) -> None:  # noqa: A002
    """List who waits for the promise ID.

    A promise is a value that will be known later. Programs wait for it by callbacks, which resume
    another promise, and by subscriptions; workflows of the newest SDKs by awaiting it, or as
    listeners. All of them are told when it completes.

    \b
    Example:
      troth promises waiting order-7
    """
    answer = session.client.ask("GET", path_of("waiting", id))
    session.show(answer, lambda: waiters_table(answer.content["waiting"]))
    if not session.as_json:
        note(f"{len(answer.content['waiting'])} found")


completion_options: Final = together(
    click.argument("id", type=TEXT), value_options, key_option, strict_option
)


@promises.command()
@click.option(
    "--state",
    type=click.Choice([*REQUESTED_STATES]),
    required=True,
    help="How the promise ends.",
)
@completion_options
@server_command
def complete(session: Session, id: str, state: str, **value: Any) -> None:  # noqa: A002
    """Complete the promise ID in the state given.

    A promise is a value that will be known later, and completing it gives it that value, once
    and for good. All programs that wait for it are notified. `troth promises resolve`, `reject` and
    `cancel` are shorter ways to say the same.

    \b
    Example:
      troth promises complete order-7 --state resolved --data '{"sent": true}'
    """
    _complete(session, id, state, **value)


@promises.command()
@completion_options
@server_command
def resolve(session: Session, id: str, **value: Any) -> None:  # noqa: A002
    """Complete the promise ID with success.

    A promise is a value that will be known later: what it stands for was done, and the data
    given here is that value.

    \b
    Examples:
      troth promises resolve order-7 --data '{"sent": true}'
      troth promises resolve picture --data-file picture.png --header type=image/png
    """
    _complete(session, id, "resolved", **value)


@promises.command()
@completion_options
@server_command
def reject(session: Session, id: str, **value: Any) -> None:  # noqa: A002
    """Complete the promise ID with failure.

    A promise is a value that will be known later; what it stands for did not work, and the data
    given here says why.

    \b
    Example:
      troth promises reject order-7 --data 'out of stock'
    """
    _complete(session, id, "rejected", **value)


@promises.command()
@completion_options
@server_command
def cancel(session: Session, id: str, **value: Any) -> None:  # noqa: A002
    """Complete the promise ID by canceling it.

    A promise is a value that will be known later; what a canceled one stands for is not wanted
    any more.

    \b
    Example:
      troth promises cancel order-7 --data 'the customer changed their mind'
    """
    _complete(session, id, "canceled", **value)


@promises.command()
@click.argument("id", type=TEXT)
@server_command
def delete(session: Session, id: str) -> None:  # noqa: A002
    """Delete the completed promise ID for good, with its tasks.

    A promise is a value that will be known later. After this its value is gone, and the id can be
    used again. A pending promise is refused: complete it first. So is one that was made by a
    workflow that still runs, since it would do that work again.

    \b
    Example:
      troth promises delete order-7
    """
    answer = session.client.ask("DELETE", path_of("promises", id))
    session.show(answer, lambda: f"Deleted {visible(id)}")


@promises.command()
@click.argument("pattern", type=TEXT, default="*")
@click.option(
    "--state",
    type=click.Choice(["pending", "resolved", "rejected"]),
    help="Only promises in this state; rejected includes canceled and timed out.",
)
@click.option(
    "--states",
    metavar="WORDS",
    help="Only promises in exactly these states, with commas: pending, resolved, rejected, "
    "canceled, timedout.",
)
@click.option(
    "--since",
    "since_ms",
    type=DURATION,
    metavar="DURATION",
    help="Only promises created in this time up to now: 10s, 5m, 2h.",
)
@click.option("--oldest", is_flag=True, help="The oldest first, not the newest.")
@search_options
@server_command
def search(
    session: Session,
    pattern: str,
    state: str | None,
    states: str | None,
    since_ms: int | None,
    oldest: bool,
    tags: Pairs,
    limit_count: int,
    cursor: str | None,
    all_pages: bool,
) -> None:
    """List the promises whose id fits PATTERN, newest first.

    A promise is a value that will be known later. In the pattern * stands for any characters;
    without one all are listed.

    \b
    Examples:
      troth promises search 'order-*' --state pending
      troth promises search --tag team=billing --all --json
    """
    bounds = [("state", state)] if state else []
    if states:
        bounds.append(("states", states))
    if since_ms is not None:
        bounds.append(("createdFrom", str(now_ms() - since_ms)))
    if oldest:
        bounds.append(("order", "oldest"))
    query = search_query(pattern, tags, limit_count, cursor, *bounds)
    show_search(session, "/promises", query, all_pages, _table)


@promises.command()
@click.argument("id", type=TEXT)
@click.option(
    "--for",
    "limit_ms",
    type=DURATION,
    metavar="DURATION",
    help="Give up after this long: 10s, 5m, 2h [default: never].",
)
@server_command
def wait(session: Session, id: str, limit_ms: int | None) -> None:  # noqa: A002
    """Wait until the promise ID is completed, then show it.

    A promise is a value that will be known later; this is the way for a script to need it now.
    Besides the usual ones, the exit status is 0 if the promise was resolved, 4 if it was
    rejected, canceled or timed out, and 5 if it was still pending when the time was up.

    \b
    Example:
      troth promises wait order-7 --for 5m && echo sent
    """
    path = path_of("promises", id)
    waited_ms = 0
    for attempt in itertools.count():
        answer = session.client.ask("GET", path)
        pending = isinstance(answer.content, dict) and answer.content.get("state") == "PENDING"
        if not pending or (limit_ms is not None and waited_ms >= limit_ms):
            break
        pause_ms = min(_WAIT_FIRST_MS << min(attempt, 10), _WAIT_LIMIT_MS)
        if limit_ms is not None:
            pause_ms = min(pause_ms, limit_ms - waited_ms)
        _pause(pause_ms)
        waited_ms += pause_ms
    _show(session, answer, "")
    if pending:
        raise click.exceptions.Exit(WAITED_STATUS)
    if not isinstance(answer.content, dict) or answer.content.get("state") != "RESOLVED":
        raise click.exceptions.Exit(REJECTED_STATUS)


def _pause(duration_ms: int) -> None:
    """Wait; Ctrl-C ends the wait."""
    threading.Event().wait(duration_ms / 1000)


def _complete(
    session: Session,
    promise_id: str,
    state: str,
    *,
    data: str | None,
    data_file: BinaryIO | None,
    headers: Pairs,
    idempotency_key: str | None,
    strict: bool,
) -> None:
    body = {"state": REQUESTED_STATES[state], "value": value_body(data, data_file, headers)}
    answer = session.client.ask(
        "PATCH",
        path_of("promises", promise_id),
        body,
        headers=request_headers(idempotency_key, strict),
    )
    _show(session, answer, "Completed" if answer.is_new else "Already completed; nothing changed")


def _show(session: Session, answer: ApiAnswer, headline: str) -> None:
    session.show(answer, lambda: promise_fields(answer.content, headline))


def _table(rows: list[Any]) -> str:
    return table(
        ("ID", "STATE", "CREATED", "TIMEOUT", "COMPLETED", "TAGS"),
        [
            (
                row["id"],
                state_cell(row["state"]),
                short_moment(row.get("createdOn")),
                short_moment(row["timeout"]),
                short_moment(row.get("completedOn")),
                " ".join(f"{name}={visible(text)}" for name, text in row.get("tags", {}).items()),
            )
            for row in rows
        ],
    )
