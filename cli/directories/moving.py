"""`troth data move`: moves a data directory into a database, or into NATS."""

import json
from pathlib import Path

import click

from troth.cli.clusters.cluster import DEFAULT_GROUPS_COUNT, log_option, node_name
from troth.cli.errors import errors_shown
from troth.cli.output import emit, fields, now_ms, visible
from troth.core.limits import CLUSTER_GROUPS_LIMIT_COUNT, SHARDS_LIMIT_COUNT
from troth.http.settings.log_kinds import NATS_SCHEMES


@click.command("move", cls=click.Command)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@log_option
@click.option(
    "--cluster",
    "cluster",
    callback=node_name,
    metavar="NAME",
    help="Make a cluster of this name, with a group for each process; else one process serves it.",
)
@click.option(
    "--groups",
    "groups_count",
    type=click.IntRange(2, CLUSTER_GROUPS_LIMIT_COUNT),
    metavar="NUMBER",
    help=f"The cluster's groups of shards [default: {DEFAULT_GROUPS_COUNT}].",
)
@click.option(
    "--shards",
    "shard_count",
    type=click.IntRange(1, SHARDS_LIMIT_COUNT),
    metavar="NUMBER",
    help="The number of shards; as it is if left out.",
)
@click.option(
    "--nats-monitor",
    "monitor",
    metavar="URLS",
    help="The monitors of the NATS servers, as for `troth serve`.",
)
@click.option(
    "--replicas",
    "replicas_count",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Copies of the log in NATS, as for `troth serve`.",
)
@click.option(
    "--unsafe-fsync", is_flag=True, help="Use NATS servers that do not sync, as for `troth serve`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def move_command(
    path: Path,
    url: str,
    cluster: str | None,
    groups_count: int | None,
    shard_count: int | None,
    monitor: str | None,
    replicas_count: int | None,
    unsafe_fsync: bool,
    as_json: bool,
) -> None:
    """Move a directory into PostgreSQL or NATS.

    Stop the server first. Everything in DIR becomes the snapshot with which servers begin that are
    given the same --log (and --cluster): promises, tasks, schedules, accounts and tokens, and the
    secret with which the server signs. The snapshot is read back before it counts. The database, or
    the name at the end of a nats:// URL, must be empty.

    DIR stays as it is, but its troth.json is renamed to troth.json.moved: no server takes it then.
    If this is interrupted, run it again; until it has ended, no server begins with what has come.

    \b
    Examples:
      troth data move /var/lib/troth --log postgresql://troth@db.example/troth
      troth data move /var/lib/troth --log postgresql://db.example/troth --cluster orders
    """
    from troth.http.log_output import configure_logging
    from troth.shards.streams.moving import MoveTarget, move
    from troth.shards.streams.stream_opening import NatsOptions

    if groups_count is not None and cluster is None:
        raise click.BadParameter("is for a cluster: give --cluster too", param_hint="--groups")
    nats = NatsOptions(replicas_count, monitor, unsafe_fsync)
    if nats != NatsOptions() and not url.startswith(NATS_SCHEMES):
        raise click.UsageError("--nats-monitor, --replicas and --unsafe-fsync are for nats:// only")
    if cluster is not None:
        groups_count = groups_count or DEFAULT_GROUPS_COUNT
    target = MoveTarget(url, cluster, groups_count or 1, shard_count, nats)
    configure_logging("warning", "console")
    with errors_shown():
        moved = move(path, target, now_ms=now_ms())
    identity = moved.identity
    if as_json:
        shown = {
            "path": str(path),
            "place": moved.place,
            "entities": moved.entities_count,
            "snapshot_bytes": moved.snapshots_bytes,
            "data_id": identity.data_id.hex(),
            "shards": identity.shard_count,
            "groups": identity.groups_count,
        }
        emit(json.dumps(shown, separators=(",", ":")))
        return
    rows = [
        ("entities", str(moved.entities_count)),
        ("size", f"{moved.snapshots_bytes} bytes, read back"),
        ("data id", identity.data_id.hex()),
        ("shards", str(identity.shard_count)),
        ("groups", str(identity.groups_count) if cluster else None),
    ]
    emit(fields(f"{visible(str(path))}: moved to {moved.place}", rows))
    named = f" --cluster {cluster} --node NAME" if cluster else ""
    emit(f"Next: troth serve --log URL{named} --data ANOTHER-DIR")
