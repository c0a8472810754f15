"""Storage on a stream: snapshots, trimming, and starts from what is left."""

import re
import shutil
import time
from pathlib import Path

import pytest
import trio

from tests.twins.simulated_stream import SimulatedEngine
from troth.core.limits import STREAM_READER_GONE_MS
from troth.core.model import PromiseState
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshots import write_file
from troth.persistence.streams import ownership
from troth.persistence.streams.chain import StreamDamaged
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.clock import SystemClock
from troth.shards.errors import OutOfReach
from troth.shards.storage import DirectoryStorage, FollowedStorage
from troth.shards.streams import following
from troth.shards.streams.stream_snapshots import SnapshotUnusable
from troth.shards.streams.times import MACHINE_TIMES, Times

from .stream_world import Engine, Standby, node

PENDING, RESOLVED = PromiseState.PENDING, PromiseState.RESOLVED
EARLY = [f"early-{number}" for number in range(40)]
LATE = [f"late-{number}" for number in range(40)]
BOTH = [*EARLY, *LATE]
STATES = [PENDING, RESOLVED] * 40


async def _filled(engine: Engine, directory: Path) -> None:
    """Write 120 records, with a snapshot and trimming after the first 60 of them."""
    async with node(engine, directory) as one:
        await one.create(*EARLY)
        await one.checkpointer.checkpoint()
        await one.work()
        await one.create(*LATE)
        await one.checkpointer.checkpoint()
        await one.work()  # the snapshot stays as it is


async def test_an_empty_directory_begins_with_a_snapshot_and_the_tail(tmp_path: Path) -> None:
    engine = Engine()
    await _filled(engine, tmp_path / "a")
    assert engine.stream.trimmed_count > 40

    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*BOTH) == STATES
        assert 60 <= other.recovery.records_count < 80
        await other.create("after")
    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*BOTH, "after") == [*STATES, PENDING]
    assert not (tmp_path / "b" / "snapshot.fetched").exists()


async def test_a_directory_whose_frames_are_gone_begins_with_a_snapshot(tmp_path: Path) -> None:
    """A node that was away for longer than an hour is a new one."""
    engine = Engine()
    async with node(engine, tmp_path / "b", "b") as other:
        await other.create("first")
        await other.checkpointer.checkpoint()
    engine.keeping.now_ms += STREAM_READER_GONE_MS
    await _filled(engine, tmp_path / "a")
    assert engine.stream.trimmed_count > 40

    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states("first", *BOTH) == [PENDING, *STATES]


async def test_nothing_is_trimmed_that_another_node_has_not_read(tmp_path: Path) -> None:
    engine = Engine()
    async with node(engine, tmp_path / "b", "b") as other:
        await other.create("first")
        await other.checkpointer.checkpoint()
    noted, _ = engine.keeping.readers["b"]
    await _filled(engine, tmp_path / "a")

    assert engine.stream.trimmed_count < max(noted, 1)
    engine.keeping.newest = None
    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states("first", *BOTH) == [PENDING, *STATES]


async def test_nothing_is_trimmed_before_there_is_a_snapshot_that_was_read_back(
    tmp_path: Path,
) -> None:
    engine = Engine()
    engine.keeping.fails_at = 0
    async with node(engine, tmp_path / "a") as one:
        await one.create(*EARLY)
        await one.checkpointer.checkpoint()
        with pytest.raises(StreamUnreachable):
            await one.work()
        assert engine.keeping.newest is None
        assert engine.stream.trimmed_count == 0

        engine.keeping.fails_at = None
        piece = engine.keeping.piece
        engine.keeping.piece = lambda *place: (piece(*place) or b"") + b"!"  # type: ignore[method-assign]
        with pytest.raises(SnapshotUnusable, match="differs from what was written"):
            await one.work()
        assert engine.keeping.newest is None
        assert engine.stream.trimmed_count == 0

        engine.keeping.piece = piece  # type: ignore[method-assign]
        await one.work()
        assert engine.stream.trimmed_count > 0


async def test_a_snapshot_that_failed_leaves_the_one_before(tmp_path: Path) -> None:
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        await one.create(*EARLY)
        await one.checkpointer.checkpoint()
        await one.work()
        newest = engine.keeping.newest
        await one.create(*LATE)
        await one.checkpointer.checkpoint()
        engine.keeping.fails_at = 0
        with pytest.raises(StreamUnreachable):
            await one.work(takes_snapshot=True)
        assert engine.keeping.newest == newest

    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*BOTH) == STATES


async def test_an_idle_server_takes_no_snapshots_and_trims_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is alive twice a second, which is 170,000 frames a day."""
    monkeypatch.setattr(ownership, "STREAM_ALIVE_MS", 5)
    engine = Engine()
    async with node(engine, tmp_path / "a", snapshot_interval_ms=0) as one:
        await one.create(*EARLY[:10])
        await one.checkpointer.checkpoint()
        for _ in range(3):
            await one.work()  # until the snapshot has all records
        first, trimmed_count = engine.keeping.newest, engine.stream.trimmed_count
        number = one.storage._log.number
        for _ in range(6000):
            if one.storage._log.number >= number + 70:
                break  # the writer's thread has said so
            await trio.sleep(0.01)
        await one.work()
        second = engine.keeping.newest

    assert first is not None
    assert second is not None
    assert second.identifier == first.identifier
    assert second.mark.number > first.mark.number
    assert engine.stream.trimmed_count > trimmed_count
    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*EARLY[:10]) == STATES[:10]


async def test_a_snapshot_is_due_when_much_was_appended(tmp_path: Path) -> None:
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        one.upkeep._snapshot_log_bytes = 5_000
        for names, is_new in ((EARLY, True), (["a"], False), (LATE, True)):
            before = engine.keeping.newest
            await one.create(*names)
            await one.checkpointer.checkpoint()
            await one.work()
            after = engine.keeping.newest
            assert after is not None
            assert (before is None or before.identifier != after.identifier) is is_new, names


async def test_a_snapshot_in_a_file_is_taken_and_restored_elsewhere(tmp_path: Path) -> None:
    """What is in the engine is not a prison: a data directory is made of it."""
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        await one.create(*EARLY)
        await one.checkpointer.checkpoint()
        await one.create(*LATE)
        release = one.storage.hold_log()
        cut = one.storage.open_cut(1_700_000_000_000)
        held_number = one.storage.held_number
        await one.checkpointer.checkpoint()
        await one.work()
        assert held_number is not None
        assert engine.stream.trimmed_count < held_number
        write_file(cut.encoded(), tmp_path / "file.snapshot")
        cut.close()
        release()
        assert one.storage.held_number is None
        await one.work()
        assert engine.stream.trimmed_count >= held_number

    restored = restore(tmp_path / "file.snapshot", tmp_path / "data", until=Until())
    assert restored.records_count == 60
    storage = DirectoryStorage(tmp_path / "data")
    assert [record for _, record in storage.records()]
    storage.close()


async def test_a_stream_without_beginning_and_without_snapshot_is_refused(tmp_path: Path) -> None:
    engine = Engine()
    await _filled(engine, tmp_path / "a")
    engine.keeping.newest = None

    with pytest.raises(StreamDamaged, match="what was before it is not there"):
        engine.open(tmp_path / "b")


async def test_a_snapshot_of_other_data_is_refused(tmp_path: Path) -> None:
    engine, other = Engine(), Engine()
    await _filled(engine, tmp_path / "a")
    await _filled(other, tmp_path / "b")
    engine.keeping.newest, engine.keeping.places = other.keeping.newest, other.keeping.places

    with pytest.raises(StreamDamaged, match="of other data"):
        engine.open(tmp_path / "c")


async def test_a_start_that_was_killed_with_half_a_snapshot_begins_again(tmp_path: Path) -> None:
    engine = Engine()
    await _filled(engine, tmp_path / "a")
    async with node(engine, tmp_path / "b", "b"):
        pass
    (tmp_path / "b" / "stream.json").unlink()  # as if it had been killed before it was written
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "b" / "checkpoints.new")

    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*BOTH) == STATES


async def test_a_node_that_stands_by_makes_checkpoints_and_takes_over_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STREAM_UPKEEP_MS", 0)
    engine = Engine()
    async with trio.open_nursery() as nursery:
        async with node(engine, tmp_path / "a") as owner:
            standing_by = Standby(engine, tmp_path / "b")
            nursery.start_soon(standing_by.run)
            await owner.create(*EARLY)
            await standing_by.until_noted(40)
            await owner.create(*LATE)
            seen = owner.storage.stream_statistics()
            assert (seen.is_owner, seen.is_standing_by, seen.epoch) == (True, False, 1)
            assert seen.number > 120
            its = await standing_by.has_read(seen.number)
            assert (its.is_owner, its.is_standing_by, its.epoch) == (False, True, 1)
            assert its.silence_ms < 60_000
            await standing_by.until_said()
            await owner.checkpointer.checkpoint()
            await owner.work()
            assert engine.stream.trimmed_count > 40, "what it has read is trimmed"
        with trio.fail_after(60):
            await standing_by.owns.wait()
        assert await standing_by.node.states(*BOTH) == STATES
        assert standing_by.node.recovery.records_count == 120
        memory = [shard.machine.state for shard in standing_by.node.shards._shards]
        assert sum(len(state.promises) for state in memory) < 60, "what is finished left memory"
        await standing_by.node.create("after")
        standing_by.is_over.set()

    async with node(engine, tmp_path / "b", "b") as other:
        assert await other.states(*BOTH, "after") == [*STATES, PENDING]
        assert other.recovery.records_count < 64
        assert isinstance(other.storage, FollowedStorage)
        assert time.time() * 1000 - 60_000 < other.storage.time_ms <= time.time() * 1000


async def test_a_node_that_has_not_read_what_there_is_does_not_say_that_it_stands_by(
    tmp_path: Path,
) -> None:
    """Groups were moved to it, and had no owner until it had read them or another came first."""
    engine = Engine()
    for name in ("b", "c"):  # the second begins with a snapshot
        async with node(engine, tmp_path / "a") as owner:
            await owner.create(*EARLY)
            await owner.checkpointer.checkpoint()
            storage = await trio.to_thread.run_sync(engine.open, tmp_path / name, name)
            assert name in engine.keeping.starting
            storage.close()
            await owner.work(takes_snapshot=True)
            assert "a" not in engine.keeping.starting


async def test_a_snapshot_that_the_engine_does_not_take_now_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    """It is no defect: the owner of another group was told so, and answered 500."""
    engine = Engine()
    async with node(engine, tmp_path / "a") as owner:
        await owner.create(*EARLY)
        await owner.checkpointer.checkpoint()
        engine.keeping.fails_at = 0
        with pytest.raises(OutOfReach):
            await owner.upkeep.take_now()
        engine.keeping.fails_at = None
        assert await owner.upkeep.take_now() is not None


async def test_clocks_that_differ_are_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ownership, "STREAM_ALIVE_MS", 5)
    engine = Engine(times=Times(now_ms=lambda: MACHINE_TIMES.now_ms() + 5_000))
    async with trio.open_nursery() as nursery:
        async with node(engine, tmp_path / "a"):
            standing_by = Standby(engine, tmp_path / "b")
            engine.times = MACHINE_TIMES
            nursery.start_soon(standing_by.run)
            said = ""
            with trio.fail_after(60):
                while "clocks of this server" not in said:
                    await trio.sleep(0.01)
                    said += capsys.readouterr().out
        with trio.fail_after(60):
            await standing_by.owns.wait()
        standing_by.is_over.set()

    skews = re.findall(r"skew_ms=(\d+)", said + capsys.readouterr().out)
    assert len(skews) == 1
    assert 4_000 < int(skews[0]) <= 5_000


async def test_time_goes_on_at_a_takeover_from_what_other_groups_were_told(tmp_path: Path) -> None:
    engine = Engine()
    told_ms = MACHINE_TIMES.now_ms() + 3_600_000
    async with node(engine, tmp_path / "a") as first:
        first.storage.tell_time(lambda: told_ms)
        await first.create("one")

    async with node(engine, tmp_path / "b", "b") as second:
        assert second.storage.time_ms == told_ms


def test_time_stands_still_where_the_last_owner_was_ahead() -> None:
    clock = SystemClock(lambda: 100_000, lambda: 5)
    clock.continue_after(104_000)
    assert (clock.now_ms(), clock.jumps_count) == (104_000, 0)

    clock.continue_after(160_000)
    assert clock.now_ms() == 100_000, "as a clock that is set back by much"
    assert (clock.jumps_count, clock.set_backs_count) == (1, 1)


def test_what_a_simulated_engine_trims_is_gone() -> None:
    engine = SimulatedEngine()
    keeping = Engine(engine).keeping
    assert keeping.trim(5, 0) == 4
    assert keeping.trim(3, 0) == 0
