"""Tasks, schedules, locks and search over HTTP."""

import base64
import json

import pytest

from troth.core.limits import LEASE_LEAST_MS

from .client import FAR_MS, NOW_MS, World, running

TASK = {"id": "__invoke:a/b", "counter": 1, "processId": "p", "ttl": 60_000}
ROUTED = {"resonate:invoke": "poll://nobody"}


async def test_a_task_is_claimed_kept_and_completed() -> None:
    async with running() as world:
        await world.create("a/b", tags=ROUTED)
        claimed = await world.send("POST", "/tasks/claim", TASK)
        again = await world.send("POST", "/tasks/claim", TASK)
        kept = await world.send("POST", "/tasks/heartbeat", {"processId": "p"})
        completed = await world.send("POST", "/tasks/complete", TASK)

        assert claimed.status == 201
        assert claimed.json["type"] == "invoke"
        root = claimed.json["promises"]["root"]
        assert (root["id"], root["href"]) == ("a/b", "http://troth.test/promises/a/b")
        assert root["data"]["id"] == "a/b"
        assert (again.status, again.code) == (403, 40305)
        assert kept.json == {"tasksAffected": 1}
        assert completed.status == 201
        assert completed.json["completedOn"] == NOW_MS


async def test_the_links_of_a_task_work_although_its_id_has_slashes() -> None:
    async with running() as world:
        await world.create("a/b c?", tags=ROUTED)
        place = "__invoke:a/b%20c%3F/1"

        assert (await world.send("GET", f"/tasks/claim/{place}")).status == 201
        assert (await world.send("GET", f"/tasks/heartbeat/{place}")).json == {"tasksAffected": 1}
        dropped = await world.send("GET", f"/tasks/drop/{place}")
        assert (dropped.status, dropped.body) == (201, b"")
        stale = await world.send("GET", f"/tasks/complete/{place}")
        assert (stale.status, stale.code) == (403, 40308)


@pytest.mark.parametrize("kind", ["claim", "complete", "heartbeat", "drop"])
async def test_a_counter_in_a_path_is_a_decimal_integer(kind: str) -> None:
    async with running() as world:
        for counter in ("x", "1.5", "", "1_0", "9223372036854775808", "%D9%A1", "0x1", "%201"):
            answer = await world.send("GET", f"/tasks/{kind}/q/{counter}")
            assert (answer.status, answer.wrong_fields) == (400, ["path counter"]), counter
        for counter in ("+1", "-1", "0", "007"):
            answer = await world.send("GET", f"/tasks/{kind}/q/{counter}")
            assert answer.status in (200, 404), counter


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/tasks/claim", {}, ["id", "counter", "processId"]),
        ("/tasks/claim", {**TASK, "counter": 0}, ["counter"]),
        ("/tasks/claim", {**TASK, "ttl": -1}, ["ttl"]),
        ("/tasks/claim", {**TASK, "counter": "1"}, ["counter"]),
        ("/tasks/complete", {"id": "x"}, ["counter"]),
        ("/tasks/drop", {"counter": 1}, ["id"]),
        ("/tasks/heartbeat", {"processId": ""}, ["processId"]),
        ("/tasks/heartbeat", {"processId": 3}, ["processId"]),
        ("/locks/acquire", {}, ["resourceId", "executionId", "processId"]),
        (
            "/locks/acquire",
            {"resourceId": "r", "executionId": "e", "processId": "p", "ttl": -1},
            ["ttl"],
        ),
        ("/locks/release", {"resourceId": "r"}, ["executionId"]),
        ("/locks/heartbeat", {}, ["processId"]),
        ("/subscriptions", {}, ["id", "recv", "promiseId"]),
        ("/callbacks", {"id": "x", "recv": "x"}, ["rootPromiseId", "promiseId"]),
        ("/promises/callback/x", {}, ["rootPromiseId", "recv"]),
        ("/promises/subscribe/x", {}, ["id", "recv"]),
        ("/schedules", {}, ["id", "cron", "promiseId"]),
    ],
)
async def test_every_wrong_field_is_named(path: str, body: object, fields: list[str]) -> None:
    async with running() as world:
        answer = await world.send("POST", path, body)

        assert (answer.status, answer.code) == (400, 40000)
        assert answer.wrong_fields == fields


async def test_locks() -> None:
    async with running() as world:
        body = {"resourceId": "r", "executionId": "e", "processId": "p", "ttl": 10}
        # The shortest time there is: at least that, whatever is asked for.
        ends = NOW_MS + LEASE_LEAST_MS
        acquired = await world.send("POST", "/locks/acquire", body)
        held = await world.send("POST", "/locks/acquire", {**body, "executionId": "f"})
        kept = await world.send("POST", "/locks/heartbeat", {"processId": "p"})
        released = await world.send("POST", "/locks/release", body)
        gone = await world.send("POST", "/locks/release", body)

        assert (acquired.status, acquired.json) == (201, {**body, "expiresAt": ends})
        assert (acquired.header("fencing-token") or "").isdecimal()
        assert (held.status, held.code) == (403, 40304)
        message = held.json["error"]["details"][0]["message"]
        assert message.startswith("execution 'e' of process 'p' holds the lock until 1")
        assert f"until {ends} (ms" in message
        assert kept.json == {"locksAffected": 1}
        assert (released.status, released.body) == (204, b"")
        assert (gone.status, gone.code) == (404, 40402)


SCHEDULE = {"id": "s/1", "cron": "0 0 1 1 *", "promiseId": "p.{{.timestamp}}"}


async def test_a_schedule_is_created_read_and_deleted() -> None:
    async with running() as world:
        body = {**SCHEDULE, "desc": "old", "tags": {"b": "1", "a": "2"}, "promiseTimeout": 5}
        created = await world.send("POST", "/schedules", body, {"Idempotency-Key": "k"})

        assert created.status == 201
        assert list(created.json) == [
            "id",
            "description",
            "cron",
            "tags",
            "promiseId",
            "promiseTimeout",
            "promiseParam",
            "nextRunTime",
            "idempotencyKey",
            "createdOn",
        ]
        assert created.json["description"] == "old"
        repeated = await world.send("POST", "/schedules", body, {"Idempotency-Key": "k"})
        assert (repeated.status, repeated.body) == (200, created.body)
        assert (await world.send("POST", "/schedules", body)).code == 40901
        assert (await world.send("GET", "/schedules/s/1")).body == created.body
        deleted = await world.send("DELETE", "/schedules/s%2F1")
        assert (deleted.status, deleted.body) == (204, b"")
        assert (await world.send("GET", "/schedules/s/1")).code == 40401
        assert (await world.send("DELETE", "/schedules/s/1")).code == 40401


async def test_description_wins_over_desc() -> None:
    async with running() as world:
        body = {**SCHEDULE, "desc": "old", "description": "new"}

        assert (await world.send("POST", "/schedules", body)).json["description"] == "new"


async def test_a_schedule_that_never_fires_shows_the_year_one() -> None:
    async with running() as world:
        answer = await world.send("POST", "/schedules", {**SCHEDULE, "cron": "0 0 31 2 *"})

        assert (answer.status, answer.json["nextRunTime"]) == (201, -62135596800000)


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({"cron": "bad"}, ["cron"]),
        ({"cron": "TZ=UTC"}, ["cron"]),
        ({"cron": "* * * * 7"}, ["cron"]),
        ({"promiseId": "{{.other}}"}, ["promiseId"]),
        ({"promiseId": "{{.id"}, ["promiseId"]),
        ({"cron": "bad", "promiseId": "{{ }}"}, ["cron", "promiseId"]),
        ({"promiseTimeout": "1"}, ["promiseTimeout"]),
        ({"promiseParam": {"data": "@"}}, ["promiseParam.data"]),
        ({"description": "x" * 5000}, ["description"]),
    ],
)
async def test_a_wrong_schedule_is_refused(more: dict[str, object], fields: list[str]) -> None:
    async with running() as world:
        answer = await world.send("POST", "/schedules", {**SCHEDULE, **more})

        assert (answer.status, answer.wrong_fields) == (400, fields)
        assert (await world.send("GET", "/schedules/s/1")).status == 404


# --- search ---------------------------------------------------------------------------------------


async def _ids(world: World, query: str) -> list[str]:
    answer = await world.send("GET", f"/promises?{query}")
    assert answer.status == 200, answer.body
    return [promise["id"] for promise in answer.json["promises"]]


async def test_search_filters_by_id_state_and_tags() -> None:
    async with running() as world:
        await world.create("a1", tags={"k[x]": "v&w", "t": "1"})
        await world.create("a2", tags={"t": "2"})
        await world.create("b%1")
        await world.create("late", timeout=NOW_MS)
        await world.send("PATCH", "/promises/a2", {"state": "RESOLVED"})

        assert await _ids(world, "id=*") == ["late", "b%1", "a2", "a1"]
        assert await _ids(world, "id=a*") == ["a2", "a1"]
        assert await _ids(world, "id=A*") == []
        assert await _ids(world, "id=b%25*") == ["b%1"]
        assert await _ids(world, "id=%25") == []
        assert await _ids(world, "id=*&state=resolved") == ["a2"]
        assert await _ids(world, "id=*&state=REJECTED") == ["late"]
        assert await _ids(world, "id=*&tags[t]=1") == ["a1"]
        assert await _ids(world, "id=*&tags%5Bk%5Bx%5D%5D=v%26w&tags[t]=1&tags[t]=2") == ["a1"]
        assert await _ids(world, "id=*&tags[]=x&tags={}&other=1") == ["late", "b%1", "a2", "a1"]


async def test_search_goes_on_where_the_cursor_points() -> None:
    async with running() as world:
        for number in range(5):
            await world.create(f"p{number}", tags={"t": "1"})
        await world.create("other")
        pages = []
        query = "id=p*&tags[t]=1&limit=2"
        while True:
            answer = await world.send("GET", f"/promises?{query}")
            pages.append([promise["id"] for promise in answer.json["promises"]])
            cursor = answer.json["cursor"]
            if cursor is None:
                break
            query = f"cursor={cursor}&id=ignored&limit=1"

        assert pages == [["p4", "p3"], ["p2", "p1"], ["p0"]]


async def test_a_changed_cursor_is_refused() -> None:
    async with running() as world:
        await world.create("a")
        answer = await world.send("GET", "/promises?id=*&limit=1")
        cursor: str = answer.json["cursor"]
        payload, _, signature = cursor.partition(".")
        changed = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        changed[4] = 100
        forged = base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip("=")

        for wrong in (
            "xyz",
            "a.b.c",
            ".",
            "%C3%A9.x",
            f"{forged}.{signature}",
            f"{payload}.",
            f"{payload}.{signature}=",
            f"{payload}%0A.{signature}",
            f"{payload}.{signature[:-1]}",
            cursor + "x" * 20_000,
        ):
            refused = await world.send("GET", f"/promises?cursor={wrong}")
            assert (refused.status, refused.wrong_fields) == (400, ["query cursor"]), wrong
        other_kind = await world.send("GET", f"/schedules?cursor={cursor}")
        assert (other_kind.status, other_kind.wrong_fields) == (400, ["query cursor"])
        assert (await world.send("GET", f"/promises?cursor={cursor}")).status == 200


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", ["query id"]),
        ("id=", ["query id"]),
        ("limit=5", ["query id"]),
        ("id=*&limit=-1", ["query limit"]),
        ("id=*&limit=101", ["query limit"]),
        ("id=*&limit=abc", ["query limit"]),
        ("id=*&limit=1.0", ["query limit"]),
        ("id=*&tags=x", ["query tags"]),
        ("id=*&tags=[]", ["query tags"]),
        ("limit=x&tags=x", ["query id", "query limit", "query tags"]),
        ("id=%zz", ["query"]),
        ("id=%ff", ["query"]),
        ("id=*&" + "&".join(f"tags[{n}]=x" for n in range(65)), ["query tags"]),
    ],
)
@pytest.mark.parametrize("kind", ["promises", "schedules"])
async def test_a_wrong_search_is_refused(kind: str, query: str, fields: list[str]) -> None:
    async with running() as world:
        answer = await world.send("GET", f"/{kind}?{query}")

        assert (answer.status, answer.code, answer.wrong_fields) == (400, 40000, fields)


@pytest.mark.parametrize("state", ["", "REJECTED_TIMEDOUT", "done"])
async def test_a_wrong_state_concerns_promises_only(state: str) -> None:
    async with running() as world:
        promises = await world.send("GET", f"/promises?id=*&state={state}")
        schedules = await world.send("GET", f"/schedules?id=*&state={state}")

        assert (promises.status, promises.wrong_fields) == (400, ["query state"])
        assert (schedules.status, schedules.json) == (200, {"cursor": None, "schedules": []})


@pytest.mark.parametrize("limit", ["", "0", "%2B100", "100"])
async def test_the_default_page_has_a_hundred(limit: str) -> None:
    async with running() as world:
        for number in range(101):
            await world.create(str(number), timeout=FAR_MS)

        assert len(await _ids(world, f"id=*&limit={limit}")) == 100


async def test_search_of_schedules_shows_whole_objects() -> None:
    async with running() as world:
        created = await world.send("POST", "/schedules", {**SCHEDULE, "promiseTags": {"a": "b"}})
        found = await world.send("GET", "/schedules?id=s*")

        assert found.json == {"cursor": None, "schedules": [created.json]}
