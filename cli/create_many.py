"""`troth promises create --from FILE`: creates the promises of a file, one a line, in batches.

A line is a JSON object as `POST /promises` takes it, perhaps with `idempotencyKey` and `strict`. A
line without a key has its id as its key, so to run the command again does no harm. What the server
refuses is an error with the number of its line; all other lines are created.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import click

from .connection.answers import ApiAnswer, refusal
from .options import Session
from .output import emit
from .progress import Progress

BATCH_COUNT: Final = 500
_BATCH_LIMIT_BYTES: Final = 1024 * 1024  # of what the server takes; one line may be longer
_ERRORS_KEPT_COUNT: Final = 1000
_BUSY_LIMIT_COUNT: Final = 30  # times in a row that the server has room for nothing
_BUSY_WAIT_S: Final = 1.0

Line = tuple[int, dict[str, Any]]
"""A line's number, and the call that it becomes."""


class NotAllCreated(click.ClickException):
    """Some lines were refused. Ends the command with status 1."""

    exit_code = 1


@dataclass
class _Creations:
    """The fate of the lines so far."""

    created: int = 0
    present: int = 0
    failed: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, line: int, problem: str) -> None:
        """Note an error."""
        self.failed += 1
        if len(self.errors) < _ERRORS_KEPT_COUNT:
            self.errors.append({"line": line, "problem": problem})


def create_from(session: Session, source: BinaryIO, timeout_ms: int) -> None:
    """Create the promises of a file, and say how many there are.

    Lines without a `timeout` time out at `timeout_ms`, in milliseconds since 1970. Raises
    NotAllCreated.
    """
    tally = _Creations()
    with Progress("creating", "bytes", total=_size_bytes(source), shown=not session.as_json) as bar:
        read_bytes = 0
        for batch, size_bytes in _batches(source, tally, timeout_ms):
            _send(session, batch, tally)
            read_bytes += size_bytes
            bar.advance(read_bytes)
    if session.as_json:
        counts = {"created": tally.created, "present": tally.present, "failed": tally.failed}
        emit(json.dumps({**counts, "errors": tally.errors}))
    else:
        emit(f"Created {tally.created} new, {tally.present} already present")
        for error in tally.errors:
            click.echo(f"line {error['line']}: {error['problem']}", err=True)
    if tally.failed:
        raise NotAllCreated(f"{tally.failed} lines were not created.")


def _size_bytes(source: BinaryIO) -> int | None:
    """Return how long a file is; None for what has no length, such as a pipe."""
    try:
        return os.fstat(source.fileno()).st_size or None
    except OSError:
        return None


def _batches(
    source: BinaryIO, tally: _Creations, timeout_ms: int
) -> Iterator[tuple[list[Line], int]]:
    """Yield the lines that are sent together, and how many bytes of the file they are."""
    batch: list[Line] = []
    size_bytes = 0
    for number, line in enumerate(source, start=1):
        if batch and (len(batch) == BATCH_COUNT or size_bytes + len(line) > _BATCH_LIMIT_BYTES):
            yield batch, size_bytes
            batch, size_bytes = [], 0
        size_bytes += len(line)
        if not line.strip():
            continue
        try:
            body = json.loads(line)
        except ValueError:
            body = None
        if isinstance(body, dict):
            body.setdefault("timeout", timeout_ms)
            body.setdefault("idempotencyKey", body.get("id"))
            batch.append((number, body))
        else:
            tally.fail(number, "is not a JSON object")
    yield batch, size_bytes


def _send(session: Session, batch: list[Line], tally: _Creations) -> None:
    """Create promises together; what the server has no room for is sent again a little later."""
    busy_count = 0
    while batch:
        answer = session.client.ask(
            "POST", "/promises/batch", [{"create": body} for _, body in batch]
        )
        if not isinstance(answer.content, list) or len(answer.content) != len(batch):
            raise session.client.not_the_api()
        later: list[Line] = []
        for line, made in zip(batch, answer.content, strict=True):
            number, _ = line
            status = made["status"]
            if status == 503:
                later.append(line)
            elif status == 201:
                tally.created += 1
            elif status == 200:
                tally.present += 1
            else:
                tally.fail(number, refusal(ApiAnswer(status, "", made["body"]), "", None))
        if len(later) == len(batch):
            busy_count += 1
            if busy_count == _BUSY_LIMIT_COUNT:
                raise click.ClickException("The server has no room for more; try again later.")
            time.sleep(_BUSY_WAIT_S)
        else:
            busy_count = 0
        batch = later
