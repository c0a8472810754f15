"""`troth log`: look into the log of a data directory, verify it, and give up what is damaged.

These commands read files and talk to no server. Only `repair` writes; the rules it keeps to are
those of `persistence/inspection/log_repair.py`.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from troth.core.limits import GROUPS_LIMIT_COUNT, SHARDS_LIMIT_COUNT
from troth.persistence.files import RealFiles
from troth.persistence.inspection.log_covered import covered_sequence, verify_directory
from troth.persistence.inspection.log_records import DATA_SHOWN_CHARACTERS
from troth.persistence.inspection.log_repair import LogRepair
from troth.persistence.inspection.log_tools import Selection, dump, list_groups

from .errors import errors_shown
from .log_texts import entry_json, entry_line, plan_text, report_json, report_text
from .options import DURATION, TEXT, OrderedGroup
from .output import emit, note, now_ms, visible

DAMAGED_STATUS: Final = 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_COUNT: Final = 200


class Time(click.ParamType):  # type: ignore[type-arg]
    """A time in ms since 1970: an ISO 8601 time, ms since 1970, or `2h`: that long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a value; a time without a zone is one of this machine. Raises click.BadParameter."""
        text = str(value)
        if text.isascii() and text.isdecimal():
            return int(text)
        try:
            parsed = datetime.fromisoformat(text)
            return (parsed.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            return self._ago(text, param, ctx)

    def _ago(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return now_ms() - DURATION.convert(text, param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(
                f"{text!r} is not a time, for example 2026-03-01, 2026-03-01T10:00:00Z, 2h (so "
                "long ago) or milliseconds since 1970.",
                ctx,
                param,
            ) from error


data_option: Final = click.option(
    "--data",
    "path",
    envvar="TROTH_DATA",
    default="troth-data",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The data directory, as given to `troth serve` [environment: TROTH_DATA].",
)


group_option: Final = click.option(
    "--group",
    type=click.IntRange(0, GROUPS_LIMIT_COUNT - 1),
    metavar="NUMBER",
    help="Only the log of this group of shards; each has its own.",
)


def _chosen_groups(path: Path, group: int | None) -> list[int]:
    """Return the groups whose logs are asked for. Raises a DataDirectoryError."""
    groups = list_groups(RealFiles(), path)
    if group is None:
        return [*groups]
    if group not in groups:
        raise click.UsageError(f"--group: {path} has only the groups 0 to {groups[-1]}.")
    return [group]


@click.group(cls=OrderedGroup)
def log() -> None:
    """Read, verify and repair the log of a data directory.

    The log is where a server writes everything first: a list of records, each saying what
    happened, in numbered files below the data directory. Files that a checkpoint covers are
    removed. These commands read the files themselves, so they need no running server, and they
    run where the files are.

    \b
    Examples:
      troth log dump --data /var/lib/troth --id order-7
      troth log verify --data /var/lib/troth
    """


@log.command("dump", cls=click.Command)
@data_option
@click.option(
    "--id",
    "ids",
    type=TEXT,
    multiple=True,
    metavar="ID",
    help="Only records about this promise, task, schedule or lock; repeatable.",
)
@group_option
@click.option(
    "--shard",
    type=click.IntRange(0, SHARDS_LIMIT_COUNT - 1),
    metavar="NUMBER",
    help="Only records of this shard.",
)
@click.option("--since", type=Time(), metavar="TIME", help="Only records from this time on.")
@click.option("--until", type=Time(), metavar="TIME", help="Only records from before this time.")
@click.option(
    "--from",
    "from_sequence",
    type=click.IntRange(1),
    default=1,
    metavar="SEQUENCE",
    help="Only records from this one on.",
)
@click.option(
    "--to",
    "to_sequence",
    type=click.IntRange(1),
    metavar="SEQUENCE",
    help="Only records up to this one.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
@click.option(
    "--values",
    "whole_values",
    is_flag=True,
    help=f"Show the whole data of promises, not only {DATA_SHOWN_CHARACTERS} characters.",
)
def dump_command(
    path: Path,
    ids: tuple[str, ...],
    group: int | None,
    shard: int | None,
    since: int | None,
    until: int | None,
    from_sequence: int,
    to_sequence: int | None,
    as_json: bool,
    whole_values: bool,
) -> None:
    """Print the records of the log, oldest first.

    Of several logs, one comes after the other. A record says what happened to a promise, task,
    schedule or lock. They are numbered through the whole log (the sequence, first in each line).
    Nothing is written, and a server may be running on the directory: then the records are those
    written so far.

    TIME is 2026-03-01, 2026-03-01T10:00:00Z (without a zone: local time), 2h for that long
    ago, or milliseconds since 1970. Only some types of records carry a time. Those that do not
    are treated as having the time of the nearest record before them in the log that does; those
    before any time are older than everything.

    \b
    Examples:
      troth log dump --data /var/lib/troth --id order-7 --values
      troth log dump --since 2h --json
    """
    selection = Selection(frozenset(ids), shard, since, until, from_sequence, to_sequence)
    unreadable_count = 0

    def lines() -> Iterator[str]:
        nonlocal unreadable_count
        for number in _chosen_groups(path, group):
            for entry in dump(RealFiles(), path, selection, number):
                unreadable_count += entry.record is None
                if as_json:
                    yield json.dumps(entry_json(entry, whole_values), ensure_ascii=False)
                else:
                    yield entry_line(entry, whole_values)

    with errors_shown():
        _emit_together(lines())
    if unreadable_count:
        raise click.ClickException(
            f"{unreadable_count} records are of a type unknown to this version of Troth."
        )


def _emit_together(lines: Iterator[str]) -> None:
    """Print many lines at a time, those before an error too: one by one takes twice as long."""
    chunk: list[str] = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == _CHUNK_COUNT:
                emit("\n".join(chunk))
                chunk.clear()
    finally:
        if chunk:
            emit("\n".join(chunk))


@log.command("verify", cls=click.Command)
@data_option
@group_option
@click.option("--json", "as_json", is_flag=True, help="Print each report as one line of JSON.")
def verify_command(path: Path, group: int | None, as_json: bool) -> None:
    """Read the whole log and report every damage.

    Checks that every file, every batch (the records written together) and every record is what it
    was when it was written, and that none is missing. Nothing is written, and a server
    may be running on the directory. Status 0 says that the log is sound, 1 that it is damaged or
    cannot be read.

    The log begins where the checkpoints end: what is in them (the state, which the server saves
    from time to time) may have been removed from it. An unfinished batch at the end is not
    damage: a crash leaves it of a write that was never acknowledged, and the server cuts it when
    it starts.

    \b
    Example:
      troth log verify --data /var/lib/troth
    """
    is_sound = True
    with errors_shown():
        groups = _chosen_groups(path, group)
        for number in groups:
            report, covered = verify_directory(RealFiles(), path, number)
            is_sound = is_sound and report.is_sound
            if as_json:
                emit(json.dumps(report_json(report, covered)))
            else:
                emit(report_text(report, covered, names_group=len(groups) > 1))
    if not is_sound:
        raise click.exceptions.Exit(DAMAGED_STATUS)


@log.command("repair", cls=click.Command)
@data_option
@group_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--dropped",
    "dropped_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="New file for the dropped records [default: one in the data directory].",
)
def repair_command(path: Path, group: int | None, yes: bool, dropped_path: Path | None) -> None:
    """Cut a damaged log at its first damage.

    THIS LOSES DATA: everything the server acknowledged after the damage. If there is a backup,
    restore it instead. The server must be stopped. The command says what would be lost and asks
    first; a sound log is never touched.

    Everything dropped is first written to a file: the raw bytes, and the
    records that are still readable, as lines of JSON. If the command is interrupted, run it
    again.

    \b
    Example:
      troth log repair --data /var/lib/troth --dropped dropped.jsonl
    """
    with errors_shown(), LogRepair(RealFiles(), path, _chosen_group(path, group)) as repair:
        covered = covered_sequence(path, repair.data_id, repair.group)
        plan = repair.plan(covered + 1)
        if plan is None:
            emit(f"{visible(str(path))}: the log is sound. Nothing was changed.")
            return
        target = repair.dropped_path(plan) if dropped_path is None else str(dropped_path.absolute())
        emit(plan_text(plan, target))
        if not yes:
            _ask()
        dropped = repair.carry_out(plan, target, now_ms())
    emit(
        f"Repaired: the log continues with record {plan.next_sequence}. Dropped "
        f"{dropped.bytes_count} bytes and {dropped.records_count} readable records; they are in "
        f"{visible(dropped.path)}"
    )


def _chosen_group(path: Path, group: int | None) -> int:
    """Return the one group whose log is asked for. Raises a DataDirectoryError."""
    groups = _chosen_groups(path, group)
    if len(groups) > 1:
        raise click.UsageError(
            f"{path} has {len(groups)} groups of shards. Say with --group whose log is to be "
            "repaired; `troth log verify` shows which is damaged."
        )
    return groups[0]


def _ask() -> None:
    """Ask the user to confirm. Raises click.Abort or click.exceptions.Exit if they do not."""
    try:
        confirmed = click.confirm("Cut the log?", err=True)
    except click.Abort:
        note("\nNothing was changed. (Use --yes to repair without confirmation.)")
        raise
    if not confirmed:
        note("Nothing was changed.")
        raise click.exceptions.Exit(DAMAGED_STATUS)
