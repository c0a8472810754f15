"""Storage of one of several groups of a cluster, each on a stream of its own."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from troth.core.model import PromiseState
from troth.persistence.data_directory import lock_directory
from troth.persistence.errors import DataDirectoryError, DataDirectoryLost
from troth.persistence.files import LockedDirectory, RealFiles
from troth.persistence.identity import Identity, encode_identity
from troth.persistence.placement import by_rule, dealt_shards
from troth.persistence.streams.chain import StreamDamaged
from troth.shards.gathered.cuts import GroupStorage
from troth.shards.storage import GroupPlace, OwnedStorage
from troth.shards.streams.stream_group import StreamGroup

from .stream_world import Engine, node

IDENTITY = Identity(b"d" * 16, dealt_shards(5, 3), 1, b"s" * 32)
GROUP = 1


def group_at(directory: Path, group: int = GROUP, incarnation: int = 7) -> StreamGroup:
    """Return a group for a process that has inherited the lock of a directory."""
    files = RealFiles()
    lock = lock_directory(files, files.resolved(str(directory)))
    assert isinstance(lock, LockedDirectory)
    place = GroupPlace(str(directory), group, lock.descriptor)
    return StreamGroup(place, IDENTITY, incarnation, lambda: True)


def engine_of(identity: Identity = IDENTITY) -> Engine:
    engine = Engine()
    engine.stream.identity = encode_identity(identity)
    return engine


def names(count: int, prefix: str = "p") -> list[str]:
    """Return ids of promises of the group."""
    shard_of = by_rule(IDENTITY.placement, IDENTITY.shard_count)
    found = (f"{prefix}{number}" for number in range(100 * count))
    return [one for one in found if shard_of(one) in IDENTITY.shards_of(GROUP)][:count]


async def test_a_group_begins_with_its_snapshot_and_its_own_tail(tmp_path: Path) -> None:
    engine = engine_of()
    early, late = names(40), names(40, "q")
    async with node(engine, tmp_path / "a", group=group_at(tmp_path / "a")) as one:
        assert isinstance(one.storage, GroupStorage)
        assert isinstance(one.storage, OwnedStorage)
        assert (one.storage.is_owned, one.storage.epoch) == (True, 1)
        await one.create(*early)
        await one.checkpointer.checkpoint()
        await one.work()
        await one.create(*late)
        await one.checkpointer.checkpoint()
        await one.work()
    assert engine.stream.trimmed_count > 40
    assert (tmp_path / "a" / "groups" / "1" / "stream.json").exists()

    async with node(engine, tmp_path / "b", "b", group=group_at(tmp_path / "b")) as other:
        states = [PromiseState.PENDING, PromiseState.RESOLVED] * 40
        assert await other.states(*early, *late) == states
        assert 60 <= other.recovery.records_count < 80
        (tmp_path / "b").rename(tmp_path / "elsewhere")
        with pytest.raises(DataDirectoryLost):
            other.storage.check()
        (tmp_path / "elsewhere").rename(tmp_path / "b")


async def test_a_cut_is_of_the_moment_in_which_its_rows_were_opened(tmp_path: Path) -> None:
    """What came to be since is in later checkpoints, and the log before it is still there."""
    engine = engine_of()
    async with node(engine, tmp_path / "a", group=group_at(tmp_path / "a")) as one:
        storage = one.storage
        await one.create(*names(20))
        await one.checkpointer.checkpoint()
        await one.work(takes_snapshot=True)
        release = storage.hold_log()
        view = storage.open_rows()
        await one.create(*names(20, "q"))
        until_sequence = storage.next_sequence - 1
        await one.create(*names(20, "r"))
        await one.checkpointer.checkpoint()
        await one.work(takes_snapshot=True)
        cut = storage.open_cut(5, (view, until_sequence))
        sequences = [
            first + place for first, records in cut.batches for place in range(len(records))
        ]
        assert sequences == [*range(cut.header.rows_position + 1, until_sequence + 1)]
        assert len(sequences) >= 30
        cut.close()
        release()
        assert storage.held_number is None


async def test_records_of_another_groups_shards_are_refused(tmp_path: Path) -> None:
    engine = engine_of()
    async with node(engine, tmp_path / "a", group=group_at(tmp_path / "a")) as one:
        await one.create(*names(3))
    with pytest.raises(StreamDamaged, match=r"is of shard [23]"):
        async with node(engine, tmp_path / "b", group=group_at(tmp_path / "b", 2)):
            pytest.fail("it serves what is not its own")


def test_a_cluster_is_not_served_without_its_name_nor_by_another(tmp_path: Path) -> None:
    engine = engine_of()
    with pytest.raises(DataDirectoryError, match="has a cluster of 3 groups"):
        engine.open(tmp_path / "a", shard_count=None)
    other = engine_of(replace(IDENTITY, data_id=b"e" * 16))
    with pytest.raises(DataDirectoryError, match="is not of this cluster"):
        other.open(tmp_path / "b", group=group_at(tmp_path / "b"))


async def test_who_may_not_claim_stands_by_though_there_is_no_owner(tmp_path: Path) -> None:
    """The node that owns group 0 is to have the others too."""
    engine, may_claim = engine_of(), threading.Event()
    group = replace(group_at(tmp_path / "a"), may_claim=may_claim.is_set)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            owns = trio.Event()

            async def run() -> None:
                async with node(engine, tmp_path / "a", group=group) as one:
                    owns.set()
                    assert one.storage.epoch == 1

            nursery.start_soon(run)
            await trio.sleep(0.5)
            assert not owns.is_set()
            assert engine.stream.frames == []
            may_claim.set()
            await owns.wait()
