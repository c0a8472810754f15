"""`troth data`: what a data directory holds."""

import dataclasses
import json
from pathlib import Path

import click

from troth.persistence.files import RealFiles
from troth.persistence.inspection.data_statistics import DataStatistics, read_statistics

from .errors import errors_shown
from .log import data_option
from .options import OrderedGroup
from .output import emit, fields, moment, visible
from .retention import retention_command


@click.group(cls=OrderedGroup)
def data() -> None:
    """Inspect a data directory.

    \b
    Example:
      troth data stats --data /var/lib/troth
    """


@data.command("stats", cls=click.Command)
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def stats_command(path: Path, as_json: bool) -> None:
    """Count what is in a data directory, and say how large it is.

    Nothing is written, and a server may be running on the directory. Promises, tasks and the like
    are counted as of the last checkpoint (the server's own copy of its state, made every minute or
    so), and what the log holds beyond it is said first. `/metrics` of a running server has the
    numbers of this moment.

    \b
    Example:
      troth data stats --data /var/lib/troth --json
    """
    with errors_shown():
        statistics = read_statistics(RealFiles(), path)
    emit(
        json.dumps(dataclasses.asdict(statistics)) if as_json else _text(statistics),
    )


def _text(statistics: DataStatistics) -> str:
    counts = statistics.rows
    newer = statistics.next_sequence - 1 - statistics.checkpoint_position
    as_of = f"of record {statistics.checkpoint_position}, the last checkpoint"
    if newer > 0:
        as_of += f"; {newer} later records in the log are not counted"
    return fields(
        f"{visible(statistics.path)}: {'in use' if statistics.in_use else 'not in use'}",
        [
            ("data id", statistics.data_id),
            ("made", moment(statistics.created_at_ms)),
            ("shards", str(statistics.shard_count)),
            ("counts", as_of),
            (
                "promises",
                f"{statistics.promises_count} ({counts['live_promises']} pending)",
            ),
            ("tasks", f"{statistics.tasks_count} ({counts['live_tasks']} unfinished)"),
            ("callbacks", str(counts["callbacks"])),
            ("schedules", str(counts["schedules"])),
            ("locks", str(counts["locks"])),
            ("catalog entries", str(counts["entries"])),
            ("unfinished function tasks", str(counts["executions"])),
            (
                "checkpoints",
                f"{statistics.checkpoint_bytes} bytes, up to record "
                f"{statistics.checkpoint_position}",
            ),
            (
                "log",
                f"{statistics.log_bytes} bytes in {statistics.segments_count} files, records "
                f"{statistics.first_sequence} to {statistics.next_sequence - 1}",
            ),
            (
                "torn end",
                f"{statistics.torn_bytes} bytes, never acknowledged"
                if statistics.torn_bytes
                else None,
            ),
        ],
    )


data.add_command(retention_command)
