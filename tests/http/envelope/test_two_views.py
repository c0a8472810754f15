"""One promise, two views: what is made through one API is seen and ended through the other (11)."""

import base64
from typing import Any, Final

import pytest

from tests.http.client import FAR_MS, NOW_MS, World, running
from tests.http.envelope.conversation import TARGET, Conversation
from troth.core.codes import Code
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import PollConnection

DATA: Final = base64.b64encode(b"7").decode()
TARGETED: Final = {"resonate:target": TARGET}
STATES: Final = ("resolved", "rejected", "rejected_canceled")


async def rest(world: World, method: str, path: str, body: object = None) -> Any:
    """Make a request of the REST API that succeeds; return its body."""
    answer = await world.send(method, path, body)
    assert answer.status in (200, 201), answer.body
    return answer.json


async def test_a_promise_of_the_rest_api_as_an_envelope_shows_it() -> None:
    async with running() as world:
        param = {"headers": {"a": "b"}, "data": DATA}
        await world.create("p", param=param, tags={"t": "1"})
        await world.create("bare")
        conversation = Conversation(world)

        assert await conversation.good("promise.get", id="p") == {
            "promise": {
                "id": "p",
                "state": "pending",
                "param": param,
                "value": {},
                "tags": {"t": "1"},
                "timeoutAt": FAR_MS,
                "createdAt": NOW_MS,
            }
        }
        bare = (await conversation.good("promise.get", id="bare"))["promise"]
        assert (bare["param"], bare["value"], bare["tags"]) == ({}, {}, {})


async def test_a_promise_of_an_envelope_as_the_rest_api_shows_it() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await conversation.create("p", param={"data": "no base64!"}, tags={"t": "1"})
        await conversation.settle("p", value={"headers": {"h": ""}, "data": ""})
        shown = await rest(world, "GET", "/promises/p")

        assert (shown["state"], shown["timeout"], shown["tags"]) == ("RESOLVED", FAR_MS, {"t": "1"})
        assert shown["param"]["data"] == "no base64!"
        assert (shown["createdOn"], shown["completedOn"]) == (NOW_MS, NOW_MS)
        assert "idempotencyKeyForCreate" not in shown


@pytest.mark.parametrize("state", STATES)
async def test_each_end_is_the_same_through_both(state: str) -> None:
    async with running() as world:
        conversation = Conversation(world)
        await world.create("r")
        await conversation.create("e", tags={})
        settled = await conversation.settle("r", state, value={"data": DATA})
        await rest(world, "PATCH", "/promises/e", {"state": state.upper(), "value": {"data": DATA}})

        assert (await rest(world, "GET", "/promises/r"))["state"] == state.upper()
        seen = (await conversation.good("promise.get", id="e"))["promise"]
        for promise in (settled, seen):
            assert (promise["state"], promise["settledAt"]) == (state, NOW_MS)
            assert promise["value"] == {"data": DATA}
        # What has ended stays as it is, each API in its own words.
        assert await conversation.settle("e", "rejected") == seen
        again = await world.send("PATCH", "/promises/r", {"state": "RESOLVED"})
        assert again.status == 403


async def test_each_api_has_its_own_rule_for_an_id_that_exists() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await world.create("r")
        assert (await conversation.create("r"))["tags"] == {}
        await conversation.create("e")
        for key in ({}, {"Idempotency-Key": "k"}):
            body = {"id": "e", "timeout": FAR_MS}
            answer = await world.send("POST", "/promises", body, key)
            assert (answer.status, answer.code) == (409, Code.PROMISE_EXISTS)


async def test_a_promise_that_is_late_already() -> None:
    async with running() as world:
        late = await Conversation(world).create("e", timeoutAt=5, tags={})
        answer = await world.send("POST", "/promises", {"id": "r", "timeout": 5})

        assert (late["state"], late["createdAt"], late["settledAt"]) == (
            "rejected_timedout",
            5,
            5,
        )
        assert (answer.status, answer.json["state"]) == (201, "PENDING")
        assert answer.json["createdOn"] == NOW_MS


@pytest.mark.parametrize("tag", ["resonate:timeout", "resonate:timer"])
async def test_either_tag_lets_a_deadline_resolve_through_either_api(tag: str) -> None:
    async with running() as world:
        conversation = Conversation(world)
        for identifier, make in (("r", world.create), ("e", conversation.create)):
            await make(identifier, tags={tag: "true"})
        world.clock.time_ms = FAR_MS
        for identifier in ("r", "e"):
            seen = (await conversation.good("promise.get", id=identifier))["promise"]
            assert (seen["state"], seen["settledAt"]) == ("resolved", FAR_MS)
            shown = await rest(world, "GET", f"/promises/{identifier}")
            assert (shown["state"], shown["completedOn"]) == ("RESOLVED", FAR_MS)


async def test_the_tag_decides_what_task_there_is_whoever_made_the_promise() -> None:
    async with running() as world:
        conversation = Conversation(world)
        invoke = {"resonate:invoke": "poll://any@g"}
        await world.create("target", tags=TARGETED)
        await world.create("both", tags={**TARGETED, **invoke})
        await conversation.create("invoke", tags=invoke)
        await conversation.create("both/e", tags={**TARGETED, **invoke})

        found = (await conversation.good("task.search"))["tasks"]
        assert {task["id"] for task in found} == {"target", "both", "both/e"}
        assert (await conversation.say("task.get", {"id": "invoke"})).status == 404
        assert sorted(world.outbox.sent) == ["__invoke:invoke", "both", "both/e", "target"]
        claimed = await world.send(
            "POST",
            "/tasks/claim",
            {"id": "__invoke:invoke", "counter": 1, "processId": "w", "ttl": 1},
        )
        assert claimed.status == 201
        for hidden in ("target", "__invoke:target", "__invoke:both"):
            body = {"id": hidden, "counter": 1, "processId": "w", "ttl": 1}
            assert (await world.send("POST", "/tasks/claim", body)).status == 404


async def test_a_workflow_that_curl_starts_is_run_by_a_new_sdk() -> None:
    async with running() as world:
        await world.create("w", param={"data": DATA}, tags=TARGETED)
        conversation = Conversation(world)
        claimed = await conversation.claim("w")
        assert claimed["promise"]["param"] == {"data": DATA}
        end = {"data": {"id": "w", "state": "resolved", "value": {"data": DATA}}}
        await conversation.good("task.fulfill", id="w", version=1, action=end)

        shown = await rest(world, "GET", "/promises/w")
        assert (shown["state"], shown["value"]["data"]) == ("RESOLVED", DATA)


async def test_a_bad_target_is_taken_by_rest_and_refused_by_an_envelope() -> None:
    async with running() as world:
        for number, tags in enumerate(
            (
                {"resonate:target": "gcps://x/y"},
                {"resonate:target": "nobody"},
                {**TARGETED, "resonate:delay": "soon"},
            )
        ):
            answer = await world.create(f"r{number}", tags=tags)
            assert answer.status == 201, tags
            data = {"id": f"e{number}", "timeoutAt": FAR_MS, "tags": tags}
            assert (await Conversation(world).say("promise.create", data)).status == 400, tags
            assert (await Conversation(world).task(f"r{number}"))["state"] == "pending"


async def test_a_heartbeat_of_one_api_does_not_touch_the_other() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await conversation.create("e")
        await conversation.claim("e", pid="w", ttl=1000)
        await world.create("r", tags={"resonate:invoke": "poll://any@g"})
        body = {"id": "__invoke:r", "counter": 1, "processId": "w", "ttl": 1000}
        await rest(world, "POST", "/tasks/claim", body)

        beat = await rest(world, "POST", "/tasks/heartbeat", {"processId": "w"})
        assert beat == {"tasksAffected": 1}


async def test_all_that_wait_for_a_promise_hear_of_its_end() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await conversation.create("awaited", tags={})
        await conversation.create("awaiter")
        await conversation.claim("awaiter")
        assert (await conversation.suspend("awaiter", 1, "awaited")).status == 200
        listener = {"awaited": "awaited", "address": "poll://uni@g/l"}
        await conversation.good("promise.register_listener", **listener)
        await world.create("root", tags={"resonate:invoke": "poll://any@g"})
        claim = {"id": "__invoke:root", "counter": 1, "processId": "w", "ttl": 60_000}
        await rest(world, "POST", "/tasks/claim", claim)
        body = {"rootPromiseId": "root", "timeout": FAR_MS, "recv": "poll://any@g"}
        await rest(world, "POST", "/promises/callback/awaited", body)
        await rest(world, "POST", "/tasks/complete", {"id": "__invoke:root", "counter": 1})
        body = {"id": "s", "timeout": FAR_MS, "recv": "poll://any@g"}
        await rest(world, "POST", "/promises/subscribe/awaited", body)
        world.outbox.sent.clear()
        await rest(world, "PATCH", "/promises/awaited", {"state": "RESOLVED"})

        assert sorted(world.outbox.sent) == [
            "__notify:awaited:s",
            "__resume:root:awaited",
            "awaited",  # unblock
            "awaiter",  # execute
        ]
        assert (await conversation.task("awaiter"))["state"] == "pending"


async def test_settling_through_rest_ends_the_task_of_a_workflow() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await conversation.create("w")
        await conversation.claim("w")
        await rest(world, "PATCH", "/promises/w", {"state": "REJECTED"})

        assert await conversation.task("w") == {
            "id": "w",
            "state": "fulfilled",
            "version": 1,
            "resumes": 0,
        }
        end = {"data": {"id": "w", "state": "resolved"}}
        late = {"id": "w", "version": 1, "action": end}
        assert (await conversation.say("task.fulfill", late)).status == 409


async def test_schedules_share_their_ids_too() -> None:
    async with running() as world:
        conversation = Conversation(world)
        made = {"cron": "* * * * *", "promiseId": "s.{{.timestamp}}", "promiseTimeout": 1000}
        of_rest = {**made, "id": "r", "description": "d", "tags": {"a": "b"}}
        await rest(world, "POST", "/schedules", of_rest)
        created = await conversation.good("schedule.create", id="e", **made, promiseTags=TARGETED)

        shown = await conversation.good("schedule.get", id="r")
        assert shown["schedule"] == {
            "id": "r",
            **made,
            "promiseParam": {},
            "promiseTags": {},
            "createdAt": NOW_MS,
            "nextRunAt": shown["schedule"]["nextRunAt"],
        }
        by_rest = await rest(world, "GET", "/schedules/e")
        assert by_rest["nextRunTime"] == created["schedule"]["nextRunAt"]
        assert by_rest["promiseTags"] == TARGETED
        answer = await world.send("POST", "/schedules", {**of_rest, "id": "e"})
        assert (answer.status, answer.code) == (409, Code.SCHEDULE_EXISTS)
        same = await conversation.good("schedule.create", id="r", **made, promiseTags=TARGETED)
        assert same == shown
        assert await conversation.good("schedule.delete", id="r") == {}
        assert (await world.send("GET", "/schedules/r")).status == 404


async def test_both_searches_find_all_promises() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await world.create("r")
        await conversation.create("e")
        found = (await conversation.good("promise.search"))["promises"]
        listed = (await rest(world, "GET", "/promises?id=*"))["promises"]

        assert [one["id"] for one in found] == [one["id"] for one in listed] == ["e", "r"]


# --- streams (11.7) -------------------------------------------------------------------------------


async def undecided(world: World) -> PollConnection:
    """Connect a worker that has not shown which API it speaks."""
    connection = world.api.polls.connect("g", "worker")
    assert connection.dialect is None
    return connection


async def test_a_claim_through_rest_decides_the_stream_of_its_process() -> None:
    async with running() as world:
        connection = await undecided(world)
        await world.create("r", tags={"resonate:invoke": "poll://any@g"})
        claim = {"id": "__invoke:r", "counter": 1, "processId": "worker", "ttl": 1000}
        await world.send("POST", "/tasks/claim", {**claim, "counter": 7})
        assert connection.dialect is None, "it was refused"
        await rest(world, "POST", "/tasks/claim", claim)
        assert connection.dialect is Dialect.REST


async def test_a_promise_made_with_its_task_decides_too() -> None:
    async with running() as world:
        connection = await undecided(world)
        promise = {"id": "r", "timeout": FAR_MS, "tags": {"resonate:invoke": "poll://any@g"}}
        body = {"promise": promise, "task": {"processId": "worker", "ttl": 1000}}
        await rest(world, "POST", "/promises/task", body)
        assert connection.dialect is Dialect.REST


@pytest.mark.parametrize("path", ["/promises/callback/r", "/callbacks", "/promises/subscribe/r"])
async def test_a_receiver_of_the_rest_api_decides_its_stream(path: str) -> None:
    async with running() as world:
        connection = await undecided(world)
        await world.create("r")
        body: dict[str, object] = {"id": "s", "promiseId": "r", "rootPromiseId": "root"}
        body |= {"timeout": FAR_MS, "recv": "poll://any@other/worker"}
        await rest(world, "POST", path, body)
        assert connection.dialect is None, "the group is another"
        recv = {"type": "poll", "data": {"group": "g", "id": "worker"}}
        await rest(world, "POST", path, {**body, "id": "s2", "recv": recv})
        assert connection.dialect is Dialect.REST


@pytest.mark.parametrize("kind", ["task.acquire", "task.create", "promise.register_listener"])
async def test_an_envelope_decides_the_stream_of_its_sender(kind: str) -> None:
    async with running() as world:
        connection = await undecided(world)
        conversation = Conversation(world)
        await conversation.create("e")
        action = {"data": {"id": "n", "timeoutAt": FAR_MS, "tags": TARGETED}}
        data: dict[str, dict[str, Any]] = {
            "task.acquire": {"id": "e", "version": 0, "pid": "worker", "ttl": 1000},
            "task.create": {"pid": "worker", "ttl": 1000, "action": action},
            "promise.register_listener": {"awaited": "e", "address": "poll://any@g/worker"},
        }
        await conversation.good(kind, **data[kind])
        assert connection.dialect is Dialect.ENVELOPE
        # The first decision counts.
        world.api.polls.decide("worker", Dialect.REST)
        assert connection.dialect is Dialect.ENVELOPE
