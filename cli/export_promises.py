"""`troth export`: writes everything that can move to another server into a file of JSON lines.

The lines of an export, in this order:

    {"export": {"version": 1, "server": URL, "createdOn": MS}}
    {"schedule": {…}}   a schedule as the API shows it; the oldest first
    {"promise": {…}}    a promise as the API shows it; the oldest first
    {"end": {"schedules": COUNT, "promises": COUNT}}

The server is asked through its ordinary search, which gives the newest first, page by page. The
pages are kept in `FILE.partial` as they come, with the cursor that goes on after each; an
interrupted export continues from there when it is run again. At the end they are written to FILE in
reverse order, and only a whole file gets that name. Memory holds one page at a time.

What is created during the export is not in the file. What is completed during it may be in the file
as it was before. Tasks, locks and who waits for a promise are not exported: the API does not show
them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from .connection.answers import RequestRefused
from .options import ServerCommand, Session, server_command
from .output import emit, now_ms, visible
from .progress import Progress

FORMAT_VERSION: Final = 1
PARTIAL_SUFFIX: Final = ".partial"
_KINDS: Final = ("promises", "schedules")
_PAGE_COUNT: Final = 100


class FileRefused(click.ClickException):
    """A file that cannot be used. Ends the command with status 1."""

    exit_code = 1


@dataclass
class Gathered:
    """The pages that are in the partial file: where each begins, and where to go on."""

    offsets: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    cursors: dict[str, str | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    created_on: int = 0

    def is_done(self, kind: str) -> bool:
        """Return whether the last page is there."""
        return kind in self.cursors and self.cursors[kind] is None


@click.command(cls=ServerCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@server_command
def export(session: Session, file: Path, overwrite: bool) -> None:
    """Write all promises and schedules to FILE.

    It has one JSON object per line. `troth import` reads such a file into another server; other
    programs can read it as well. If the export is interrupted, the same command goes on where it
    stopped.

    \b
    Example:
      troth export everything.jsonl --server http://old:8001
    """
    if file.exists() and not overwrite:
        raise FileRefused(f"{visible(str(file))} already exists. Use --overwrite to replace it.")
    partial = file.with_name(file.name + PARTIAL_SUFFIX)
    try:
        with partial.open("a+b") as pages:
            gathered = _resume(pages, session, partial)
            resumed_count = sum(gathered.counts.values())
            with Progress("reading", "", shown=not session.as_json) as progress:
                for kind in _KINDS:
                    _gather(session, kind, pages, gathered, progress)
            _write(pages, gathered, session, file)
        partial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileRefused(f"{visible(str(file))} cannot be written ({reason}).") from error
    summary = {"file": str(file), **gathered.counts, "resumedAfter": resumed_count}
    if session.as_json:
        emit(json.dumps(summary))
        return
    emit(
        f"Exported {gathered.counts['promises']} promises and {gathered.counts['schedules']} "
        f"schedules to {visible(str(file))}"
    )


def _resume(pages: BinaryIO, session: Session, partial: Path) -> Gathered:
    """Read what an interrupted export has left; cut off a page that was not written whole."""
    gathered = Gathered(created_on=now_ms())
    pages.seek(0)
    end = 0
    for line in pages:
        try:
            content = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            break
        if end == 0:
            if content.get("server") != session.client.shown_url:
                raise FileRefused(
                    f"{visible(str(partial))} is the beginning of an export of "
                    f"{visible(str(content.get('server')))}. Remove it, or choose another FILE."
                )
            gathered.created_on = content["createdOn"]
        else:
            kind = content["kind"]
            gathered.offsets[kind].append(end)
            gathered.cursors[kind] = content["cursor"]
            gathered.counts[kind] += len(content["rows"])
        end += len(line)
    pages.truncate(end)
    pages.seek(end)
    if end == 0:
        _put(pages, {"server": session.client.shown_url, "createdOn": gathered.created_on})
    return gathered


def _gather(
    session: Session, kind: str, pages: BinaryIO, gathered: Gathered, progress: Progress
) -> None:
    """Read the pages that are not there yet."""
    progress.label(kind)
    while not gathered.is_done(kind):
        cursor = gathered.cursors.get(kind)
        query = [("cursor", cursor)] if cursor else [("id", "*"), ("limit", str(_PAGE_COUNT))]
        try:
            answer = session.client.ask("GET", f"/{kind}", query=query)
        except RequestRefused as error:
            if not cursor:
                raise
            raise RequestRefused(
                f"{error.message}\n  Hint: what was read so far is kept; run the command again to "
                f"go on. If the server has changed since, remove FILE{PARTIAL_SUFFIX} first.",
                error.answer,
            ) from error
        content = answer.content
        if not isinstance(content, dict) or not isinstance(content.get(kind), list):
            raise session.client.not_the_api()
        page = {"kind": kind, "cursor": content.get("cursor") or None, "rows": content[kind]}
        gathered.offsets[kind].append(pages.tell())
        _put(pages, page)
        gathered.cursors[kind] = page["cursor"]
        gathered.counts[kind] += len(page["rows"])
        progress.advance(gathered.counts[kind])


def _put(pages: BinaryIO, content: dict[str, Any]) -> None:
    pages.write(_line(content))
    pages.flush()


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _oldest_first(pages: BinaryIO, offsets: list[int]) -> Iterator[Any]:
    for offset in reversed(offsets):
        pages.seek(offset)
        yield from reversed(json.loads(pages.readline())["rows"])


def _write(pages: BinaryIO, gathered: Gathered, session: Session, file: Path) -> None:
    """Write the file under another name, sync it, and give it its name."""
    whole = file.with_name(file.name + ".new")
    about = {
        "version": FORMAT_VERSION,
        "server": session.client.shown_url,
        "createdOn": gathered.created_on,
    }
    with whole.open("wb") as target:
        target.write(_line({"export": about}))
        for kind, name in (("schedules", "schedule"), ("promises", "promise")):
            for row in _oldest_first(pages, gathered.offsets[kind]):
                target.write(_line({name: row}))
        target.write(_line({"end": gathered.counts}))
        target.flush()
        os.fsync(target.fileno())
    whole.replace(file)
