"""`troth data`: what a data directory holds, converting one of an older format, moving one."""

import dataclasses
import json
from pathlib import Path

import click

from troth.cli.errors import errors_shown
from troth.cli.log import data_option
from troth.cli.options import OrderedGroup
from troth.cli.output import emit, fields, moment, now_ms, visible
from troth.core.limits import GROUPS_LIMIT_COUNT, SHARDS_LIMIT_COUNT
from troth.persistence.conversion.convert import Converted, NewPlacement, convert
from troth.persistence.files import RealFiles
from troth.persistence.inspection.data_statistics import (
    DataStatistics,
    GroupStatistics,
    read_statistics,
)
from troth.persistence.placement import PlacementRule

from .moving import move_command
from .retention import retention_command


@click.group(cls=OrderedGroup)
def data() -> None:
    """Inspect a data directory, convert or move it.

    \b
    Examples:
      troth data stats --data /var/lib/troth
      troth data convert /var/lib/troth
      troth data move /var/lib/troth --log postgresql://troth@db.example/troth
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
    emit(json.dumps(_json(statistics)) if as_json else _text(statistics))


def _json(statistics: DataStatistics) -> dict[str, object]:
    """Return what there is, and of the only group directly what there is of it."""
    shown = dataclasses.asdict(statistics)
    return {**shown["groups"][0], **shown} if len(statistics.groups) == 1 else shown


def _text(statistics: DataStatistics) -> str:
    counts = statistics.rows
    groups = statistics.groups
    return fields(
        f"{visible(statistics.path)}: {'in use' if statistics.in_use else 'not in use'}",
        [
            ("data id", statistics.data_id),
            ("made", moment(statistics.created_at_ms)),
            ("shards", str(statistics.shard_count)),
            ("groups", str(len(groups)) if len(groups) > 1 else None),
            ("placement", statistics.placement),
            ("busiest shard", _busiest(statistics)),
            ("counts", _as_of(groups[0]) if len(groups) == 1 else "of the last checkpoints"),
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
            *(
                row
                for number, group in enumerate(groups)
                for row in _group_rows(group, f" of group {number}" if len(groups) > 1 else "")
            ),
        ],
    )


def _as_of(group: GroupStatistics) -> str:
    newer = group.next_sequence - 1 - group.checkpoint_position
    as_of = f"of record {group.checkpoint_position}, the last checkpoint"
    return as_of + (f"; {newer} later records in the log are not counted" if newer > 0 else "")


def _group_rows(group: GroupStatistics, of_group: str) -> list[tuple[str, str | None]]:
    return [
        (
            f"checkpoints{of_group}",
            f"{group.checkpoint_bytes} bytes, up to record {group.checkpoint_position}",
        ),
        (
            f"log{of_group}",
            f"{group.log_bytes} bytes in {group.segments_count} files, records "
            f"{group.first_sequence} to {group.next_sequence - 1}",
        ),
        (
            f"torn end{of_group}",
            f"{group.torn_bytes} bytes, never acknowledged" if group.torn_bytes else None,
        ),
    ]


def _busiest(statistics: DataStatistics) -> str | None:
    share = statistics.busiest_share
    if share is None:
        return None
    return f"has {share:.1%} of the promises, {1 / statistics.shard_count:.1%} would be even"


@data.command("convert", cls=click.Command)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--placement",
    type=click.Choice([str(rule) for rule in PlacementRule]),
    help="How ids have their shards; origin/1 for a directory of version 1, else as it is.",
)
@click.option(
    "--shards",
    "shard_count",
    type=click.IntRange(1, SHARDS_LIMIT_COUNT),
    metavar="N",
    help="The number of shards; as it is if left out.",
)
@click.option(
    "--groups",
    "groups_count",
    type=click.IntRange(1, GROUPS_LIMIT_COUNT),
    metavar="N",
    help="The number of groups of shards, one for each process of `troth serve --processes`; as it "
    "is if left out.",
)
@click.option("--remove-old", is_flag=True, help="Remove DIR.before-conversion.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def convert_command(
    path: Path,
    placement: str | None,
    shard_count: int | None,
    groups_count: int | None,
    remove_old: bool,
    as_json: bool,
) -> None:
    """Convert a directory to this format or number of processes.

    Stop the server first. The new directory is built as DIR.converting and takes the name DIR when
    it is complete. The old one is kept as DIR.before-conversion, which takes as much space again;
    run the command once more with --remove-old when all is well. If this is interrupted, run it
    again. Nothing is done if DIR is as wanted already.

    The placement origin/1 puts all ids of a workflow (order, order.1, order:1.2) into one shard, id
    spreads them. It makes a difference to speed only; `troth data stats` shows how even it is. The
    new directory has a new history with its own data id: start a new archive for its log.

    \b
    Examples:
      troth data convert /var/lib/troth
      troth data convert /var/lib/troth --groups 4
      troth data convert /var/lib/troth --placement id
      troth data convert /var/lib/troth --remove-old
    """
    rule = None if placement is None else PlacementRule(placement)
    wanted = NewPlacement(rule, shard_count, groups_count)
    with errors_shown():
        converted = convert(path, wanted, now_ms=now_ms(), remove_old=remove_old)
    emit(json.dumps(_converted_json(converted)) if as_json else _converted_text(converted))


def _converted_json(converted: Converted) -> dict[str, object]:
    return {
        "path": str(converted.path),
        "converted": converted.entities_count is not None,
        "entities": converted.entities_count,
        "data_id": converted.data_id,
        "placement": str(converted.placement),
        "shards": converted.shard_count,
        "groups": converted.groups_count,
        "old": None if converted.old is None else str(converted.old),
    }


def _converted_text(converted: Converted) -> str:
    count = converted.entities_count
    return fields(
        f"{visible(str(converted.path))}: "
        + ("nothing to convert" if count is None else "converted"),
        [
            ("entities", None if count is None else str(count)),
            ("data id", converted.data_id),
            ("placement", str(converted.placement)),
            ("shards", str(converted.shard_count)),
            ("groups", str(converted.groups_count) if converted.groups_count > 1 else None),
            ("old directory", None if converted.old is None else visible(str(converted.old))),
        ],
    )


data.add_command(move_command)
data.add_command(retention_command)
