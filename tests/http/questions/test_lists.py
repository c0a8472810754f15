"""Lists of tasks, locks and deadlines: whole, in order, page by page, and only what one may see."""

import base64
import json
from typing import Any

import pytest
from trio.testing import MockClock

from tests.http.client import FAR_MS, NOW_MS, World, running
from tests.http.function_world import created, functions_running
from tests.http.tenants import tenant
from troth.shards.surveys import locks

from .world import all_pages, create_with_task, ids, limited

FLOW = {"resonate:target": "poll://any@flows"}


async def envelope(world: World, kind: str, **data: object) -> Any:
    """What an operation of the envelope protocol answers."""
    head = {"corrId": "1", "version": "2026-04-01"}
    answer = await world.send("POST", "/", {"kind": kind, "head": head, "data": data})
    assert answer.json["head"]["status"] < 300, answer.body
    return answer.json["data"]


async def test_tasks_of_both_kinds_are_listed_in_the_order_of_creation(
    mock_clock: MockClock,
) -> None:
    async with running() as world:
        for number in range(40):
            world.clock.time_ms += 1
            if number % 3:
                await create_with_task(world, f"r{number:02}")
            else:
                await world.create(f"f{number:02}", tags=FLOW)
        for limit in (1, 7, 100):
            oldest = await all_pages(world, f"/tasks?limit={limit}", "tasks")
            times = [row["createdOn"] for row in oldest]
            assert times == sorted(times)
            assert len(times) == 40
            newest = await all_pages(world, f"/tasks?limit={limit}&order=newest", "tasks")
            assert newest == oldest[::-1]
        assert {row["kind"] for row in oldest} == {"rest", "envelope"}


async def test_tasks_are_found_by_what_they_are(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "a/1")
        await create_with_task(world, "a/2", "poll://any@gpu")
        await world.create("a/3", tags=FLOW)
        await create_with_task(world, "b/1")
        claim = {"id": "__invoke:a/1", "counter": 1, "processId": "w1", "ttl": 60_000}
        await world.send("POST", "/tasks/claim", claim)
        for query, found in {
            "": ["__invoke:a/1", "__invoke:a/2", "a/3", "__invoke:b/1"],
            "kind=envelope": ["a/3"],
            "kind=rest": ["__invoke:a/1", "__invoke:a/2", "__invoke:b/1"],
            "states=claimed": ["__invoke:a/1"],
            "states=claimed,pending": ["__invoke:a/1", "a/3"],
            "process=w1": ["__invoke:a/1"],
            "receiver=poll://any@gpu": ["__invoke:a/2"],
            "root=a/*": ["__invoke:a/1", "__invoke:a/2", "a/3"],
            "root=*1": ["__invoke:a/1", "__invoke:b/1"],
            "root=a/3": ["a/3"],
        }.items():
            rows = await all_pages(world, f"/tasks?{query}", "tasks")
            assert sorted(ids(rows)) == sorted(found), query
        (claimed,) = await all_pages(world, "/tasks?states=claimed", "tasks")
        assert claimed["processId"] == "w1"
        assert claimed["until"] == NOW_MS + 60_000


def param_of(content: object) -> dict[str, str]:
    """A param that is JSON."""
    return {"data": base64.b64encode(json.dumps(content).encode()).decode()}


async def test_tasks_name_the_function_of_their_promise(mock_clock: MockClock) -> None:
    async with running() as world:
        invoke = {"resonate:invoke": "poll://any@gpu"}
        call = {"func": "charge", "args": [1]}
        await world.create("a", param=param_of(call), tags=invoke)
        await world.create("b", param=param_of(call), tags=FLOW)
        await world.create("c", param=param_of(["charge"]), tags=invoke)
        await world.create("d", param=param_of({**call, "more": "x" * 10_000}), tags=invoke)
        rows = await all_pages(world, "/tasks", "tasks")

        assert {row["promiseId"]: row.get("function") for row in rows} == {
            "a": "charge",
            "b": "charge",
            "c": None,
            "d": None,  # its param is too long to be looked into for a list
        }


async def test_finished_tasks_are_listed_for_one_promise(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "a")
        await world.send("PATCH", "/promises/a", {"state": "RESOLVED"})
        assert await all_pages(world, "/tasks", "tasks") == []
        (row,) = await all_pages(world, "/tasks?root=a&states=completed", "tasks")
        assert row["state"] == "completed"
        (recent,) = await all_pages(world, "/tasks?states=completed", "tasks")
        assert recent == row


async def test_all_tasks_of_a_promise_are_listed_page_by_page(mock_clock: MockClock) -> None:
    """Unfinished and finished ones, of all kinds; a cursor gives no token more than it may see."""
    async with running() as world:
        await create_with_task(world, "a")
        for number in range(7):
            world.clock.time_ms += 1
            leaf = f"leaf/{number}"
            await world.create(leaf)
            callback = {"rootPromiseId": "a", "timeout": FAR_MS, "recv": "poll://g"}
            await world.send("POST", f"/promises/callback/{leaf}", callback)
            subscription = {"id": f"s{number}", "timeout": FAR_MS, "recv": "poll://g"}
            await world.send("POST", "/promises/subscribe/a", subscription)
            if number % 2:
                await world.send("PATCH", f"/promises/{leaf}", {"state": "RESOLVED"})
        query = "root=a&states=init,enqueued,completed"
        found = {"__invoke:a", *(f"__resume:a:leaf/{number}" for number in (1, 3, 5))}
        for after in (False, True):
            if after:
                await world.send("PATCH", "/promises/a", {"state": "RESOLVED"})
                found |= {f"__notify:a:s{number}" for number in range(7)}
            whole = await all_pages(world, f"/tasks?{query}&limit=100", "tasks")
            assert set(ids(whole)) == found
            assert [row["createdOn"] for row in whole] == sorted(row["createdOn"] for row in whole)
            assert await all_pages(world, f"/tasks?{query}&limit=2", "tasks") == whole
            newest = await all_pages(world, f"/tasks?{query}&limit=3&order=newest", "tasks")
            assert newest == whole[::-1]
        cursor = (await world.send("GET", f"/tasks?{query}&limit=2")).json["cursor"]
        other = await limited(world, "b/")
        refused = await world.send("GET", f"/tasks?cursor={cursor}", headers=other)
        assert refused.code == 40313


async def test_a_task_is_shown_by_either_id(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "a")
        await world.create("f", tags=FLOW)
        rest = (await world.send("GET", "/tasks/show/__invoke:a")).json
        assert (rest["kind"], rest["promiseId"], rest["state"]) == ("rest", "a", "init")
        flow = (await world.send("GET", "/tasks/show/f")).json
        assert (flow["kind"], flow["receiver"]) == ("envelope", "poll://any@flows")
        await world.send("PATCH", "/promises/f", {"state": "RESOLVED"})
        assert (await world.send("GET", "/tasks/show/f")).json["state"] == "fulfilled"
        for name in ("a", "__invoke:x", "x"):
            assert (await world.send("GET", f"/tasks/show/{name}")).code == 40403, name


async def test_a_cursor_is_refused_where_it_is_not_from(mock_clock: MockClock) -> None:
    async with running() as world:
        for number in range(3):
            await create_with_task(world, f"p{number}")
        first = (await world.send("GET", "/tasks?limit=1")).json["cursor"]
        for path in ("/locks", "/timers"):
            answer = await world.send("GET", f"{path}?cursor={first}")
            assert answer.wrong_fields == ["query cursor"]
        forged = first[:-2] + ("AA" if first[-2:] != "AA" else "BB")
        answer = await world.send("GET", f"/tasks?cursor={forged}")
        assert answer.wrong_fields == ["query cursor"]


@pytest.mark.parametrize("path", ["/tasks", "/locks", "/timers"])
async def test_wrong_parameters_are_all_named(path: str) -> None:
    async with running() as world:
        answer = await world.send("GET", f"{path}?limit=0")
        assert answer.wrong_fields == ["query limit"]
        answer = await world.send("GET", f"{path}?limit=1001")
        assert answer.wrong_fields == ["query limit"]
        if path == "/tasks":
            answer = await world.send("GET", "/tasks?states=x&kind=y&order=z&limit=q")
            wrong = ["query kind", "query limit", "query order", "query states"]
            assert sorted(answer.wrong_fields) == wrong


async def test_locks_are_listed_by_resource(mock_clock: MockClock) -> None:
    async with running() as world:
        for number in range(25):
            body = {"resourceId": f"r/{number:02}", "executionId": "e", "processId": "p", "ttl": 9}
            await world.send("POST", "/locks/acquire", body)
        body = {"resourceId": "other", "executionId": "e", "processId": "q", "ttl": 60_000}
        await world.send("POST", "/locks/acquire", body)
        everything = ["other", *(f"r/{number:02}" for number in range(25))]
        for limit in (1, 10, 26, 100):
            rows = await all_pages(world, f"/locks?limit={limit}", "locks")
            assert ids(rows, "resourceId") == everything
        rows = await all_pages(world, "/locks?id=r/1*&limit=3", "locks")
        assert ids(rows, "resourceId") == everything[11:21]
        (row,) = await all_pages(world, "/locks?process=q", "locks")
        assert row["expiresAt"] == NOW_MS + 60_000


async def test_locks_beyond_what_is_ordered_are_listed_once_each(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shard by shard, in pages that end within one and between two."""
    monkeypatch.setattr(locks, "ORDERED_LIMIT_COUNT", 3)
    async with running() as world:
        everything = [f"r/{number:02}" for number in range(25)]
        for name in everything:
            body = {"resourceId": name, "executionId": "e", "processId": "p", "ttl": 9}
            await world.send("POST", "/locks/acquire", body)
        for limit in (1, 3, 10, 100):
            rows = await all_pages(world, f"/locks?limit={limit}", "locks")
            assert sorted(ids(rows, "resourceId")) == everything
        rows = await all_pages(world, "/locks?id=r/1*&limit=3", "locks")
        assert sorted(ids(rows, "resourceId")) == everything[10:20]


async def test_what_comes_due_of_workflows(mock_clock: MockClock) -> None:
    """A lease, and the time before which a task is not sent; of both protocols."""
    async with running() as world:
        await world.create("held", tags=FLOW)
        await envelope(world, "task.acquire", id="held", version=0, pid="p", ttl=5_000)
        delay = {"resonate:delay": str(NOW_MS + 7_000)}
        await world.create("later", tags=FLOW | delay)
        await world.create("rest", tags={"resonate:invoke": "poll://any@g"} | delay)
        rows = await all_pages(world, f"/timers?until={NOW_MS + 8_000}", "timers")
        found = [(row["what"], row["promiseId"], row["at"] - NOW_MS) for row in rows]
        assert found[0] == ("lease", "held", 5_000)
        assert set(found[1:]) == {("delay", "later", 7_000), ("delay", "rest", 7_000)}


async def test_what_comes_due_is_in_order_of_time(mock_clock: MockClock) -> None:
    async with running() as world:
        for number in (5, 3, 9, 700, 100_000):
            body = {"id": f"p{number}", "timeout": NOW_MS + number * 1_000}
            await world.send("POST", "/promises", body)
        tags = {"resonate:timer": "true"}
        await world.send("POST", "/promises", {"id": "s", "timeout": NOW_MS + 4_000, "tags": tags})
        await create_with_task(world, "t")
        claim = {"id": "__invoke:t", "counter": 1, "processId": "w", "ttl": 6_000}
        await world.send("POST", "/tasks/claim", claim)
        lock = {"resourceId": "l", "executionId": "e", "processId": "p", "ttl": 8_000}
        await world.send("POST", "/locks/acquire", lock)
        schedule = {"id": "c", "cron": "0 0 * * *", "promiseId": "c.{{.timestamp}}"}
        await world.send("POST", "/schedules", {**schedule, "promiseTimeout": 1_000})
        expected = [
            ("timeout", "p3"),
            ("sleep", "s"),
            ("timeout", "p5"),
            ("lease", "__invoke:t"),
            ("lock", "l"),
            ("timeout", "p9"),
            ("timeout", "p700"),
            ("schedule", "c"),
            ("timeout", "p100000"),
            ("timeout", "t"),
        ]
        for limit in (1, 3, 100):
            rows = await all_pages(world, f"/timers?limit={limit}", "timers")
            assert [(row["what"], row["id"]) for row in rows] == expected
            assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
        rows = await all_pages(world, f"/timers?until={NOW_MS + 6_000}&limit=2", "timers")
        assert [row["id"] for row in rows] == ["p3", "s", "p5", "__invoke:t"]
        assert rows[3]["promiseId"] == "t"


async def test_a_token_with_a_prefix_lists_only_what_begins_so(mock_clock: MockClock) -> None:
    async with running() as world:
        for name in ("a/1", "b/1"):
            await create_with_task(world, name)
            await world.create(f"{name}/flow", tags=FLOW)
            lock = {"resourceId": name, "executionId": "e", "processId": "p", "ttl": 60_000}
            await world.send("POST", "/locks/acquire", lock)
        everything = (await world.send("GET", "/tasks?limit=1")).json
        headers = await limited(world, "a/")
        tasks = await all_pages(world, "/tasks?limit=1", "tasks", headers)
        assert ids(tasks, "promiseId") == ["a/1", "a/1/flow"]
        locks = await all_pages(world, "/locks", "locks", headers)
        assert ids(locks, "resourceId") == ["a/1"]
        timers = await all_pages(world, "/timers", "timers", headers)
        assert sorted({row["id"] for row in timers}) == ["a/1", "a/1/flow"]
        # Nor with a cursor that another one was given.
        stolen = f"/tasks?cursor={everything['cursor']}"
        assert "b/1" not in ids(await all_pages(world, stolen, "tasks", headers), "promiseId")
        assert (await world.send("GET", "/tasks?root=b/1", None, headers)).code == 40313


async def test_function_tasks_are_listed_for_their_account() -> None:
    async with functions_running() as world:
        owner, other = tenant(world, 1), tenant(world, 2)
        function_id = await world.function(owner.account_id)
        assert world.api.placement is not None
        world.api.placement.withhold({owner.account_id})
        task_id = await created(owner, function_id, {"x": 1})
        answer = await world.send("GET", "/tasks?kind=function", None, owner.headers)
        (row,) = answer.json["tasks"]
        assert row["promiseId"] == f"troth:task/{task_id}"
        for query in ("", f"?root=troth:task/{task_id}"):
            answer = await world.send("GET", f"/tasks{query}", None, owner.headers)
            assert answer.json["tasks"] == [row]
            answer = await world.send("GET", f"/tasks{query}", None, other.headers)
            assert answer.json["tasks"] == []
        for name in (task_id, f"troth:task/{task_id}"):
            why = await world.send("GET", f"/why/{name}", None, owner.headers)
            assert why.status == 200, why.body
            assert why.json["cause"]["reason"] == "account-disabled"
            assert (await world.send("GET", f"/why/{name}", None, other.headers)).code == 40400
        named = f"/tasks/show/__invoke:troth:task/{task_id}"
        assert (await world.send("GET", named, None, owner.headers)).json["kind"] == "function"
        assert (await world.send("GET", named, None, other.headers)).code == 40403


async def test_far_timeouts_are_the_last(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("far")
        (row,) = await all_pages(world, "/timers", "timers")
        assert row["at"] == FAR_MS
