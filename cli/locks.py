"""`troth locks`: make sure that only one program at a time does something."""

import contextlib
import importlib
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from troth.core.codes import Code

from .connection.answers import ApiAnswer, RequestRefused, ServerUnreachable
from .options import (
    DURATION,
    TEXT,
    OrderedGroup,
    Session,
    default_process_id,
    page_options,
    page_query,
    process_option,
    server_command,
    show_search,
)
from .output import fields, moment, note, span, visible
from .questions.tables import locks_table

RETRY_LIMIT_S: Final = 2.0
"""The longest pause between two tries for a lock that another has."""
KILL_AFTER_S: Final = 10.0
"""How long a command may take to end when its lock is lost, before it is killed."""
BREAK: Final = "break"

NOT_STARTED_STATUS: Final = 127
"""What shells report of a command that cannot be started."""


class LocksGroup(OrderedGroup):
    """The commands here, and one that only administrators need: it is imported when it is asked
    for, since it reads the settings of a server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the help text."""
        return [*super().list_commands(ctx), BREAK]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of this name."""
        if cmd_name != BREAK:
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module("troth.cli.questions.break_lock").break_lock
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LocksGroup)
def locks() -> None:
    """Acquire, release, renew and list locks.

    A lock makes sure that only one execution (one run of a program or script, under a name it
    chooses) uses a resource at a time. It is a lease: it expires unless it is renewed,
    so a crashed holder does not block others for long.

    \b
    Example:
      troth locks acquire printer run-42 --ttl 5m
      troth locks release printer run-42
      troth locks run printer -- lpr report.pdf
    """


wait_option: Final = click.option(
    "--wait",
    "wait_ms",
    type=DURATION,
    default="0",
    metavar="DURATION",
    help="If the lock is taken, keep trying for this long: 10s, 5m, 2h [default: do not wait].",
)
holder_option: Final = process_option(
    "The process that renews the lock; heartbeats must give the same id."
)


@locks.command()
@click.argument("resource", type=TEXT)
@click.argument("execution", type=TEXT)
@holder_option
@click.option(
    "--ttl",
    "ttl_ms",
    type=DURATION,
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="How long the lock holds without a heartbeat: 10s, 5m, 2h, or milliseconds.",
)
@wait_option
@server_command
def acquire(
    session: Session, resource: str, execution: str, process_id: str, ttl_ms: int, wait_ms: int
) -> None:
    """Acquire the lock on RESOURCE for EXECUTION.

    A lock is a lease on a resource, held by one execution at a time. If EXECUTION holds it
    already, it is renewed. If another holds it, the command ends with status 1 and names the
    holder, after --wait if that is given.

    Pass the fencing token to what the lock protects: it grows with every new holder, so a
    request with a smaller one than was seen before comes from a holder that has lost the lock.

    \b
    Examples:
      troth locks acquire printer run-42 --ttl 5m
      troth locks acquire printer run-42 --wait 10m
    """
    answer, _ = _acquired(session, _request(resource, execution, process_id, ttl_ms), wait_ms)
    session.show(answer, lambda: _lock(answer.content, answer.fencing_token))


@locks.command()
@click.argument("resource", type=TEXT)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--ttl",
    "ttl_ms",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long the lock outlives this command if it is killed: 10s, 5m, 2h.",
)
@wait_option
@server_command
def run(
    session: Session, resource: str, command: tuple[str, ...], ttl_ms: int, wait_ms: int
) -> None:
    """Run COMMAND while holding the lock on RESOURCE.

    The lock is renewed until COMMAND ends, and then released; the status is COMMAND's. If the
    lock is lost, because the server could not be reached for the time of --ttl, COMMAND is
    ended and the status is 1. COMMAND finds the fencing token in TROTH_LOCK_TOKEN.

    \b
    Examples:
      troth locks run backup -- /usr/local/bin/backup --full
      troth locks run deploy --wait 10m -- make deploy
    """
    name = f"{default_process_id()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    answer, held_from_s = _acquired(session, _request(resource, name, name, ttl_ms), wait_ms)
    environment = {
        **os.environ,
        "TROTH_LOCK_RESOURCE": resource,
        "TROTH_LOCK_TOKEN": answer.fencing_token or "",
    }
    try:
        status = _run_locked(session, name, command, environment, ttl_ms, held_from_s)
    finally:
        try:
            session.client.ask(
                "POST", "/locks/release", {"resourceId": resource, "executionId": name}
            )
        except (RequestRefused, ServerUnreachable):
            note(f"the lock on {visible(resource)} could not be released; it expires automatically")
    click.get_current_context().exit(status)


def _request(resource: str, execution: str, process_id: str, ttl_ms: int) -> dict[str, Any]:
    return {
        "resourceId": resource,
        "executionId": execution,
        "processId": process_id,
        "ttl": ttl_ms,
    }


def _acquired(
    session: Session, request: Mapping[str, Any], wait_ms: int
) -> tuple[ApiAnswer, float]:
    """Acquire a lock, trying again for `wait_ms`; return the answer and when it was asked for.

    The server's lease began later than that, so it ends later than one that is counted from there.
    Raises RequestRefused, ServerUnreachable.
    """
    until_s = time.monotonic() + wait_ms / 1000
    pause_s = 0.1
    while True:
        asked_s = time.monotonic()
        try:
            return session.client.ask("POST", "/locks/acquire", request), asked_s
        except RequestRefused as refusal:
            left_s = until_s - time.monotonic()
            if not _is_held(refusal) or left_s <= 0:
                raise
        # With jitter: those who wait for one lock should not all ask at the same moments.
        time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))  # noqa: S311
        pause_s = min(2 * pause_s, RETRY_LIMIT_S)


def _is_held(refusal: RequestRefused) -> bool:
    content = refusal.answer.content
    error = content.get("error") if isinstance(content, dict) else None
    return isinstance(error, dict) and error.get("code") == Code.LOCK_HELD


def _run_locked(
    session: Session,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    ttl_ms: int,
    held_from_s: float,
) -> int:
    """Run a command, renewing its lock; return the status that this process ends with."""
    try:
        # What the operator gave is what is run, without a shell.
        process = subprocess.Popen(command, env=environment)  # noqa: S603
    except OSError as error:
        note(f"{visible(command[0])} cannot be started ({error.strerror or error})")
        return NOT_STARTED_STATUS
    with _forwarding(process):
        while True:
            try:
                status = process.wait(ttl_ms / 3000)
            except subprocess.TimeoutExpired:
                asked_s = time.monotonic()
                if _is_renewed(session, name):
                    held_from_s = asked_s
                elif time.monotonic() - held_from_s >= ttl_ms / 1000:
                    _end(process)
                    raise click.ClickException(
                        "the lock was lost, so the command was stopped: the server could not be "
                        f"reached for {span(ttl_ms)}, or another was given the lock."
                    ) from None
            else:
                return status if status >= 0 else 128 - status


def _is_renewed(session: Session, name: str) -> bool:
    try:
        answer = session.client.ask("POST", "/locks/heartbeat", {"processId": name})
    except (RequestRefused, ServerUnreachable):
        return False
    return bool(answer.content["locksAffected"])


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGTERM and SIGHUP on to the command; Ctrl-C reaches it from the terminal itself."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    earlier = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP)}
    earlier[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@locks.command()
@click.argument("resource", type=TEXT)
@click.argument("execution", type=TEXT)
@server_command
def release(session: Session, resource: str, execution: str) -> None:
    """Release the lock on RESOURCE that EXECUTION has.

    A lock is a lease on a resource, which one execution has at a time.

    \b
    Example:
      troth locks release printer run-42
    """
    body = {"resourceId": resource, "executionId": execution}
    answer = session.client.ask("POST", "/locks/release", body)
    session.show(answer, lambda: f"Released {visible(resource)}")


@locks.command()
@holder_option
@server_command
def heartbeat(session: Session, process_id: str) -> None:
    """Renew all locks of one process, each by its own ttl.

    A lock is a lease on a resource, which one execution has at a time. Heartbeats tell the
    server that its holder is alive.

    \b
    Example:
      troth locks heartbeat --process-id worker-3
    """
    answer = session.client.ask("POST", "/locks/heartbeat", {"processId": process_id})
    session.show(
        answer,
        lambda: f"Locks renewed for {visible(process_id)}: {answer.content['locksAffected']}",
    )


@locks.command("list")
@click.argument("pattern", type=TEXT, required=False)
@click.option("--process", metavar="TEXT", help="Only locks that this process renews.")
@page_options()
@server_command
def list_locks(
    session: Session,
    pattern: str | None,
    process: str | None,
    limit_count: int,
    cursor: str | None,
    all_pages: bool,
) -> None:
    """List the locks that are held.

    A lock is a lease on a resource, which one execution has at a time. In PATTERN, for the names
    of resources, * stands for any characters; without one all are listed.

    \b
    Example:
      troth locks list 'printer*'
    """
    query = page_query(limit_count, cursor, ("id", pattern), ("process", process))
    show_search(session, "/locks", query, all_pages, locks_table)


def _lock(lock: Any, fencing_token: str | None) -> str:
    return fields(
        "Acquired",
        [
            ("resource", visible(lock["resourceId"])),
            ("execution", visible(lock["executionId"])),
            ("process", visible(lock["processId"])),
            ("ttl", span(lock["ttl"])),
            ("ends", moment(lock["expiresAt"])),
            ("token", None if fencing_token is None else visible(fencing_token)),
        ],
    )
