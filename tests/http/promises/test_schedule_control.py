"""Schedules under way: what PATCH, pause, resume, run and preview answer, and who may."""

from typing import Any

import pytest

from tests.http.admin.test_accounts import secret_of
from tests.http.client import NOW_MS, World, running
from troth.core.codes import Code
from troth.http.settings.settings import Settings

HOURLY = {
    "id": "s",
    "cron": "@every 1h",
    "promiseId": "s/{{.timestamp}}",
    "promiseTimeout": 5_000,
    "promiseParam": {"data": "aGk="},
    "promiseTags": {"kind": "report"},
    "tags": {"team": "a"},
    "description": "words",
}
HOUR_MS = 3_600_000
NEVER_MS = -62135596800000


async def made(world: World) -> dict[str, Any]:
    """A schedule that runs hourly."""
    answer = await world.send("POST", "/schedules", HOURLY)
    assert answer.status == 201
    return dict(answer.json)


async def pass_time(world: World, ms: int) -> None:
    """Let time pass, and the schedule's shard look at it."""
    world.clock.time_ms += ms
    for _ in range(4):
        await world.send("GET", "/schedules/s")


async def promise_ids(world: World) -> set[str]:
    """The ids of all promises."""
    answer = await world.send("GET", "/promises?id=*&limit=100")
    return {one["id"] for one in answer.json["promises"]}


async def test_a_change_leaves_what_it_does_not_name() -> None:
    async with running() as world:
        before = await made(world)
        assert (await world.send("PATCH", "/schedules/s", {})).json == before
        answer = await world.send(
            "PATCH", "/schedules/s", {"description": "", "tags": {}, "promiseTimeout": 7}
        )
        assert answer.status == 200
        expected = {**before, "tags": {}, "promiseTimeout": 7}
        del expected["description"]
        assert answer.json == expected
        world.clock.time_ms += 60_000
        answer = await world.send("PATCH", "/schedules/s", {"cron": "@every 2h"})
        assert answer.json["nextRunTime"] == NOW_MS + 60_000 + 2 * HOUR_MS
        assert (await world.send("GET", "/schedules/s")).json == answer.json
        assert (await world.send("PATCH", "/schedules/none", {})).code == Code.SCHEDULE_NOT_FOUND


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"cron": "x"}, ["cron"]),
        ({"promiseId": "{{.x}}"}, ["promiseId"]),
        ({"promiseId": "x" * 2_000}, ["promiseId"]),
        ({"promiseParam": {"data": "?"}}, ["promiseParam.data"]),
    ],
)
async def test_a_wrong_change_is_refused(body: dict[str, Any], fields: list[str]) -> None:
    async with running() as world:
        await made(world)
        answer = await world.send("PATCH", "/schedules/s", body)
        assert (answer.status, answer.wrong_fields) == (400, fields)


async def test_a_paused_schedule_makes_nothing_and_then_makes_up_for_it() -> None:
    async with running() as world:
        await made(world)
        paused = await world.send("POST", "/schedules/pause", {"id": "s"})
        assert (paused.status, paused.json["pausedOn"]) == (200, NOW_MS)
        assert paused.json["nextRunTime"] == NEVER_MS
        await pass_time(world, 3 * HOUR_MS)
        again = await world.send("POST", "/schedules/pause", {"id": "s"})
        assert again.json == paused.json
        listed = await world.send("GET", "/schedules?id=*")
        assert listed.json["schedules"] == [paused.json]
        assert await promise_ids(world) == set()

        resumed = await world.send("POST", "/schedules/resume", {"id": "s"})
        assert "pausedOn" not in resumed.json
        await pass_time(world, 0)
        runs = {f"s/{NOW_MS + number * HOUR_MS}" for number in (1, 2, 3)}
        assert await promise_ids(world) == runs
        same = await world.send("POST", "/schedules/resume", {"id": "s"})
        assert same.json["nextRunTime"] == NOW_MS + 4 * HOUR_MS
        for act in ("pause", "resume", "run"):
            answer = await world.send("POST", f"/schedules/{act}", {"id": "none"})
            assert answer.code == Code.SCHEDULE_NOT_FOUND


@pytest.mark.parametrize(("catch_up", "numbers"), [(0, ()), (1, (3,)), (2, (2, 3)), (9, (1, 2, 3))])
async def test_resuming_says_how_many_runs_count(catch_up: int, numbers: tuple[int, ...]) -> None:
    async with running() as world:
        await made(world)
        await world.send("POST", "/schedules/pause", {"id": "s"})
        await pass_time(world, 3 * HOUR_MS)
        body = {"id": "s", "catchUp": catch_up}
        assert (await world.send("POST", "/schedules/resume", body)).status == 200
        await pass_time(world, 0)
        assert await promise_ids(world) == {f"s/{NOW_MS + one * HOUR_MS}" for one in numbers}
        await pass_time(world, HOUR_MS)
        assert f"s/{NOW_MS + 4 * HOUR_MS}" in await promise_ids(world)


async def test_a_run_now_is_one_more() -> None:
    async with running() as world:
        before = await made(world)
        run = await world.send("POST", "/schedules/run", {"id": "s"})
        assert run.status == 201
        assert run.json == {
            "id": f"s/{NOW_MS}",
            "state": "PENDING",
            "param": {"data": "aGk="},
            "value": {},
            "timeout": NOW_MS + 5_000,
            "tags": {
                "kind": "report",
                "resonate:invocation": "true",
                "resonate:schedule": "s",
            },
            "createdOn": NOW_MS,
        }
        assert (await world.send("GET", "/schedules/s")).json == before
        again = await world.send("POST", "/schedules/run", {"id": "s"})
        assert (again.status, again.code) == (409, Code.PROMISE_EXISTS)


async def test_a_run_now_of_a_workflow_is_its_own_origin() -> None:
    async with running() as world:
        flow = {**HOURLY, "promiseTags": {"resonate:target": "poll://any@g"}}
        await world.send("POST", "/schedules", flow)
        run = await world.send("POST", "/schedules/run", {"id": "s"})
        assert run.json["tags"]["resonate:origin"] == run.json["id"]


async def test_a_preview_has_ten_times_in_the_zone() -> None:
    async with running(Settings(time_zone="Asia/Kathmandu")) as world:

        async def times(**body: Any) -> list[int]:
            answer = await world.send("POST", "/schedules/preview", body)
            assert answer.status == 200, answer.body
            found: list[int] = answer.json["times"]
            return found

        assert await times(cron="@every 1m", after=0) == [60_000 * n for n in range(1, 11)]
        offset_ms = 20_700_000  # Kathmandu is 5 h 45 min ahead
        day_ms = 86_400_000
        assert (await times(cron="0 0 * * *", after=0))[0] == day_ms - offset_ms + 900_000
        assert (await times(cron="0 0 * * *", after=0, timeZone="UTC"))[:2] == [day_ms, 2 * day_ms]
        assert (await times(cron="TZ=UTC 0 0 * * *", after=0))[0] == day_ms
        assert await times(cron="0 0 30 2 *") == []
        assert (await times(cron="@daily"))[0] > NOW_MS
        for body, field in (
            ({"cron": "x"}, "cron"),
            ({"cron": "@daily", "timeZone": "Mars/Base"}, "timeZone"),
            ({}, "cron"),
        ):
            answer = await world.send("POST", "/schedules/preview", body)
            assert (answer.status, answer.wrong_fields) == (400, [field])


async def test_a_limited_token_cannot_have_promises_made_elsewhere() -> None:
    """A schedule within its prefix whose promises are not: made by another token."""
    async with running() as world:
        scopes = ("promises:read", "promises:write")
        every = await secret_of(world, *scopes)
        limited = await secret_of(world, *scopes, idPrefix="s")
        elsewhere = {**HOURLY, "promiseId": "other/{{.timestamp}}"}
        assert (await world.send("POST", "/schedules", elsewhere, every)).status == 201

        async def code(method: str, target: str, body: Any) -> int:
            answer = await world.send(method, target, body, limited)
            return answer.code if answer.status >= 400 else 0

        refused = Code.FORBIDDEN_PREFIX
        assert await code("PATCH", "/schedules/s", {"promiseParam": {"data": "aGk="}}) == refused
        assert await code("PATCH", "/schedules/s", {"promiseId": "t/{{.timestamp}}"}) == refused
        assert await code("POST", "/schedules/resume", {"id": "s"}) == refused
        assert await code("POST", "/schedules/run", {"id": "s"}) == refused
        assert await code("POST", "/schedules/pause", {"id": "s"}) == 0
        assert await code("PATCH", "/schedules/s", {"promiseId": "s/{{.timestamp}}"}) == 0
        assert await code("POST", "/schedules/resume", {"id": "s"}) == 0
        assert await code("POST", "/schedules/run", {"id": "s"}) == 0
