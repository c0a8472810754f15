"""Bulk jobs over HTTP: what they do, what they leave alone, who may start, see and stop them."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.admin.test_accounts import secret_of
from tests.http.client import NOW_MS, Answer, Outbox, World, running
from tests.http.questions.world import create_with_task
from troth.core.codes import Code
from troth.core.commands import TaskNotSent
from troth.core.limits import BULK_EXAMPLES_COUNT, BULK_JOBS_KEPT_COUNT, BULK_JOBS_KEPT_MS
from troth.http.api.context import Readiness
from troth.shards.shards import Shards

WANTED = {"id": "order-*", "tags[team]": "checkout"}
PENDING = {**WANTED, "state": "pending"}


async def start(world: World, action: str = "cancel", **body: Any) -> str:
    """Start a job; its id."""
    answer = await world.send("POST", "/bulk", {"action": action, "filter": PENDING, **body})
    assert answer.status == 201, answer.body
    job_id: str = answer.json["id"]
    return job_id


async def ended(world: World, job_id: str) -> Any:
    """A job when it has ended."""
    while True:
        answer = await world.send("GET", f"/bulk/{job_id}")
        assert answer.status == 200
        if answer.json["state"] != "running":
            return answer.json
        await trio.sleep(0.1)


async def run(world: World, action: str = "cancel", **body: Any) -> Any:
    """Start a job and wait for its end."""
    return await ended(world, await start(world, action, **body))


async def create(world: World, *ids: str, team: str = "checkout") -> None:
    for promise_id in ids:
        assert (await world.create(promise_id, tags={"team": team})).status == 201


async def resolve(world: World, promise_id: str) -> None:
    body = {"state": "RESOLVED"}
    assert (await world.send("PATCH", f"/promises/{promise_id}", body)).status == 201


async def states(world: World) -> dict[str, str]:
    """The state of every promise."""
    answer = await world.send("GET", "/promises?id=*&limit=100")
    assert answer.json["cursor"] is None
    return {one["id"]: one["state"] for one in answer.json["promises"]}


# --- what a job does ------------------------------------------------------------------------------


async def test_bulk_dry_run_equals_run(autojump_clock: MockClock) -> None:
    """By number, by reason, and by the examples."""
    async with running() as world:
        orders = [f"order-{number}" for number in range(60)]
        await create(world, *orders, "invoice-1")
        await create(world, "order-x", "order-y", team="billing")
        for promise_id in orders[::4]:
            await resolve(world, promise_id)
        before = await states(world)

        dry = await run(world, filter=WANTED, dryRun=True)
        assert await states(world) == before, "a dry run changes nothing"
        wet = await run(world, filter=WANTED, value={"data": "aGk="})

        counted = ("total", "done", "skipped", "failed", "left")
        assert [dry[name] for name in counted] == [wet[name] for name in counted]
        assert (wet["total"], wet["done"], wet["failed"], wet["left"]) == (60, 45, 0, 0)
        assert wet["skipped"] == {"completed": 15}
        after = await states(world)
        done = {name for name in after if after[name] != before[name]}
        assert done == set(orders) - set(orders[::4])
        assert {after[name] for name in done} == {"REJECTED_CANCELED"}
        assert len(dry["examples"]) == len(set(dry["examples"])) == BULK_EXAMPLES_COUNT
        assert set(dry["examples"]) <= done
        assert "examples" not in wet
        shown = (await world.send("GET", f"/promises/{orders[1]}")).json
        assert shown["value"]["data"] == "aGk="


@pytest.mark.parametrize(
    ("action", "state"),
    [("cancel", "REJECTED_CANCELED"), ("reject", "REJECTED"), ("RESOLVE", "RESOLVED")],
)
async def test_promises_are_completed_as_asked(
    autojump_clock: MockClock, action: str, state: str
) -> None:
    async with running() as world:
        await create(world, "order-1")
        await run(world, action)
        assert (await states(world)) == {"order-1": state}


async def test_the_filter_is_the_list_s(autojump_clock: MockClock) -> None:
    """Whatever the list finds by the same parameters is what a job is about."""
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(6)))
        await resolve(world, "order-3")
        world.clock.time_ms += 1_000
        await create(world, "order-7", "order-8")
        for query, found in (
            ({"id": "*"}, 8),
            ({"id": "order-3"}, 1),
            ({"id": "*", "states": "resolved,pending"}, 8),
            ({"id": "*", "states": "resolved"}, 1),
            ({"id": "*", "createdFrom": str(NOW_MS + 1)}, 2),
            ({"id": "*", "createdTo": str(NOW_MS + 1), "state": "PENDING"}, 5),
            ({"id": "*", "completedFrom": str(NOW_MS)}, 1),
            ({"id": "*", "tags[team]": "other"}, 0),
        ):
            text = "&".join(f"{name}={value}" for name, value in query.items())
            listed = (await world.send("GET", f"/promises?{text}")).json["promises"]
            job = await run(world, filter=query, dryRun=True)
            assert job["total"] == len(listed) == found, query


async def test_bulk_leaves_later_ones(autojump_clock: MockClock) -> None:
    """What is created while a job runs is not touched, whatever it is called."""
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(40)))
        job_id = await start(world, ratePerSecond=20)
        await trio.sleep(0.5)
        await create(world, *(f"order-later-{number}" for number in range(5)))
        job = await ended(world, job_id)
        assert (job["total"], job["done"]) == (40, 40)
        found = await states(world)
        later = {name for name, state in found.items() if state == "PENDING"}
        assert later == {f"order-later-{number}" for number in range(5)}


async def test_what_others_have_completed_is_counted_as_changed(autojump_clock: MockClock) -> None:
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(40)))
        job_id = await start(world, ratePerSecond=20)
        await trio.sleep(1)
        pending = [name for name, state in (await states(world)).items() if state == "PENDING"]
        await resolve(world, pending[-1])
        job = await ended(world, job_id)
        assert (job["done"], job["skipped"], job["left"]) == (39, {"changed": 1}, 0)


async def test_bulk_stops(autojump_clock: MockClock) -> None:
    """It does nothing after the answer, and says how much it did."""
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(40)))
        job_id = await start(world, ratePerSecond=20)
        await trio.sleep(1)
        seen = (await world.send("GET", f"/bulk/{job_id}")).json
        assert seen["state"] == "running"
        assert 0 < seen["done"] < 40
        assert seen["left"] == 40 - seen["done"]
        assert 10 <= seen["rate"] <= 30
        stopped = await world.send("DELETE", f"/bulk/{job_id}")
        assert stopped.status == 200, stopped.body
        assert stopped.json["state"] == "stopped"
        found = await states(world)
        canceled_count = list(found.values()).count("REJECTED_CANCELED")
        assert stopped.json["done"] == canceled_count
        await trio.sleep(10)
        assert await states(world) == found
        assert (await world.send("GET", f"/bulk/{job_id}")).json == stopped.json
        assert (await world.send("DELETE", f"/bulk/{job_id}")).code == 40916


async def test_a_slow_job_keeps_its_rate(autojump_clock: MockClock) -> None:
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(30)))
        began_s = trio.current_time()
        await run(world, ratePerSecond=10)
        assert 2.5 <= trio.current_time() - began_s <= 6


async def test_a_job_runs_on_when_its_client_has_gone(autojump_clock: MockClock) -> None:
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(40)))
        with trio.move_on_after(0):
            await start(world)
        await trio.sleep(5)
        (job,) = (await world.send("GET", "/bulk")).json["jobs"]
        assert (job["state"], job["done"]) == ("finished", 40)


async def test_stalled_tasks_are_sent_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the filter, and nothing that is not stalled."""
    retried: list[str] = []

    def retry(self: Outbox, key: str) -> bool:
        assert isinstance(self, Outbox)
        retried.append(key)
        return key in ("__invoke:order-1", "__invoke:order-2")

    monkeypatch.setattr(Outbox, "retry", retry)
    async with running() as world:
        for name in ("order-1", "order-2", "order-3", "x"):
            await create_with_task(world, name)
        shards = world.api.shards
        assert isinstance(shards, Shards)
        for name in ("order-1", "order-2"):
            shards.tell(TaskNotSent(f"__invoke:{name}", 1))
        wanted = {"root": "order-*"}
        dry = await run(world, "retry", filter=wanted, dryRun=True)
        assert (dry["subject"], dry["done"], dry["skipped"]) == ("tasks", 2, {"notWaiting": 1})
        assert dry["examples"] == ["__invoke:order-2", "__invoke:order-1"]
        assert retried == []
        job = await run(world, "retry", filter=wanted)
        assert (job["done"], job["skipped"]) == (2, {"notWaiting": 1})
        assert sorted(retried) == [f"__invoke:order-{number}" for number in (1, 2, 3)]
        only = await run(world, "retry", filter={"states": "stalled"})
        assert (only["total"], only["done"]) == (2, 2)


# --- who ------------------------------------------------------------------------------------------


async def test_a_token_with_a_prefix_touches_and_sees_its_own(autojump_clock: MockClock) -> None:
    async with running() as world:
        for promise_id in ("a/1", "b/1"):
            await world.create(promise_id)
        headers = await secret_of(world, "promises:read", "promises:write", idPrefix="a/")
        everything = await secret_of(world, "promises:read", "promises:write", account="other")

        async def send(method: str, path: str, who: dict[str, str], body: object = None) -> Answer:
            return await world.send(method, path, body, who)

        body = {"action": "cancel", "filter": {"id": "*"}}
        own = (await send("POST", "/bulk", headers, body)).json["id"]
        await trio.sleep(1)
        assert (await send("GET", "/promises/b/1", everything)).json["state"] == "PENDING"
        assert (await send("GET", "/promises/a/1", headers)).json["state"] == "REJECTED_CANCELED"
        world.clock.time_ms += 1
        other = (await send("POST", "/bulk", everything, body)).json["id"]
        await trio.sleep(1)
        assert [one["id"] for one in (await send("GET", "/bulk", headers)).json["jobs"]] == [own]
        seen = (await send("GET", "/bulk", everything)).json["jobs"]
        assert [one["id"] for one in seen] == [other, own]
        assert (await send("GET", f"/bulk/{other}", headers)).code == 40420
        assert (await send("DELETE", f"/bulk/{other}", headers)).code == 40420


async def test_scopes_decide(autojump_clock: MockClock) -> None:
    async with running() as world:
        reads = await secret_of(world, "promises:read")
        writes = await secret_of(world, "promises:write")
        body = {"action": "cancel", "filter": {"id": "*"}}
        assert (await world.send("POST", "/bulk", body, reads)).code == 40312
        job = await world.send("POST", "/bulk", body, writes)
        assert job.status == 201
        path = f"/bulk/{job.json['id']}"
        assert (await world.send("DELETE", path, None, reads)).code == 40312
        assert (await world.send("GET", path, None, writes)).code == 40312
        assert (await world.send("GET", "/bulk", None, writes)).code == 40312


async def test_the_audit_log_says_who_what_and_how_many(autojump_clock: MockClock) -> None:
    async with running() as world:
        await create(world, "order-1", "order-2")
        await resolve(world, "order-2")
        job = await run(world, filter=WANTED)
        lines = await world.api.audit.read(10)
        (began,) = [line for line in lines if line["act"] == "bulk.start"]
        (end,) = [line for line in lines if line["act"] == "bulk.end"]
        for line in (began, end):
            assert line["job"] == job["id"]
            assert line["by"] == job["by"] == "anonymous"
            assert (line["action"], line["subject"]) == ("cancel", "promises")
            assert line["filter.id"] == "order-*"
            assert line["filter.tags[team]"] == "checkout"
        assert (end["outcome"], end["total"], end["done"]) == ("finished", 2, 1)
        assert end["skipped.completed"] == 1


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["action"]),
        ({"action": "burn"}, ["action"]),
        ({"action": "cancel"}, ["filter.id"]),
        ({"action": "cancel", "filter": {"id": "*", "stat": "pending"}}, ["filter.stat"]),
        ({"action": "cancel", "filter": {"id": "*", "limit": "1"}}, ["filter.limit"]),
        ({"action": "cancel", "filter": {"id": "*", "cursor": "x"}}, ["filter.cursor"]),
        ({"action": "cancel", "filter": {"id": "*", "state": "x"}}, ["filter.state"]),
        ({"action": "cancel", "filter": {"id": "*", "createdTo": "x"}}, ["filter.createdTo"]),
        ({"action": "cancel", "subject": "tasks", "filter": {}}, ["action"]),
        ({"action": "retry", "filter": {"id": "*"}}, ["filter.id"]),
        ({"action": "retry", "filter": {"states": "lost"}}, ["filter.states"]),
        ({"action": "retry", "filter": {}, "value": {"data": "aGk="}}, ["value"]),
        ({"action": "cancel", "filter": {"id": "*"}, "ratePerSecond": 20_001}, ["ratePerSecond"]),
        ({"action": "cancel", "filter": {"id": "*"}, "ratePerSecond": -1}, ["ratePerSecond"]),
        ({"action": "cancel", "filter": {"id": "*"}, "value": {"data": "A" * 20_000}}, ["value"]),
    ],
)
async def test_a_wrong_job_is_refused(
    autojump_clock: MockClock, body: object, fields: list[str]
) -> None:
    async with running() as world:
        answer = await world.send("POST", "/bulk", body)
        assert answer.status == 400
        assert answer.wrong_fields == fields
        assert (await world.send("GET", "/bulk")).json == {"jobs": []}


async def test_at_most_four_run(autojump_clock: MockClock) -> None:
    async with running() as world:
        await create(world, *(f"order-{number}" for number in range(60)))
        jobs = [await start(world, ratePerSecond=1) for _ in range(4)]
        body = {"action": "cancel", "filter": PENDING}
        assert (await world.send("POST", "/bulk", body)).code == 42903
        await world.send("DELETE", f"/bulk/{jobs[0]}")
        assert (await world.send("POST", "/bulk", body)).status == 201


async def test_an_unknown_job_is_not_found(autojump_clock: MockClock) -> None:
    async with running() as world:
        assert (await world.send("GET", "/bulk/none")).code == 40420
        assert (await world.send("DELETE", "/bulk/none")).code == 40420


async def test_old_jobs_are_forgotten(autojump_clock: MockClock) -> None:
    """The last hundred are kept, and those for a week."""
    async with running() as world:
        for _ in range(BULK_JOBS_KEPT_COUNT + 3):
            await run(world, dryRun=True)
            world.clock.time_ms += 1
        jobs = (await world.send("GET", "/bulk")).json["jobs"]
        assert len(jobs) == BULK_JOBS_KEPT_COUNT
        created = [job["createdOn"] for job in jobs]
        assert created == sorted(created, reverse=True)
        assert created[-1] == NOW_MS + 3
        world.clock.time_ms += BULK_JOBS_KEPT_MS + 1_000
        last = await run(world, dryRun=True)
        assert [job["id"] for job in (await world.send("GET", "/bulk")).json["jobs"]] == [
            last["id"]
        ]


# --- a server whose log has a lease ---------------------------------------------------------------


async def test_what_is_in_memory_waits_for_the_lease_of_the_log(autojump_clock: MockClock) -> None:
    """Another server may have gone on: a job that this one takes for missing may be there."""
    async with running() as world:
        job_id = await start(world)
        lease_until_s = trio.current_time() + 10
        world.api.may_answer = lambda: trio.current_time() >= lease_until_s

        answer = await world.send("GET", f"/bulk/{job_id}")
        assert answer.status == 200
        assert trio.current_time() >= lease_until_s

        world.api.may_answer = lambda: False
        with trio.move_on_after(60) as scope:
            await world.send("GET", f"/bulk/{job_id}")
        assert scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_off, world)
            read = await world.send("GET", "/bulk/no-such-job")
            world.api.readiness = Readiness.READY
            nursery.start_soon(_cut_off, world)
            stopped = await world.send("DELETE", "/bulk/no-such-job")
        for answer in (read, stopped):
            assert (answer.status, answer.json["error"]["code"]) == (503, Code.STARTING)


async def _cut_off(world: World) -> None:
    """Do what `watch_lease` does."""
    await trio.sleep(1)
    world.api.is_cut_off, world.api.readiness = True, Readiness.STARTING
