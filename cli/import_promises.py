"""`troth import`: reads a file that `troth export` has written into a server.

Promises go through the server's import endpoint in batches and arrive as they were: state, value,
times, keys, tags. An import that is interrupted goes on where it was when it is run again
(`import_place.py`). A promise is sent with the bytes that the file has for it: the server judges
them. Schedules are created through the ordinary API, which sets their times itself:
`createdOn`, `lastRunTime` and `nextRunTime` start again, and the summary says so. Repeating an
import does nothing to what is there already. What has the id of something else on the server is a
conflict: an error with the number of its line, and what is on the server stays.
"""

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import msgspec
from msgspec import Raw

from .connection.addresses import path_of
from .connection.answers import RequestRefused
from .export_promises import FORMAT_VERSION, FileRefused
from .import_place import ImportPlace
from .operator_session import administrator_command
from .options import ServerCommand, Session
from .output import emit, note, visible
from .progress import Progress

BATCH_COUNT: Final = 500
_ERRORS_KEPT_COUNT: Final = 1000
_LINE_LIMIT_BYTES: Final = 64 * 1024 * 1024
# What a batch may take of the server's limit for a body; one promise alone may be larger.
_BATCH_LIMIT_BYTES: Final = 1024 * 1024
NOT_RESTORED: Final = ("createdOn", "lastRunTime", "nextRunTime")
_OWN: Final = frozenset((*NOT_RESTORED, "pausedOn"))

_NOTE_EVERY_S: Final = 1.0
"""How often the place is kept: a file system may take milliseconds for it."""

Numbered = tuple[int, bytes]
"""A line's number and the JSON of the promise that it holds."""


class _ExportLine(msgspec.Struct):
    """A line of an export: one of these, and what comes in it as JSON."""

    promise: Raw = Raw()
    schedule: Raw = Raw()
    end: Raw = Raw()
    export: Raw = Raw()


_read_line: Final = msgspec.json.Decoder(_ExportLine).decode


class ImportFailed(click.ClickException):
    """Something was not taken in. Ends the command with status 1."""

    exit_code = 1


class StoppedAt(Exception):
    """The import stops at the first error."""


@dataclass
class Tally:
    """What has become of the lines so far."""

    goes_on: bool
    created: int = 0
    present: int = 0
    failed: int = 0
    schedules_created: int = 0
    is_whole: bool = False
    errors: list[dict[str, Any]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return what is to be kept for an import that goes on from here."""
        return {
            "created": self.created,
            "present": self.present,
            "failed": self.failed,
            "schedules_created": self.schedules_created,
        }

    def take(self, counts: Mapping[str, int]) -> None:
        """Go on from what `counts` gave."""
        self.created = counts["created"]
        self.present = counts["present"]
        self.failed = counts["failed"]
        self.schedules_created = counts["schedules_created"]

    def fail(self, line: int, problem: str) -> None:
        """Note an error; stop if that is wanted."""
        self.failed += 1
        if len(self.errors) < _ERRORS_KEPT_COUNT:
            self.errors.append({"line": line, "problem": problem})
        if not self.goes_on:
            raise StoppedAt


@click.command("import", cls=ServerCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--on-error",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="Stop at the first line that cannot be imported, or list such lines at the end.",
)
@administrator_command()
def import_command(session: Session, file: Path, on_error: str) -> None:
    """Import a file that `troth export` wrote.

    Needs the right to administrate the server: run it on the server's machine, as its user, with
    --data, or give a token of the scope admin. Repeating it is safe: what is there already is
    left alone. Pending promises with a routing tag are sent to workers as if they were new.

    \b
    Example:
      troth import everything.jsonl --server http://new:8001
    """
    tally = Tally(goes_on=on_error == "continue")
    try:
        place = ImportPlace(file, session.client.shown_url)
        with (
            file.open("rb") as source,
            Progress(
                "importing", "bytes", total=file.stat().st_size, shown=not session.as_json
            ) as bar,
        ):
            _import(session, source, tally, bar, place)
        place.forget()
    except StoppedAt:
        note("stopped at the first error; use --on-error continue to go on")
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileRefused(f"{visible(str(file))} cannot be read ({reason}).") from error
    _report(session, tally, file)


def _report(session: Session, tally: Tally, file: Path) -> None:
    if session.as_json:
        emit(
            json.dumps(
                {
                    "created": tally.created,
                    "present": tally.present,
                    "failed": tally.failed,
                    "whole": tally.is_whole,
                    "errors": tally.errors,
                    "notRestored": {"schedules": list(NOT_RESTORED)},
                }
            )
        )
    else:
        emit(f"Imported {tally.created} new, {tally.present} already present")
        if tally.schedules_created:
            note(f"schedules start counting again: {', '.join(NOT_RESTORED)}")
        for error in tally.errors:
            click.echo(f"line {error['line']}: {error['problem']}", err=True)
    if tally.failed:
        raise ImportFailed(f"{tally.failed} lines of {visible(str(file))} could not be imported.")
    if not tally.is_whole:
        raise ImportFailed(
            f"{visible(str(file))} has no last line: it is the beginning of an export. "
            "What it holds was taken in."
        )


def _import(
    session: Session, source: BinaryIO, tally: Tally, bar: Progress, place: ImportPlace
) -> None:
    batch: list[Numbered] = []
    batch_bytes = 0
    with _Sending(session, tally, bar, place) as sending:
        for number, size_bytes, line in _lines(source, _resumed(source, tally, place)):
            if line is None:
                # What comes before a line that cannot be read is taken in all the same.
                sending.start(batch)
                batch, batch_bytes = [], 0
                sending.wait()
                tally.fail(number, "is not a JSON object; was the file cut off or edited?")
            elif promise := bytes(line.promise):
                if batch and batch_bytes + size_bytes > _BATCH_LIMIT_BYTES:
                    sending.start(batch)
                    batch, batch_bytes = [], 0
                batch.append((number, promise))
                batch_bytes += size_bytes
            elif schedule := bytes(line.schedule):
                sending.wait()
                _send_schedule(session, number, json.loads(schedule), tally)
            elif bytes(line.end):
                tally.is_whole = True
            else:
                sending.wait()
                tally.fail(number, "is neither a promise nor a schedule")
            if len(batch) == BATCH_COUNT:
                sending.start(batch, reached=(source.tell(), number))
                batch, batch_bytes = [], 0
        sending.start(batch)
        sending.wait()


class _Sending:
    """Sends batches in their order, each in a thread while the next one is read.

    The place that the server has all before is noted now and then, and at the end of the block.
    """

    def __init__(self, session: Session, tally: Tally, bar: Progress, place: ImportPlace) -> None:
        self._session = session
        self._tally = tally
        self._bar = bar
        self._place = place
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="troth-import")
        self._sent: Future[None] | None = None
        self._reaches: tuple[int, int] | None = None
        self._reached: dict[str, Any] = {}
        self._next_note_s = 0.0

    def __enter__(self) -> "_Sending":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # After an error, too, what was sent last has been taken in.
            self._thread.shutdown()
        finally:
            if self._reached:
                self._place.note(self._reached)

    def start(self, batch: list[Numbered], *, reached: tuple[int, int] | None = None) -> None:
        """Send a batch when the one before is done; with it all is sent up to offset and line.

        Raises what `wait` does.
        """
        self.wait()
        if batch:
            self._sent = self._thread.submit(_send, self._session, batch, self._tally)
            self._reaches = reached

    def wait(self) -> None:
        """Wait until the server has what was sent. Raises what sending it has raised."""
        sent, self._sent = self._sent, None
        if sent is None:
            return
        sent.result()
        if self._reaches is None:
            return
        offset, line = self._reaches
        self._bar.advance(offset)
        self._reached = {"offset": offset, "line": line, **self._tally.counts()}
        if time.monotonic() >= self._next_note_s:
            self._place.note(self._reached)
            self._next_note_s = time.monotonic() + _NOTE_EVERY_S


def _resumed(source: BinaryIO, tally: Tally, place: ImportPlace) -> int:
    """Go to where an interrupted import of the file was; return the number of the last line read.

    Errors that it went past are not listed again, only counted.
    """
    noted = place.read()
    if not noted:
        return 0
    tally.take(noted)
    source.seek(noted["offset"])
    line: int = noted["line"]
    note(f"continues after line {line}, where an interrupted import of this file was")
    return line


def _lines(source: BinaryIO, last_number: int) -> Iterator[tuple[int, int, _ExportLine | None]]:
    """Yield the lines after the first, which says what kind of file it is, with number and size.

    None stands for a line that holds no JSON object. `last_number` lines were read before.
    """
    lines = iter(lambda: source.readline(_LINE_LIMIT_BYTES), b"")
    for number, content in enumerate(lines, start=last_number + 1):
        line: _ExportLine | None
        try:
            line = _read_line(content)
        except (msgspec.DecodeError, RecursionError):
            line = None
        if number == 1:
            _check_head(line)
        else:
            yield number, len(content), line
    if not source.tell():
        _check_head(None)


def _check_head(line: _ExportLine | None) -> None:
    try:
        about = None if line is None else json.loads(bytes(line.export))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise FileRefused("line 1: the file was not written by `troth export`.")
    if about.get("version") != FORMAT_VERSION:
        raise FileRefused(
            f"line 1: the file has version {about.get('version')!r}; this version of Troth reads "
            f"{FORMAT_VERSION}."
        )


def _send(session: Session, batch: list[Numbered], tally: Tally) -> None:
    """Send promises together; if the server refuses the lot, one by one, to find who is wrong."""
    if not batch:
        return
    try:
        promises = b",".join([promise for _, promise in batch])
        answer = session.client.ask("POST", "/admin/import", b'{"promises":[%b]}' % promises)
    except RequestRefused as refusal:
        if refusal.answer.status not in {400, 413}:
            raise
        if len(batch) == 1:
            tally.fail(batch[0][0], refusal.message)
            return
        for entry in batch:
            _send(session, [entry], tally)
        return
    results = answer.content.get("promises") if isinstance(answer.content, dict) else None
    if not isinstance(results, list) or len(results) != len(batch):
        raise session.client.not_the_api()
    conflicts = []
    for (number, promise), result in zip(batch, results, strict=True):
        if result["result"] == "created":
            tally.created += 1
        elif result["result"] == "present":
            tally.present += 1
        else:
            conflicts.append((number, visible(str(json.loads(promise)["id"]))))
    # After all have been counted: the first error may end the import.
    for number, shown in conflicts:
        tally.fail(number, f"another promise has the id {shown} on the server")


def _send_schedule(session: Session, number: int, schedule: Any, tally: Tally) -> None:
    if not isinstance(schedule, dict) or not isinstance(schedule.get("id"), str):
        tally.fail(number, "is not a schedule")
        return
    body = {name: content for name, content in schedule.items() if name not in _OWN}
    key = body.pop("idempotencyKey", None)
    try:
        existing = session.client.ask("GET", path_of("schedules", schedule["id"])).content
    except RequestRefused as refusal:
        if refusal.answer.status != 404:
            raise
        existing = None
    if existing is not None:
        if {name: part for name, part in existing.items() if name not in _OWN} == {
            name: part for name, part in schedule.items() if name not in _OWN
        }:
            tally.present += 1
        else:
            shown = visible(schedule["id"])
            tally.fail(number, f"another schedule has the id {shown} on the server")
        return
    headers = {} if key is None else {"idempotency-key": str(key)}
    try:
        session.client.ask("POST", "/schedules", body, headers=headers)
        if "pausedOn" in schedule:
            session.client.ask("POST", "/schedules/pause", {"id": schedule["id"]})
    except RequestRefused as refusal:
        if refusal.answer.status not in {400, 413}:
            raise
        tally.fail(number, refusal.message)
        return
    tally.created += 1
    tally.schedules_created += 1
