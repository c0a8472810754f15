"""`troth log`: look into the log of a data directory, verify it, and give up what is damaged.

These commands read files and talk to no server. Only `repair` writes; the rules it keeps to are
those of `persistence/log_repair.py`.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from troth.core.limits import SHARDS_LIMIT_COUNT
from troth.persistence.errors import LogDamaged, PersistenceError
from troth.persistence.files import RealFiles
from troth.persistence.log_records import DATA_SHOWN_CHARACTERS, record_fields, record_type
from troth.persistence.log_repair import LogRepair, RepairPlan
from troth.persistence.log_tools import (
    DAMAGES_LISTED_LIMIT_COUNT,
    Damage,
    Entry,
    LogReport,
    Selection,
    dump,
    verify,
)

from .cli_options import DURATION, TEXT, OrderedGroup
from .cli_output import decoded, emit, fields, moment, note, now_ms, visible

DAMAGED_STATUS: Final = 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VALUE_KEYS: Final = frozenset({"headers", "data", "data_characters"})


class Time(click.ParamType):  # type: ignore[type-arg]
    """A time in ms since 1970: an ISO 8601 time, ms since 1970, or `2h`: so long ago."""

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


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """End the command with status 1 and the message of an error of the log or the disk."""
    try:
        yield
    except PersistenceError as error:
        raise click.ClickException(str(error)) from error


@click.group(cls=OrderedGroup)
def log() -> None:
    """Read, verify and repair the log of a data directory.

    The log is where a server keeps everything: a list of records, each saying what happened, in
    numbered files below the data directory. These commands read the files themselves, so they
    need no running server, and they run where the files are.

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
    help="Only records about this promise, task, schedule or lock; may be repeated.",
)
@click.option(
    "--shard",
    type=click.IntRange(0, SHARDS_LIMIT_COUNT - 1),
    metavar="NUMBER",
    help="Only records of this shard.",
)
@click.option("--since", type=Time(), metavar="TIME", help="Only records of this time and later.")
@click.option("--until", type=Time(), metavar="TIME", help="Only records from before this time.")
@click.option(
    "--from",
    "from_sequence",
    type=click.IntRange(1),
    default=1,
    metavar="SEQUENCE",
    help="Only this record and later ones.",
)
@click.option(
    "--to",
    "to_sequence",
    type=click.IntRange(1),
    metavar="SEQUENCE",
    help="Only records up to this one.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
@click.option(
    "--values",
    "whole_values",
    is_flag=True,
    help=f"Show the data of promises whole, not only {DATA_SHOWN_CHARACTERS} characters.",
)
def dump_command(
    path: Path,
    ids: tuple[str, ...],
    shard: int | None,
    since: int | None,
    until: int | None,
    from_sequence: int,
    to_sequence: int | None,
    as_json: bool,
    whole_values: bool,
) -> None:
    """Print the records of the log, oldest first.

    A record says what happened to a promise, task, schedule or lock. They are numbered through
    the whole log (the sequence, first in each line). Nothing is written, and a server may be
    running on the directory: then the records are those there are at the moment.

    TIME is 2026-03-01, 2026-03-01T10:00:00Z (without a zone: of this machine), 2h for so long
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
    with _errors_shown():
        for entry in dump(RealFiles(), path, selection):
            unreadable_count += entry.record is None
            if as_json:
                emit(json.dumps(_entry_json(entry, whole_values), ensure_ascii=False))
            else:
                emit(_entry_line(entry, whole_values))
    if unreadable_count:
        raise click.ClickException(
            f"{unreadable_count} records are of no type that this version of Troth knows."
        )


def _entry_json(entry: Entry, whole_values: bool) -> dict[str, Any]:
    record = entry.record
    shown: dict[str, Any] = {
        "sequence": entry.sequence,
        "shard": entry.log_record.shard,
        "shard_sequence": entry.log_record.shard_sequence,
        "file": os.path.basename(entry.file),
        "offset": entry.offset,
        "time_ms": entry.time_ms,
        "type": None if record is None else record_type(record),
    }
    if record is None:
        return {**shown, "body": base64.b64encode(entry.log_record.body).decode()}
    return {**shown, "record": record_fields(record, whole_values=whole_values)}


def _entry_line(entry: Entry, whole_values: bool) -> str:
    record = entry.record
    time = "-".ljust(23) if entry.time_ms is None else _local_time(entry.time_ms)
    start = f"{entry.sequence:>8}  shard {entry.log_record.shard:<3} {time}"
    if record is None:
        body = entry.log_record.body.decode(errors="backslashreplace")
        return f"{start}  (unknown type)  {visible(body if whole_values else body[:200])}"
    named = record_fields(record, whole_values=whole_values)
    shown = "  ".join(f"{name}={_field_text(part)}" for name, part in named.items())
    return f"{start}  {record_type(record):<23} {shown}"


def _local_time(time_ms: int) -> str:
    try:
        time = (_EPOCH + timedelta(milliseconds=time_ms)).astimezone()
    except (OverflowError, ValueError):
        return str(time_ms).ljust(23)
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _field_text(content: Any) -> str:
    """A field on one line: a word as it is, anything else as JSON, a value's data decoded."""
    if isinstance(content, str) and content.isprintable() and " " not in content and content:
        return content
    return visible(json.dumps(_readable(content), ensure_ascii=False))


def _readable(content: Any) -> Any:
    """The same with the data of values decoded, at any depth."""
    if isinstance(content, dict):
        if "data" in content and content.keys() <= _VALUE_KEYS:
            is_cut = "data_characters" in content
            text = _beginning(content["data"]) if is_cut else decoded(content["data"])
            return {**content, "data": text}
        return {name: _readable(part) for name, part in content.items()}
    return content


def _beginning(data: str) -> str:
    """The text that cut base64 begins with; the cut may have split its last character."""
    assert len(data) % 4 == 0, "base64 decodes only in whole groups of four characters"
    content = base64.b64decode(data)
    for split_bytes in range(4):
        text = decoded(base64.b64encode(content[: len(content) - split_bytes]).decode())
        if not text.startswith("base64:"):
            return text + "…"
    return f"base64:{data}…"


@log.command("verify", cls=click.Command)
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON.")
def verify_command(path: Path, as_json: bool) -> None:
    """Read the whole log and report every damage.

    Checks that every file, every batch (the records written at once) and every record is what it
    was when it was written, and that none is missing in between. Nothing is written, and a server
    may be running on the directory. Status 0 says that the log is sound, 1 that it is damaged or
    cannot be read.

    An unfinished batch at the end is no damage: it is what a crash leaves of a write that was
    never acknowledged; the server cuts it when it starts.

    \b
    Example:
      troth log verify --data /var/lib/troth
    """
    with _errors_shown():
        report = verify(RealFiles(), path)
    emit(json.dumps(_report_json(report)) if as_json else _report_text(report))
    if not report.is_sound:
        raise click.exceptions.Exit(DAMAGED_STATUS)


def _report_json(report: LogReport) -> dict[str, Any]:
    torn = report.torn
    return {
        "path": report.path,
        "sound": report.is_sound,
        "segments": report.segments_count,
        "batches": report.batches_count,
        "records": report.records_count,
        "bytes": report.size_bytes,
        "first_sequence": report.first_sequence,
        "next_sequence": report.next_sequence,
        "epoch": report.epoch,
        "last_time_ms": report.last_time_ms,
        "torn": torn and {"file": torn.file, "offset": torn.offset, "bytes": report.torn_bytes},
        "damages": [
            {"file": damage.file, "offset": damage.offset, "problem": damage.problem}
            for damage in report.damages
        ],
        "damages_count": report.damages_count,
        "later_records": report.later_records_count,
        "last_readable_sequence": report.last_sequence,
    }


def _report_text(report: LogReport) -> str:
    is_whole = report.break_in_log is None
    torn = report.torn
    damages = list(map(_place, report.damages))
    if report.damages_count > DAMAGES_LISTED_LIMIT_COUNT:
        damages.append(f"and {report.damages_count - DAMAGES_LISTED_LIMIT_COUNT} more")
    later = f"{report.later_records_count}, up to {report.last_sequence}"
    return fields(
        f"{visible(report.path)}: {'sound' if report.is_sound else 'DAMAGED'}",
        [
            ("segments", f"{report.segments_count} ({report.size_bytes} bytes)"),
            ("batches" if is_whole else "sound batches", str(report.batches_count)),
            ("records" if is_whole else "sound records", _sequences(report)),
            ("last time", moment(report.last_time_ms)),
            ("torn end", None if torn is None else _place(torn)),
            ("damage", "\n".join(damages) or None),
            ("readable behind", None if is_whole else later),
        ],
    )


def _place(damage: Damage | LogDamaged) -> str:
    return f"{visible(damage.file)} at byte {damage.offset}: {damage.problem}"


def _sequences(report: LogReport) -> str:
    if report.first_sequence is None:
        return "0"
    return f"{report.records_count} ({report.first_sequence} to {report.next_sequence - 1})"


@log.command("repair", cls=click.Command)
@data_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--dropped",
    "dropped_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="New file for what is dropped (otherwise one in the data directory).",
)
def repair_command(path: Path, yes: bool, dropped_path: Path | None) -> None:
    """Cut a damaged log at its first damage.

    THIS LOSES DATA: everything the server acknowledged after the damage. If there is a backup,
    restore it instead. The server must be stopped. The command says what would be lost and asks
    first; a sound log is never touched.

    All that is dropped is written to a file before anything is cut: the raw bytes, and the
    records that are still readable, as lines of JSON. If the command is interrupted, run it
    again.

    \b
    Example:
      troth log repair --data /var/lib/troth --dropped dropped.jsonl
    """
    with _errors_shown(), LogRepair(RealFiles(), path) as repair:
        plan = repair.plan()
        if plan is None:
            emit(f"{visible(str(path))}: the log is sound. Nothing was changed.")
            return
        target = repair.dropped_path(plan) if dropped_path is None else str(dropped_path.absolute())
        emit(_plan_text(plan, target))
        if not yes:
            _ask()
        dropped = repair.carry_out(plan, target, now_ms())
    emit(
        f"Repaired: the log continues with record {plan.next_sequence}. Dropped "
        f"{dropped.bytes_count} bytes and {dropped.records_count} readable records; they are in "
        f"{visible(dropped.path)}"
    )


def _ask() -> None:
    """Let somebody confirm. Raises click.Abort or click.exceptions.Exit if they do not."""
    try:
        confirmed = click.confirm("Drop this for good?", err=True)
    except click.Abort:
        note("\nNothing was changed. (--yes repairs without asking.)")
        raise
    if not confirmed:
        note("Nothing was changed.")
        raise click.exceptions.Exit(DAMAGED_STATUS)


def _plan_text(plan: RepairPlan, dropped_path: str) -> str:
    report = plan.report
    kept = "nothing: the log will be empty" if plan.keeps_nothing else _sequences(report)
    lost = f"record {plan.next_sequence} and everything after it, acknowledged or not"
    later = f"{report.later_records_count} records, up to {report.last_sequence}"
    table = fields(
        f"{visible(report.path)} is damaged",
        [
            ("damage", _place(plan.damage)),
            ("kept", kept),
            ("last time kept", None if plan.keeps_nothing else moment(report.last_time_ms)),
            ("lost", lost),
            ("of these readable", later if report.later_records_count else "none"),
            ("cut", f"{len(plan.parts)} segments, {plan.size_bytes} bytes"),
            ("saved to", visible(dropped_path)),
        ],
    )
    return (
        f"{table}\nWhat is lost includes writes that clients were told are done. If there is a "
        "backup, restore it instead."
    )
