"""Directories of several groups: what is in them, whatever the groups, and how one comes about."""

import contextlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.shards.stage import EPOCH_MS
from troth.core import commands as c
from troth.core import records
from troth.core.deciding import Options
from troth.core.machine import Machine
from troth.persistence.checkpoints import digests, rows
from troth.persistence.checkpoints.digests import Digest
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import (
    DataDirectory,
    checkpoints_name,
    open_identity,
    write_identity,
)
from troth.persistence.files import RealFiles
from troth.persistence.identity import Identity
from troth.persistence.inspection.log_tools import list_groups
from troth.persistence.placement import DEFAULT_RULE, PlacementRule, groups_by_shard
from troth.persistence.serials import Serials
from troth.persistence.wal.log import LogRecord
from troth.shards.hashing import Homes


def digests_of(data: Path) -> dict[str, tuple[int, int]]:
    """Return how many rows each table has in all groups together, and the sum of their hashes.

    A row does not say which group it is in, so this is the same whatever the groups are.
    """
    found = {table: Digest() for table in rows.TABLES}
    for group in list_groups(RealFiles(), data):
        store = LmdbStore(data / checkpoints_name(group), rows.TABLES)
        with contextlib.closing(store), contextlib.closing(store.view()) as view:
            for table in rows.TABLES:
                if table in (rows.META, digests.TABLE):
                    continue
                for key, value in view.scan(table, b"", b"\xff" * 512):
                    found[table].add(key, value)
    return {table: (digest.count, digest.total) for table, digest in found.items()}


def write(
    data: Path,
    commands: Sequence[c.Command],
    options: Options | None = None,
    *,
    shard_count: int = 4,
    groups_count: int = 1,
    rule: PlacementRule = DEFAULT_RULE,
) -> None:
    """Make a directory in which each shard did what it was asked, and heard of no other."""
    files = RealFiles()
    _, lock, identity = open_identity(data, files, shard_count, groups_count, created_at_ms=1)
    directories = [
        DataDirectory.open_group(lock, str(data), files, group) for group in range(groups_count)
    ]
    assert [list(directory.recover()) for directory in directories] == [[]] * groups_count
    homes = Homes(rule, shard_count)
    group_of = groups_by_shard(identity.group_shards)
    serials: list[Any] = [count(1).__next__] if groups_count == 1 else []
    serials = serials or [Serials(group).next for group in range(groups_count)]
    machines = [
        Machine(index, homes.of_promise, serials[group_of[index]], options)
        for index in range(shard_count)
    ]
    for machine in machines:
        machine.neighbor = lambda name: machines[homes.of_promise(name)]
    sequences = [0] * shard_count
    for command in commands:
        index = homes.of_command[type(command)](command)
        log = directories[group_of[index]].log
        entries = []
        for record in machines[index].step(command, EPOCH_MS).records:
            sequences[index] += 1
            entries.append(LogRecord(index, sequences[index], records.encode(record)))
        log.append(entries, log.next_sequence)
    for directory in directories:
        directory.log.close()
    (data / "troth.json").unlink()
    made = Identity(identity.data_id, identity.group_shards, 1, identity.secret, rule)
    write_identity(files, str(data), made)
    lock.close()
