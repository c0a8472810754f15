"""Snapshots of a server of several processes, as one of them takes them: counted and on time."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from troth.core.grammar.cron import parse
from troth.shards.clock import SteadyClock
from troth.shards.errors import OutOfReach
from troth.shards.upkeep import snapshotter
from troth.shards.upkeep.snapshotter import ReadableSnapshot

from .stage import EPOCH_MS


class SetClock(SteadyClock):
    """A clock that a test sets."""

    def __init__(self, now_ms: int) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms


class NoStorage:
    """What is needed of a storage by snapshots of several groups."""

    def __init__(self) -> None:
        self.noted: list[int] = []

    def archive_statistics(self) -> None:
        return None

    def last_snapshot_at_ms(self) -> int:
        return 0

    def note_snapshot(self, at_ms: int) -> None:
        self.noted.append(at_ms)


class Cuts:
    """Snapshots of several groups that fail as a test says."""

    def __init__(self, *errors: Exception) -> None:
        self.checkpoint: Callable[[], Awaitable[None]] | None = None
        self.errors = list(errors)
        self.taken_at: list[float] = []

    async def open(
        self, now_ms: Callable[[], int], on_whole: Callable[[], None], release: Callable[[], None]
    ) -> ReadableSnapshot:
        self.taken_at.append(now_ms())
        assert self.checkpoint is not None
        await self.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        on_whole()
        release()
        return cast(ReadableSnapshot, object())


def snapshotter_of_all(
    cuts: Cuts, clock: SetClock, **wanted: Any
) -> tuple[snapshotter.Snapshotter, list[int]]:
    """What takes snapshots of several groups, and the checkpoints that it makes."""
    checkpoints: list[int] = []

    async def checkpoint() -> None:
        await trio.lowlevel.checkpoint()
        checkpoints.append(clock.now_ms())

    chosen = {"directory": None, "schedule": None, "keep_count": 1} | wanted
    made = snapshotter.Snapshotter(
        NoStorage(),  # type: ignore[arg-type]  # all that is used here
        checkpoint,
        clock,
        of_all=cuts,
        **chosen,
    )
    return made, checkpoints


async def test_a_snapshot_of_all_groups_counts_when_it_has_begun_and_keeps_no_place() -> None:
    """Each begins with a checkpoint here; one that a process is away for was none."""
    cuts = Cuts(OutOfReach())
    taking, checkpoints = snapshotter_of_all(cuts, SetClock(EPOCH_MS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.run)
        with pytest.raises(OutOfReach):
            await taking.open()
        for _ in range(3):
            await taking.open()
        nursery.cancel_scope.cancel()
    statistics = taking.statistics()
    assert (statistics.taken_total_count, statistics.open_count) == (3, 0)
    assert statistics.last_at_ms == EPOCH_MS
    assert len(checkpoints) == 4
    assert await taking.listed() is None
    assert await taking.write_now() is None


async def test_a_schedule_is_kept_when_the_clock_is_set_back(
    autojump_clock: trio.testing.MockClock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A day that was wrong does not put the next snapshot off by a day."""
    day_ms = 86_400_000
    clock = SetClock(EPOCH_MS + day_ms)
    cuts = Cuts(OutOfReach())
    taking, _ = snapshotter_of_all(cuts, clock, directory=tmp_path, schedule=parse("@every 2h"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.run)
        await trio.testing.wait_all_tasks_blocked()
        clock.time_ms = EPOCH_MS
        for _ in range(3):
            await trio.sleep(3_600)
            clock.time_ms += 3_600_000
        await trio.sleep(3_700)
        nursery.cancel_scope.cancel()
    assert len(cuts.taken_at) == 1
    assert cuts.taken_at[0] < EPOCH_MS + 4 * 3_600_000
    assert taking.statistics().failures_total_count == 1
    assert "a process of the server is away" in capsys.readouterr().out
