"""Snapshots of running shards, by request and by schedule, the archive, and what restores."""

import errno
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from troth.core.grammar.cron import parse
from troth.persistence.data_directory import CHECKPOINTS_NAME
from troth.persistence.files import RealFiles
from troth.persistence.inspection.log_tools import LogReader
from troth.persistence.snapshots.archive import Archive
from troth.persistence.snapshots.last_taken import last_taken_ms, note_taken
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshot_file import SnapshotError
from troth.persistence.snapshots.snapshots import inspect, list_directory, verify
from troth.persistence.wal.frames import SEGMENT_HEADER_BYTES
from troth.persistence.wal.segments import Segment
from troth.shards.clock import SystemClock
from troth.shards.upkeep import snapshotter
from troth.shards.upkeep.snapshotter import (
    OPEN_LIMIT_COUNT,
    OpenSnapshot,
    TooManySnapshots,
)

from .snapshot_world import World, state_of, world


async def fill(server: World, first: int, count: int) -> None:
    """Create promises, and resolve every second one."""
    for number in range(first, first + count):
        await server.create(f"p{number}")
        if number % 2:
            await server.resolve(f"p{number}")


def ids(path: Path) -> set[str]:
    return {name.removeprefix("promise ") for name in state_of(path)}


def named(count: int) -> set[str]:
    return {f"p{number}" for number in range(count)}


async def test_a_snapshot_restores_to_what_was_there_at_its_moment(tmp_path: Path) -> None:
    async with world(tmp_path / "data") as server:
        await fill(server, 0, 20)
        await server.checkpointer.checkpoint()
        await fill(server, 20, 10)
        await server.snapshot(tmp_path / "a.snapshot")
        await fill(server, 30, 10)

    verified = verify(tmp_path / "a.snapshot")
    restored = restore(tmp_path / "a.snapshot", tmp_path / "new", until=Until())

    assert verified.header is not None
    assert restored.until_sequence == verified.header.until_sequence == 45
    everything = state_of(tmp_path / "data")
    assert state_of(tmp_path / "new") == {
        name: found
        for name, found in everything.items()
        if name.removeprefix("promise ") in named(30)
    }


async def test_a_restored_directory_goes_on_and_is_another_history(tmp_path: Path) -> None:
    async with world(tmp_path / "data") as server:
        await fill(server, 0, 5)
        await server.snapshot(tmp_path / "a.snapshot")
        secret = server.storage.secret
    restored = restore(tmp_path / "a.snapshot", tmp_path / "new", until=Until())
    async with world(tmp_path / "new") as server:
        assert server.storage.secret == secret
        await fill(server, 5, 5)
        await server.snapshot(tmp_path / "b.snapshot")

    assert ids(tmp_path / "new") == named(10)
    header = inspect(tmp_path / "b.snapshot").header
    assert header is not None
    assert header.data_id == restored.data_id
    assert header.data_id != LogReader(RealFiles(), tmp_path / "data").identity.data_id.hex()


async def test_a_snapshot_under_load_shows_a_prefix_of_what_each_client_did(tmp_path: Path) -> None:
    """Each client knows how many steps were acknowledged when snapshots began, and asked for when
    they were cut."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choices = random.Random(seed)
    clients_count, steps = 8, [0] * 8
    bounds: list[tuple[list[int], list[int]]] = []
    async with world(tmp_path / "data") as server, trio.open_nursery() as nursery:

        async def client(number: int) -> None:
            while True:
                await server.create(f"c{number}-{steps[number]}")
                steps[number] += 1

        for number in range(clients_count):
            nursery.start_soon(client, number)
        for number in range(4):
            while sum(steps) < 400 * (number + 1):
                await trio.lowlevel.checkpoint()
            if choices.random() < 0.5:
                await server.checkpointer.checkpoint()
            before = list(steps)
            snapshot = await server.snapshotter.open()
            after = list(steps)
            with (tmp_path / f"{number}.snapshot").open("wb") as file:
                while (piece := await snapshot.next_piece()) is not None:
                    file.write(piece)
                    if choices.random() < 0.3:
                        await server.checkpointer.checkpoint()  # trims the log, as far as it may
            snapshot.close()
            bounds.append((before, after))
        nursery.cancel_scope.cancel()

    for number, (before, after) in enumerate(bounds):
        restore(tmp_path / f"{number}.snapshot", tmp_path / f"data{number}", until=Until())
        found = ids(tmp_path / f"data{number}")
        for name in range(clients_count):
            shown = sum(promise.startswith(f"c{name}-") for promise in found)
            assert {f"c{name}-{step}" for step in range(shown)} <= found, "a prefix, with no gap"
            assert before[name] <= shown <= after[name] + 1, "one more may have been under way"


async def test_the_log_is_kept_as_long_as_a_snapshot_reads_it(tmp_path: Path) -> None:
    async with world(tmp_path / "data") as server:
        await fill(server, 0, 5)
        snapshot = await server.snapshotter.open()
        await fill(server, 5, 100)
        await server.checkpointer.checkpoint()
        held_count = server.storage.statistics().segments_count
        assert held_count > 1
        (tmp_path / "a.snapshot").write_bytes(b"".join(snapshot.pieces()))
        snapshot.close()
        snapshot.close()
        await server.checkpointer.checkpoint()
        assert server.storage.statistics().segments_count == 1

    restore(tmp_path / "a.snapshot", tmp_path / "new", until=Until())
    assert ids(tmp_path / "new") == named(5)


async def test_the_last_snapshot_is_known_after_a_restart_whoever_asked_for_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path / "data") as server:
        assert server.snapshotter.statistics().last_at_ms == 0
        await fill(server, 0, 3)
        opened = await server.snapshotter.open()
        await opened.next_piece()
        opened.close()
        # It was given up half-way: no snapshot was taken.
        assert server.snapshotter.statistics().last_at_ms == 0
        opened = await server.snapshotter.open()
        while await opened.next_piece() is not None:
            assert server.snapshotter.statistics().last_at_ms == 0
        opened.close()
        taken_ms = server.snapshotter.statistics().last_at_ms
        assert taken_ms > 0
    async with world(tmp_path / "data") as server:
        assert server.snapshotter.statistics().last_at_ms == taken_ms


@pytest.mark.parametrize("noted", ["", "{}", '{"at_ms": "1"}', "[1]", "null"])
def test_a_time_that_cannot_be_read_is_not_known(noted: str, tmp_path: Path) -> None:
    note_taken(tmp_path, 5)
    assert last_taken_ms(tmp_path) == 5
    (tmp_path / "last-snapshot.json").write_text(noted)

    assert last_taken_ms(tmp_path) == 0


async def test_only_so_many_snapshots_are_taken_at_a_time(tmp_path: Path) -> None:
    async with world(tmp_path / "data") as server:
        opened = [await server.snapshotter.open() for _ in range(OPEN_LIMIT_COUNT)]
        with pytest.raises(TooManySnapshots):
            await server.snapshotter.open()
        assert server.snapshotter.statistics().open_count == OPEN_LIMIT_COUNT
        opened.pop().close()
        opened.append(await server.snapshotter.open())
        for snapshot in opened:
            snapshot.close()
        assert server.snapshotter.statistics().open_count == 0


@pytest.mark.slow
async def test_scheduled_snapshots_are_written_and_old_ones_removed(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    (backups / "mine.snapshot").write_bytes(b"not Troth's")
    (backups / "troth-20200101T000000Z-000000000001.snapshot.partial").write_bytes(b"left over")
    async with world(
        tmp_path / "data", directory=backups, schedule=parse("@every 1s"), keep_count=2
    ) as server:
        with trio.fail_after(60):
            while server.snapshotter.statistics().scheduled_total_count < 3:
                await server.create(f"p{server.snapshotter.statistics().taken_total_count}")
                await trio.sleep(0.05)
    statistics = server.snapshotter.statistics()

    assert statistics.removed_total_count == statistics.scheduled_total_count - 2
    assert statistics.failures_total_count == 0
    found = list_directory(backups)
    assert [file.problem is None for file in found].count(True) == 2
    assert sorted(os.listdir(backups))[0] == "mine.snapshot"
    assert len(os.listdir(backups)) == 3
    for file in found[1:]:
        assert verify(file.path).header == file.header


async def test_a_scheduled_snapshot_that_fails_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    async with world(
        tmp_path / "data", directory=tmp_path / "file" / "x", schedule=parse("@every 1s")
    ) as server:
        with trio.fail_after(60):
            while server.snapshotter.statistics().failures_total_count < 1:
                await server.create(f"p{server.shards.committer.position}")
                await trio.sleep(0.05)
        assert server.snapshotter.statistics().open_count == 0


async def test_a_server_that_stops_does_not_wait_for_a_scheduled_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def endless(_: OpenSnapshot) -> Iterator[bytes]:
        while True:
            begun.set()
            yield b"x"

    monkeypatch.setattr(OpenSnapshot, "pieces", endless)
    with trio.fail_after(60):
        async with world(
            tmp_path / "data", directory=tmp_path / "backups", schedule=parse("@every 1s")
        ) as server:
            await trio.to_thread.run_sync(begun.wait)
            await server.create("p0")

    assert os.listdir(tmp_path / "backups") == []


async def test_archived_segments_carry_a_snapshot_on_to_any_moment(tmp_path: Path) -> None:
    async with world(tmp_path / "data", archive=tmp_path / "archive") as server:
        await fill(server, 0, 10)
        await server.snapshot(tmp_path / "a.snapshot")
        for start in range(10, 130, 20):
            await fill(server, start, 20)
            await server.checkpointer.checkpoint()  # gives up segments, which must be archived
        assert server.storage.statistics().segments_count == 1
    everything = state_of(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")

    whole = restore(
        tmp_path / "a.snapshot", tmp_path / "whole", until=Until(), archives=[tmp_path / "archive"]
    )
    part = restore(
        tmp_path / "a.snapshot",
        tmp_path / "part",
        until=Until(sequence=15 + 30),
        archives=[tmp_path / "archive"],
    )

    assert state_of(tmp_path / "whole") == everything
    assert whole.until_sequence == 15 + 180
    assert not whole.stopped_early
    assert part.stopped_early
    assert ids(tmp_path / "part") == named(30)
    with pytest.raises(SnapshotError, match="195, and 900 was asked for"):
        restore(
            tmp_path / "a.snapshot",
            tmp_path / "beyond",
            until=Until(sequence=900),
            archives=[tmp_path / "archive"],
        )
    assert not (tmp_path / "beyond").exists()


async def test_a_snapshot_and_an_archive_go_to_a_time(tmp_path: Path) -> None:
    async with world(tmp_path / "data", archive=tmp_path / "archive") as server:
        await fill(server, 0, 10)
        await server.snapshot(tmp_path / "a.snapshot")
        snapshot_ms = server.shards.clock.now_ms()
        await trio.sleep(0.01)
        await fill(server, 10, 10)
        wanted_ms = server.shards.clock.now_ms()
        await trio.sleep(0.01)
        await fill(server, 20, 10)

    restored = restore(
        tmp_path / "a.snapshot",
        tmp_path / "new",
        until=Until(time_ms=wanted_ms),
        archives=[tmp_path / "archive"],
    )

    assert ids(tmp_path / "new") == named(20)
    assert restored.time_ms is not None
    assert snapshot_ms < restored.time_ms <= wanted_ms
    with pytest.raises(SnapshotError, match="shows nothing before"):
        restore(tmp_path / "a.snapshot", tmp_path / "x", until=Until(time_ms=snapshot_ms - 60_000))
    with pytest.raises(SnapshotError, match="shows nothing before record 15"):
        restore(tmp_path / "a.snapshot", tmp_path / "x", until=Until(sequence=14))
    with pytest.raises(SnapshotError, match="with --archive"):
        restore(tmp_path / "a.snapshot", tmp_path / "x", until=Until(sequence=16))


async def test_the_surviving_log_of_a_lost_store_carries_a_snapshot_on(tmp_path: Path) -> None:
    async with world(tmp_path / "data") as server:
        await fill(server, 0, 10)
        await server.snapshot(tmp_path / "a.snapshot")
        await fill(server, 10, 10)
    everything = state_of(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / CHECKPOINTS_NAME)

    restore(tmp_path / "a.snapshot", tmp_path / "new", until=Until(), archives=[tmp_path / "data"])

    assert state_of(tmp_path / "new") == everything


async def test_the_archive_of_another_history_or_with_a_gap_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path / "data", archive=tmp_path / "archive") as server:
        await fill(server, 0, 5)
        await server.snapshot(tmp_path / "a.snapshot")
        await fill(server, 5, 150)
    async with world(tmp_path / "other", archive=tmp_path / "others") as server:
        await fill(server, 0, 50)
    (archived,) = (tmp_path / "archive").iterdir()
    names = sorted(os.listdir(archived))
    assert len(names) > 3

    with pytest.raises(SnapshotError, match="holds no log of the data"):
        restore(
            tmp_path / "a.snapshot", tmp_path / "x", until=Until(), archives=[tmp_path / "others"]
        )
    (archived / names[2]).rename(tmp_path / "aside")
    with pytest.raises(SnapshotError, match="are missing"):
        restore(
            tmp_path / "a.snapshot", tmp_path / "x", until=Until(), archives=[tmp_path / "archive"]
        )
    (archived / names[0]).unlink()
    with pytest.raises(SnapshotError, match="are missing there"):
        restore(
            tmp_path / "a.snapshot", tmp_path / "x", until=Until(), archives=[tmp_path / "archive"]
        )
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.restoring").exists()


async def test_a_log_that_cannot_be_archived_is_kept(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("no directory")
    async with world(tmp_path / "data", archive=tmp_path / "archive") as server:
        await fill(server, 0, 100)
        await server.checkpointer.checkpoint()
        kept_count = server.storage.statistics().segments_count
        assert kept_count > 2
        statistics = server.storage.archive_statistics()
        assert statistics is not None
        assert statistics.failing
        (tmp_path / "archive").unlink()
        await server.checkpointer.checkpoint()
        assert server.storage.statistics().segments_count == 1
        statistics = server.storage.archive_statistics()
        assert statistics is not None
        assert not statistics.failing
        assert statistics.archived_total_count == kept_count - 1


def test_copies_are_removed_when_they_are_old_and_never_overwritten(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / f"{1:020d}.log").write_bytes(b"a" * 100)
    (log / f"{9:020d}.log").write_bytes(b"b" * 100 + b"\0" * 50)
    archive = Archive(tmp_path / "archive", b"i" * 16, 1000)
    segments = [Segment(1, 100), Segment(9, 100)]
    assert archive.store(str(log), segments) is None
    assert all(map(archive.has, segments))
    os.utime(archive.path / f"{1:020d}.log", (1.0, 1.0))
    os.utime(archive.path / f"{9:020d}.log", (5.0, 5.0))
    archive.remove_old(5500)
    assert os.listdir(archive.path) == [f"{9:020d}.log"]
    # The same name with another content: a log that was repaired and went on.
    (log / f"{9:020d}.log").write_bytes(b"c" * 100)
    again = Archive(tmp_path / "archive", b"i" * 16, 1000)
    assert again.store(str(log), [Segment(9, 100)]) is None
    assert (again.path / f"{9:020d}.log").read_bytes() == b"c" * 100
    assert (again.path / f"{9:020d}.log.superseded-1").read_bytes() == b"b" * 100
    # And once more: what was set aside stays too.
    (log / f"{9:020d}.log").write_bytes(b"d" * 100)
    third = Archive(tmp_path / "archive", b"i" * 16, 1000)
    assert third.store(str(log), [Segment(9, 100)]) is None
    assert (third.path / f"{9:020d}.log.superseded-1").read_bytes() == b"b" * 100
    assert (third.path / f"{9:020d}.log.superseded-2").read_bytes() == b"c" * 100


def test_each_group_has_an_archive_of_its_own(tmp_path: Path) -> None:
    """In one directory; what is there already is not copied again, and empty files never are."""
    log = tmp_path / "log"
    log.mkdir()
    for group in range(2):
        (log / f"{1:020d}.log").write_bytes(f"of group {group}".encode() * 20)
        archive = Archive(tmp_path / "archive", b"i" * 16, 1000, group)
        segments = [Segment(1, 200), Segment(9, SEGMENT_HEADER_BYTES)]
        assert archive.store(str(log), segments) is None
        assert all(map(archive.has, segments))
        again = Archive(tmp_path / "archive", b"i" * 16, 1000, group)
        assert again.store(str(log), segments) is None
        assert again.statistics().archived_total_count == 0
        assert all(map(again.has, segments))
        (copy,) = again.path.iterdir()
        assert copy.read_bytes().startswith(f"of group {group}".encode())
    assert archive.path.parent == tmp_path / "archive" / (b"i" * 16).hex()
    again.remove_old(2**60)
    assert list(again.path.iterdir()) == []
    assert again.statistics().removed_total_count == 1


def test_a_copy_that_cannot_be_finished_leaves_nothing_and_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / f"{1:020d}.log").write_bytes(b"a" * 100)
    (log / f"{9:020d}.log").write_bytes(b"b" * 100)
    archive = Archive(tmp_path / "archive", b"i" * 16, 1000)
    assert archive.store(str(log), [Segment(1, 100)]) is None

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        error = archive.store(str(log), [Segment(1, 100), Segment(9, 100)])
    assert error is not None
    assert not archive.has(Segment(9, 100))
    assert archive.statistics().failing
    assert os.listdir(archive.path) == [f"{1:020d}.log"]

    assert archive.store(str(log), [Segment(1, 100), Segment(9, 100)]) is None
    assert archive.has(Segment(9, 100))
    assert not archive.statistics().failing
    assert archive.statistics().failures_total_count == 1
    assert (archive.path / f"{9:020d}.log").read_bytes() == b"b" * 100


async def test_that_the_log_cannot_be_archived_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server goes on, tries again, and does not fill its own log with it."""
    monkeypatch.setattr(snapshotter, "ARCHIVE_INTERVAL_MS", 0)
    tried_five_times = trio.Event()
    tries_count = 0

    class FailingStorage:
        def archive_statistics(self) -> object:
            return object()

        def last_snapshot_at_ms(self) -> int:
            return 0

        def archive(self, _now_ms: int) -> None:
            nonlocal tries_count
            tries_count += 1
            if tries_count == 5:
                trio.from_thread.run_sync(tried_five_times.set)
            elif tries_count != 3:
                raise OSError(errno.EROFS, "read-only file system")

    async def nothing() -> None:
        raise AssertionError("nobody has asked for a checkpoint")

    archiving = snapshotter.Snapshotter(
        FailingStorage(),  # type: ignore[arg-type]  # all that is used here
        nothing,
        SystemClock(),
        directory=None,
        schedule=None,
        keep_count=1,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archiving.run)
        await tried_five_times.wait()
        nursery.cancel_scope.cancel()

    assert capsys.readouterr().out.count("cannot be archived") == 2  # good in between


async def test_snapshots_are_listed_and_written_on_demand(tmp_path: Path) -> None:
    """As if they were scheduled: the directory is made with the first, and old ones go."""
    async with world(tmp_path / "data", directory=tmp_path / "backups", keep_count=1) as server:
        assert await server.snapshotter.listed() == []
        await fill(server, 0, 3)
        written = await server.snapshotter.write_now()
        assert written is not None
        assert await server.snapshotter.listed() == [written]
        await fill(server, 3, 1)
        newer = await server.snapshotter.write_now()
        assert newer is not None
        listed = await server.snapshotter.listed()
        assert listed is not None
        assert newer in listed
        assert server.snapshotter.statistics().open_count == 0
    assert verify(newer.path).header == newer.header
