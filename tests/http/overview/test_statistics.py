"""GET /statistics: what it counts, over a real server and over a fake second."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.server import ServerProcess
from tests.http.client import NOW_MS, running
from troth.core.codes import Code
from troth.http.overview.counting import KINDS, Counting, Sources, quantile
from troth.http.settings.retention import RetentionRules, rule_texts
from troth.http.settings.settings import Settings
from troth.persistence.snapshots.archive import ArchiveStatistics
from troth.persistence.wal.log import LogStatistics
from troth.shards.upkeep.retention import Sweeper

PATIENCE_S = 60.0


def log_of(appends_count: int, records_count: int) -> LogStatistics:
    """The counters of a log."""
    numbers: dict[str, Any] = dict.fromkeys(LogStatistics.__dataclass_fields__, 0)
    return LogStatistics(
        **{**numbers, "appends_count": appends_count, "records_count": records_count}
    )


async def test_a_second_is_the_difference_of_counters(
    autojump_clock: MockClock,
) -> None:
    async with running() as world:
        logs = [log_of(10, 50), log_of(14, 90)]
        sources = Sources(lambda: 7, lambda: logs[min(1, len(taken))], lambda: taken)
        taken: list[float] = []
        counting = Counting(world.api, sources, world.api.series)
        for number in range(4):
            await world.create(f"p{number}")
        await world.send("PATCH", "/promises/p0", {"state": "REJECTED"})
        await world.send("PATCH", "/promises/p0", {"state": "RESOLVED"})
        taken += [0.001, 0.002, 0.003]
        await trio.sleep(2)
        counting.fold()

        found = (await world.send("GET", "/statistics")).json
        last = {one["name"]: one["values"][-1] for one in found["series"]}
        assert set(last) == set(KINDS)
        assert last["promises.pending"] == 3
        assert (last["promises.created"], last["promises.rejected"]) == (2.0, 0.5)
        assert (last["http.requests"], last["http.refusals"]) == (3.0, 0.5)
        assert (last["log.syncP50"], last["log.syncMax"], last["log.batch"]) == (2, 3, 10)
        assert found["counts"]["promises"]["rejected"] == 1
        assert found["firstAt"] == found["startedOn"] == NOW_MS
        assert [len(one["values"]) for one in found["series"]] == [2] * len(KINDS)
        assert found["series"][0]["values"][0] is None
        since = (await world.send("GET", f"/statistics?since={NOW_MS + 1_000}")).json
        assert {len(one["values"]) for one in since["series"]} == {0}


@pytest.mark.parametrize("query", ["resolution=2s", "since=x", "since=-1"])
async def test_wrong_questions_are_refused(query: str) -> None:
    async with running() as world:
        assert (await world.send("GET", f"/statistics?{query}")).code == Code.INVALID


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5.0), (0.99, 10.0), (1.0, 10.0), (0.0, 1.0)])
def test_quantiles(share: float, expected: float) -> None:
    assert quantile([float(number) for number in range(1, 11)], share) == expected


@pytest.mark.slow
def test_a_real_server_counts(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        for number in range(3):
            body = {"id": f"p{number}", "timeout": int(time.time() * 1000) + 3_600_000}
            assert server.request("POST", "/promises", body)[0] == 201
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = cast(Any, server.request("GET", "/statistics")[1])
            values = {one["name"]: one["values"] for one in found["series"]}
            created = sum(value or 0 for value in values["promises.created"])
            if created >= 1 and any(values["log.syncMax"]):
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

        assert found["counts"]["promises"] == {
            "pending": 3,
            "resolved": 0,
            "rejected": 0,
            "canceled": 0,
            "timedout": 0,
        }
        assert values["process.memory"][-1] > 1_000_000
        assert values["log.bytes"][-1] > 0
        upkeep = found["upkeep"]
        assert upkeep["freeBytes"] > 0
        assert (upkeep["archiveFailing"], upkeep["retentionLateMs"]) == (False, 0)


async def test_retention_is_late_after_two_intervals_without_a_sweep() -> None:
    interval_ms = 10_000
    rules = RetentionRules().from_text("all:1d")
    settings = Settings(retain=rules, retention_interval_ms=interval_ms)
    async with running(settings) as world:

        async def late_ms() -> int:
            found = (await world.send("GET", "/statistics")).json
            assert found["upkeep"]["freeBytes"] is None, "this one keeps nothing on disk"
            late: int = found["upkeep"]["retentionLateMs"]
            return late

        sweeper = world.api.sweeper = Sweeper(
            cast(Any, world.api.shards),
            rules,
            rule_texts(rules),
            interval_ms=interval_ms,
            now_ms=world.api.now_ms,
        )
        world.clock.time_ms += 2 * interval_ms
        assert await late_ms() == 0
        world.clock.time_ms += 7_000
        assert await late_ms() == 7_000
        await sweeper.sweep()
        assert await late_ms() == 0
        world.clock.time_ms += 3 * interval_ms
        assert await late_ms() == interval_ms


async def test_an_archive_that_fails_is_told() -> None:
    async with running() as world:
        archive = ArchiveStatistics(3, 900, 0, 1, True, 30)
        snapshotter = SimpleNamespace(statistics=lambda: SimpleNamespace(archive=archive))
        world.api.snapshotter = cast(Any, snapshotter)

        assert (await world.send("GET", "/statistics")).json["upkeep"]["archiveFailing"] is True
