"""`troth cluster`: makes a cluster in an engine, shows who serves it, ends its upgrades.

Also says which node is to have which group, where nodes share them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from troth.cli.errors import errors_shown
from troth.cli.options import OrderedGroup
from troth.cli.output import emit, fields, now_ms, span, table
from troth.core.limits import (
    CLUSTER_GROUPS_LIMIT_COUNT,
    JETSTREAM_COPIES_LIMIT_COUNT,
    SHARDS_LIMIT_COUNT,
    STREAM_READER_GONE_MS,
)
from troth.http.settings.kinds import NodeName, SettingRefused
from troth.http.settings.log_kinds import NATS_SCHEMES, LogUrl
from troth.persistence.streams.cluster import (
    ClusterBook,
    ClusterDescription,
    GroupSeen,
    MemberSeen,
)
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import StreamUnreachable

from .placing import PRESENT_MS, drained, moved, no_longer_drained

DEFAULT_GROUPS_COUNT: Final = 4


@click.group(cls=OrderedGroup)
def cluster() -> None:
    """Make a cluster in PostgreSQL or NATS, or show one.

    A cluster is several groups of shards, each with a log there and a process of its own (`troth
    serve --cluster`). Servers on several machines can serve it: with `--mesh-listen` they share the
    groups, without it one has all, and the others stand by.

    \b
    Examples:
      troth cluster create orders --log postgresql://troth@db.example/troth
      troth cluster create orders --log nats://one,two,three/orders
      troth cluster status orders --log postgresql://troth@db.example/troth
      troth cluster finalize orders --log postgresql://troth@db.example/troth
      troth cluster move orders 2 one --log postgresql://troth@db.example/troth
      troth cluster drain orders two --log postgresql://troth@db.example/troth
    """


def node_name(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Return the name of a cluster; a callback of click. Raises click.BadParameter."""
    kind = NodeName()
    if text is None:
        return None
    try:
        return kind.from_text(text)
    except SettingRefused as error:
        raise click.BadParameter(f"must be {kind.allowed}") from error


def _log(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    kind = LogUrl()
    try:
        url = kind.from_text(text)
    except SettingRefused as error:
        raise click.BadParameter(f"must be {error}") from error
    if url is None:
        raise click.BadParameter("must say where: postgresql://… or nats://…")
    return url


_name_argument: Final = click.argument("name", callback=node_name)
log_option: Final = click.option(
    "--log",
    "url",
    required=True,
    callback=_log,
    envvar="TROTH_LOG",
    metavar="URL",
    help="Where it is, as given to `troth serve` [environment: TROTH_LOG].",
)


@contextmanager
def _opened(url: str, replicas_count: int | None = None) -> Iterator[ClusterBook]:
    """Open what an engine keeps of a cluster; end the command with status 1 if it cannot be."""
    from troth.shards.streams.stream_opening import cluster_book

    with errors_shown():
        book = cluster_book(url, replicas_count)
        try:
            yield book
        except StreamUnreachable as error:
            raise click.ClickException(f"{book.name} cannot be reached: {error}.") from error
        finally:
            book.close()


@cluster.command("create", cls=click.Command)
@_name_argument
@log_option
@click.option(
    "--groups",
    "groups_count",
    type=click.IntRange(2, CLUSTER_GROUPS_LIMIT_COUNT),
    default=DEFAULT_GROUPS_COUNT,
    show_default=True,
    metavar="NUMBER",
    help="Groups of shards. Each is a process on each node, so: as many as a node has cores.",
)
@click.option(
    "--shards",
    "shard_count",
    type=click.IntRange(2, SHARDS_LIMIT_COUNT),
    metavar="NUMBER",
    help="Shards of all groups together [default: 16, or as many as there are groups].",
)
@click.option(
    "--replicas",
    "replicas_count",
    type=click.IntRange(1, JETSTREAM_COPIES_LIMIT_COUNT),
    metavar="NUMBER",
    help="NATS servers that have a copy of each log: 3 or 5, or 1 if there is one [default: 3].",
)
def create_command(
    name: str,
    url: str,
    groups_count: int,
    shard_count: int | None,
    replicas_count: int | None,
) -> None:
    """Make the cluster NAME in an empty database, or in NATS.

    Name and shape are fixed then. A second run with the same ones changes nothing; with others it
    is refused. In NATS, the end of the URL names the streams, and each of these names can have one
    cluster; a run that was interrupted is finished by the next.

    \b
    Examples:
      troth cluster create orders --log postgresql://troth@db.example/troth --groups 4
      troth cluster create orders --log nats://one,two,three/orders --replicas 3
    """
    from troth.shards.streams.stream_opening import new_cluster

    is_nats = url.startswith(NATS_SCHEMES)
    if replicas_count is not None and not is_nats:
        raise click.BadParameter(
            "is for NATS only: PostgreSQL has its own", param_hint="--replicas"
        )
    if shard_count is not None and shard_count < groups_count:
        raise click.BadParameter(
            f"must be at least {groups_count}: each group needs one", param_hint="--shards"
        )
    new = new_cluster(name, groups_count, shard_count, now_ms=now_ms())
    with _opened(url, replicas_count) as book:
        found = book.create(new)
        identity = found.identity
        shape = f"{identity.groups_count} groups, {identity.shard_count} shards"
        wanted = (name, groups_count, shard_count or identity.shard_count)
        if (found.name, identity.groups_count, identity.shard_count) != wanted:
            raise click.ClickException(
                f"{book.name} has the cluster {found.name} already ({shape}). Nothing was changed."
            )
    was_there = "" if found == new else " was there already"
    emit(f"{name}: {shape}, in {book.name}{was_there}")
    engine = "--log URL --nats-monitor URLS" if is_nats else "--log URL"
    emit(f"Next, on each node: troth serve --cluster {name} {engine} --node NAME --data DIR")
    emit("So that nodes share the groups: also --mesh-listen HOST:PORT --cluster-secret-file FILE")


@cluster.command("status", cls=click.Command)
@click.argument("name", callback=node_name, required=False)
@log_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def status_command(name: str | None, url: str, as_json: bool) -> None:
    """Show the groups of a cluster, their owners, and its nodes.

    It asks the database or NATS, not the nodes; NAME only makes sure that it is the right one.
    BEHIND is how many frames of the log a node would read if it were started now; nodes tell it
    every half a minute. A node that has said nothing for half a minute is away. FEATURES is what
    the cluster's nodes may write, and what each of them can read: see `troth cluster finalize`.
    What was wished with `troth cluster drain` and `move` is shown if there is any.

    \b
    Example:
      troth cluster status orders --log postgresql://troth@db.example/troth
    """
    with _opened(url) as book:
        found = _found(book, name)
        groups, members, wishes = book.groups(), book.members(), book.wishes()
    placed = sorted(wishes.placed)
    if as_json:
        shown = {
            "name": found.name,
            "features": found.features,
            "groups": [
                {**one._asdict(), "readers": [reader._asdict() for reader in one.readers]}
                for one in groups
            ],
            "members": [one._asdict() for one in members],
            "drained": sorted(wishes.drained),
            "placed": [{"group": group, "node": wishes.placed[group]} for group in placed],
        }
        emit(json.dumps(shown, separators=(",", ":")))
        return
    identity = found.identity
    shape = [
        ("groups", str(identity.groups_count)),
        ("shards", str(identity.shard_count)),
        ("placement", str(identity.placement)),
        ("features", str(found.features)),
    ]
    if wishes.drained:
        shape.append(("drained", ", ".join(sorted(wishes.drained))))
    if placed:
        shape.append(("placed", ", ".join(f"{one} at {wishes.placed[one]}" for one in placed)))
    emit(fields(found.name, shape))
    emit("")
    columns = ("group", "owner", "epoch", "last frame", "snapshot", "behind")
    emit(table(columns, map(_group_row, groups)))
    emit("")
    emit(table(("node", "address", "version", "features", "seen"), map(_member_row, members)))


def _found(book: ClusterBook, name: str | None) -> ClusterDescription:
    """Return what cluster is there. Raises click.ClickException unless it has this name."""
    found = book.description()
    if found is None or name not in (None, found.name):
        there = "no cluster" if found is None else f"the cluster {found.name}, not {name}"
        raise click.ClickException(f"{book.name} has {there}.")
    return found


@cluster.command("finalize", cls=click.Command)
@_name_argument
@log_option
def finalize_command(name: str, url: str) -> None:
    """End an upgrade, once all nodes have the new version.

    Until then nodes write only what the version before can read, so that each of them can go back
    to it. From then on they may write all that they can read, and a server of an older version is
    refused: the way back is a snapshot. It is refused while nodes differ in what they can read; one
    that has said nothing for an hour does not count. Most upgrades change nothing here.

    \b
    Example:
      troth cluster finalize orders --log postgresql://troth@db.example/troth
    """
    with _opened(url) as book:
        found = _found(book, name)
        members = [one for one in book.members() if one.seen_ms <= STREAM_READER_GONE_MS]
        if not members:
            raise click.ClickException(
                f"no node of {name} was there within the hour, so it is not known what they can "
                "read. Nothing was changed. Start them first."
            )
        newest = max(one.features for one in members)
        older = [one for one in members if one.features < newest]
        if older:
            texts = (f"{one.node} ({one.version}, features {one.features})" for one in older)
            raise click.ClickException(
                f"not all nodes of {name} can read features {newest}. Nothing was changed. "
                f"Upgrade these first, or wait until they have been away for an hour: "
                f"{', '.join(texts)}"
            )
        if not book.finalize(newest) and found.features < newest:
            raise click.ClickException(f"{name} is changing at the moment. Try again.")
    if found.features >= newest:
        emit(f"{name}: nothing to do, its nodes write all that they can read (features {newest})")
    else:
        emit(f"{name}: finalized. Features {newest}; servers that cannot read them are refused.")


@cluster.command("move", cls=click.Command)
@_name_argument
@log_option
@click.argument("group", type=int)
@click.argument("node", required=False)
@click.option("--end", "is_end", is_flag=True, help="Let the group be anywhere again.")
def move_command(name: str, url: str, group: int, node: str | None, is_end: bool) -> None:
    """Move a group to a node, where nodes share the groups.

    The group goes there when that node stands by for it, one group a second at most, and stays
    until it is moved elsewhere, or `--end`. While that node is away or drained, another one has it.
    The other groups are spread so that nodes have as many as each other, as far as that can be.

    \b
    Examples:
      troth cluster move orders 2 one --log postgresql://troth@db.example/troth
      troth cluster move orders 2 --end --log postgresql://troth@db.example/troth
    """
    if is_end == (node is not None):
        raise click.UsageError("Give the node, or --end.")
    with _opened(url) as book:
        found, before = _found(book, name), book.wishes()
        after = moved(found, book.members(), before, group, node)
        _wish(book, name, before, after)
    place = "may be at any node" if node is None else f"goes to {node}"
    emit(f"{name}: group {group} {place}. See `troth cluster status`.")


@cluster.command("drain", cls=click.Command)
@_name_argument
@log_option
@click.argument("node")
@click.option("--end", "is_end", is_flag=True, help="Let the node have groups again.")
def drain_command(name: str, url: str, node: str, is_end: bool) -> None:
    """Take all groups from a node, where nodes share the groups.

    They go to the other nodes, one a second at most, and the node gets none until `--end`, also
    after it was started again. For 5 seconds it only says that it goes: its `GET /ready` answers
    503, so that a load balancer leaves it. In the end it stands by, and passes on what still comes.
    If no other node lives that is not drained, it serves all the same.

    \b
    Examples:
      troth cluster drain orders two --log postgresql://troth@db.example/troth
      troth cluster drain orders two --end --log postgresql://troth@db.example/troth
    """
    with _opened(url) as book:
        found, before = _found(book, name), book.wishes()
        change = no_longer_drained if is_end else drained
        _wish(book, name, before, change(found, book.members(), before, node))
    said = "may have groups again" if is_end else "gives its groups to the others"
    emit(f"{name}: {node} {said}. See `troth cluster status`.")


def _wish(book: ClusterBook, name: str, before: Wishes, after: Wishes) -> None:
    """Change what the book has. Raises click.ClickException if another was faster."""
    if after != before and not book.wish(before, after):
        raise click.ClickException(f"{name} is changing at the moment. Try again.")


def _group_row(group: GroupSeen) -> tuple[str, ...]:
    return (
        str(group.group),
        group.node or "none yet",
        str(group.epoch),
        str(group.last_number),
        "none" if group.snapshot_ms is None else f"{span(group.snapshot_ms)} ago",
        ", ".join(
            f"{reader.node} {max(group.last_number - reader.number, 0)}"
            for reader in group.readers
            if reader.node != group.node
        ),
    )


def _member_row(member: MemberSeen) -> tuple[str, ...]:
    seen = f"{span(max(member.seen_ms, 0))} ago"
    is_away = member.seen_ms > PRESENT_MS
    return (
        member.node,
        member.address,
        member.version,
        str(member.features),
        f"{seen}, away" if is_away else seen,
    )
