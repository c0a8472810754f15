"""`troth snapshot`: copy everything a server remembers into one file, and restore it.

Only `create` talks to a server, if one runs; all else reads and writes files. What goes wrong
is one message and a status other than 0, and leaves nothing half-made under a name that was asked
for.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from troth import __version__
from troth.persistence.snapshots.last_taken import note_taken
from troth.persistence.snapshots.restoring import Restored, Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotDamaged
from troth.persistence.snapshots.snapshot_rules import BytesDone
from troth.persistence.snapshots.snapshots import (
    SnapshotFile,
    cut_stopped_directory,
    inspect,
    list_directory,
    refuse_existing,
    verify,
    write_file,
)

from .errors import errors_shown
from .log import Time
from .operator_session import administrator_command, is_served
from .options import OrderedGroup, Session
from .output import emit, fields, moment, note, now_ms, visible


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A record's sequence, or a time: what `--until` takes."""

    name = "moment"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Until:
        """Read a value. Raises click.BadParameter."""
        text = str(value)
        if text.isascii() and text.isdecimal():
            return Until(sequence=int(text))
        return Until(time_ms=Time().convert(text, param, ctx))


@contextlib.contextmanager
def _progress(title: str, total_bytes: int | None) -> Iterator[BytesDone | None]:
    """Show a bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total_bytes)
        yield lambda done_bytes: progress.update(task, completed=done_bytes)


file_argument: Final = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print one line of JSON, for scripts."
)


@click.group(cls=OrderedGroup)
def snapshot() -> None:
    """Back up all data, and restore it.

    A snapshot shows one moment: everything acknowledged up to then, and nothing later. It can be
    taken while the server runs, without blocking it. It contains all data and the server's secret,
    so keep it as safe as the server itself.

    \b
    Examples:
      troth snapshot create backup.snapshot
      troth snapshot verify backup.snapshot
      troth snapshot restore backup.snapshot --data /var/lib/troth
    """


@snapshot.command("create")
@file_argument
@administrator_command(pass_data=True)
def create_command(session: Session, file: Path, data: Path | None) -> None:
    """Write a snapshot to FILE, which must not exist.

    Asks the running server, which needs the key in its data directory (--data), or a token of the
    scope admin. If no server runs on the directory that --data names, the directory is copied. The
    file is checked before it gets its name; until then it is FILE.partial. FILE should end in
    .snapshot for `troth snapshot list` to find it.

    \b
    Examples:
      troth snapshot create backup.snapshot
      troth snapshot create backup.snapshot --data /var/lib/troth
    """
    with errors_shown():
        refuse_existing(file)
        with _progress("snapshot", None) as report:
            if data is None or (data.is_dir() and is_served(data)):
                _download(session, file, report)
            else:
                with cut_stopped_directory(
                    data, created_at_ms=now_ms(), troth_version=__version__
                ) as cut:
                    write_file(cut.encoded(), file, report, verify)
                try:
                    note_taken(data, now_ms())
                except OSError as error:
                    note(f"its time is not noted for /metrics ({error.strerror or error})")
        made = inspect(file)
    emit(json.dumps(_json(made)) if session.as_json else _text(made, "written"))


@snapshot.command("now")
@administrator_command()
def now_command(session: Session) -> None:
    """Write a snapshot to the server's own directory, now.

    That is the setting snapshot_directory; the file counts among the scheduled ones, whose oldest
    are removed. Without that setting, a server whose log is not in its directory (--log) writes one
    next to the log, for servers that start with an empty directory. Run it on the server's machine,
    as its user, with --data, or give a token of the scope admin.

    \b
    Example:
      troth snapshot now --data /var/lib/troth
    """
    answer = session.client.ask("POST", "/admin/snapshots")
    session.show(
        answer,
        lambda: f"{visible(answer.content['name'])}  {answer.content['bytes']} bytes  written",
    )


def _download(session: Session, file: Path, report: BytesDone | None) -> None:
    try:
        with session.client.download("POST", "/admin/snapshot") as pieces:
            write_file(pieces, file, report, verify)
    except SnapshotDamaged as error:
        raise click.ClickException(
            f"the server ended before the snapshot was whole, or sent something else "
            f"({error.problem}). No snapshot was made. The server's log may say why."
        ) from error


@snapshot.command("verify", cls=click.Command)
@file_argument
@json_option
def verify_command(file: Path, as_json: bool) -> None:
    """Read a whole snapshot and check everything in it.

    Status 0 means that it is complete and unchanged, 1 that it is not or cannot be read.

    \b
    Example:
      troth snapshot verify backup.snapshot
    """
    with errors_shown():
        size_bytes = file.stat().st_size if file.is_file() else None
        with _progress("verifying", size_bytes) as report:
            verified = verify(file, report)
    emit(json.dumps({**_json(verified), "sound": True}) if as_json else _text(verified, "sound"))


@snapshot.command("inspect", cls=click.Command)
@file_argument
@json_option
def inspect_command(file: Path, as_json: bool) -> None:
    """Show what a snapshot contains, without reading all of it.

    \b
    Example:
      troth snapshot inspect backup.snapshot --json
    """
    with errors_shown():
        found = inspect(file)
    emit(json.dumps(_json(found)) if as_json else _text(found, "finished, not verified"))


@snapshot.command("list")
@click.argument(
    "directory", type=click.Path(path_type=Path), metavar="[DIR]", required=False, default=None
)
@administrator_command()
def list_command(session: Session, directory: Path | None) -> None:
    """List the snapshots in DIR, or those of the server.

    These are the files whose names end in .snapshot, and unfinished ones (.snapshot.partial).
    Without DIR the server is asked for those in its snapshot_directory: run it as the server's
    user, with --data, or give a token of the scope admin.

    \b
    Examples:
      troth snapshot list /var/backups/troth
      troth snapshot list --data /var/lib/troth
    """
    if directory is None:
        _list_kept(session)
        return
    with errors_shown():
        found = list_directory(directory)
    if session.as_json:
        emit(json.dumps([_json(file) for file in found]))
        return
    for file in found:
        emit(_line(file))
    note(f"{len(found)} found")


def _list_kept(session: Session) -> None:
    """List those in the running server's directory."""
    answer = session.client.ask("GET", "/admin/snapshots")
    if session.as_json:
        emit(json.dumps(answer.content["snapshots"]))
        return
    for one in answer.content["snapshots"]:
        taken = f"UNUSABLE: {visible(one['problem'])}" if one["problem"] else "whole"
        if one["createdOn"] is not None:
            taken = f"{moment(one['createdOn'])}  {taken}"
        emit(f"{visible(one['name'])}  {one['bytes']} bytes  {taken}")
    note(f"{len(answer.content['snapshots'])} found")


@snapshot.command("restore", cls=click.Command)
@file_argument
@click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The data directory to create; it must not exist, or be empty.",
)
@click.option(
    "--until",
    type=Moment(),
    metavar="TIME|SEQUENCE",
    help="Stop at this point: a time, or the number of a record.",
)
@click.option(
    "--archive",
    "archives",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Continue from here after the snapshot's end: an archive_directory, or a data directory "
    "whose log has survived. Repeatable, in order of time.",
)
@json_option
def restore_command(
    file: Path, data_path: Path, until: Until | None, archives: tuple[Path, ...], as_json: bool
) -> None:
    """Create a data directory from a snapshot.

    The directory is built as DIR.restoring and renamed when it is complete. If this is
    interrupted, run it again. It keeps the shards and the secret of the old server, but has a new
    history with its own data id: start a new archive for its log.

    --until is a number alone for a record's sequence (`troth log dump` shows them), else a time:
    2026-03-01T10:00:00Z (without a zone: local time), or 2h for that long ago. Records are
    taken in whole batches, as they were written; a batch that goes beyond is left out.

    A server that starts on the directory immediately catches up with the time since then:

    \b
      - promises whose timeout has passed time out, at their deadline;
      - tasks whose lease has ended go out to workers again, and so do those that
        were completed only after the snapshot: workers repeat their work;
      - locks whose lease has ended are free;
      - schedules make up for missed firings, as many as schedule_catch_up says
        (`troth serve --schedule-catch-up latest` for one each).

    \b
    Examples:
      troth snapshot restore backup.snapshot --data /var/lib/troth
      troth snapshot restore backup.snapshot --data new --archive /var/archive --until 2h
    """
    with errors_shown():
        size_bytes = file.stat().st_size if file.is_file() else None
        with _progress("restoring", size_bytes) as report:
            restored = restore(
                file, data_path, until=until or Until(), archives=archives, progress=report
            )
    emit(json.dumps(_restored_json(restored)) if as_json else _restored_text(restored))


def _json(file: SnapshotFile) -> dict[str, Any]:
    header = None if file.header is None else msgspec.to_builtins(file.header)
    if header is not None:
        del header["secret"]
    return {
        "path": str(file.path),
        "bytes": file.size_bytes,
        "problem": file.problem,
        "header": header,
        "end": None if file.end is None else msgspec.to_builtins(file.end),
    }


def _text(file: SnapshotFile, state: str) -> str:
    header, end = file.header, file.end
    assert header is not None
    assert end is not None
    rows = end.rows
    return fields(
        f"{visible(str(file.path))}: {state}",
        [
            ("taken", moment(header.created_at_ms)),
            ("size", f"{file.size_bytes} bytes"),
            ("shows", f"everything up to record {header.until_sequence} of the log"),
            ("data id", header.data_id),
            ("shards", str(header.shard_count)),
            ("made by", f"Troth {header.troth_version}"),
            (
                "rows",
                f"{sum(rows.values())}, up to record {header.rows_position} in every shard",
            ),
            ("promises", f"{rows['live_promises']} pending, {rows['promises']} completed"),
            ("tasks", f"{rows['live_tasks']} unfinished, {rows['tasks']} finished"),
            ("schedules", str(rows["schedules"])),
            ("log", f"{end.records_count} records in {end.batches_count} batches on top of these"),
        ],
    )


def _line(file: SnapshotFile) -> str:
    name = visible(file.path.name)
    if file.header is None:
        return f"{name}  {file.size_bytes} bytes  UNUSABLE: {visible(file.problem or '')}"
    return (
        f"{name}  {file.size_bytes} bytes  {moment(file.header.created_at_ms)}  "
        f"up to record {file.header.until_sequence}"
    )


def _restored_json(restored: Restored) -> dict[str, Any]:
    return {
        "path": str(restored.path),
        "data_id": restored.data_id,
        "rows": restored.rows_count,
        "records": restored.records_count,
        "until_sequence": restored.until_sequence,
        "time_ms": restored.time_ms,
        "stopped_early": restored.stopped_early,
        "limit_ms": restored.limit_ms,
    }


def _restored_text(restored: Restored) -> str:
    return fields(
        f"{visible(str(restored.path))}: restored",
        [
            ("shows", f"everything up to record {restored.until_sequence} of the old log"),
            ("last time", moment(restored.time_ms)),
            ("rows", str(restored.rows_count)),
            ("records after", str(restored.records_count)),
            ("new data id", restored.data_id),
            *_limit_shown(restored),
        ],
    )


def _limit_shown(restored: Restored) -> list[tuple[str, str]]:
    """Return that the archive of one of several groups has ended the restore, if it has."""
    if restored.limit_ms is None or not restored.stopped_early:
        return []
    return [("archived up to", f"{moment(restored.limit_ms)} in all groups; none goes on")]
