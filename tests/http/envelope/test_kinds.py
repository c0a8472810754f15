"""Every kind of request, and every refusal in the tables of envelope.md 5, with whole answers."""

from html import escape
from typing import Any, Final

import pytest

from tests.http.client import FAR_MS, NOW_MS, World, running
from tests.http.envelope.conversation import TARGET, Conversation
from troth.core.codes import MESSAGES, Code
from troth.http.envelope.endpoints import ENDPOINTS

TAGS: Final = {"resonate:target": TARGET}
STATES: Final = ("pending", "acquired", "suspended", "halted", "fulfilled")


def promise(promise_id: str, state: str = "pending", **more: object) -> dict[str, Any]:
    """A promise as answers show it."""
    shown: dict[str, Any] = {
        "id": promise_id,
        "state": state,
        "param": {},
        "value": {},
        "tags": TAGS,
    }
    shown |= {"timeoutAt": FAR_MS, "createdAt": NOW_MS, **more}
    return shown if state == "pending" else {"settledAt": NOW_MS, **shown}


async def prepared(world: World) -> Conversation:
    """Make a task of each state, with its id; all but the pending and the halted at version 1."""
    conversation = Conversation(world)
    await conversation.create("awaited", tags={})
    for state in STATES:
        await conversation.create(state)
        if state != "pending":
            await conversation.claim(state)
    await conversation.suspend("suspended", 1, "awaited")
    await conversation.good("task.halt", id="halted")
    await conversation.settle("fulfilled")
    return conversation


async def test_promises() -> None:
    async with running() as world:
        say = Conversation(world).good
        value = {"headers": {"h": "v"}, "data": "täst"}
        made = await say("promise.create", id="p", timeoutAt=FAR_MS, param=value, tags=TAGS)
        assert made == {"promise": promise("p", param=value)}
        assert await say("promise.create", id="p", timeoutAt=0) == made
        assert await say("promise.get", id="p") == made
        listener = {"awaited": "p", "address": "https://example.com/x"}
        assert await say("promise.register_listener", **listener) == made
        await say("promise.create", id="q", timeoutAt=FAR_MS, tags=TAGS)
        assert await say("promise.register_callback", awaited="p", awaiter="q") == made
        ended = await say("promise.settle", id="p", state="rejected_canceled", value=value)
        assert ended == {"promise": promise("p", "rejected_canceled", param=value, value=value)}
        assert await say("promise.settle", id="p", state="resolved") == ended
        assert await say("promise.register_listener", **listener) == ended
        assert await say("promise.register_callback", awaited="p", awaiter="q") == ended
        assert (await say("task.get", id="q"))["task"]["resumes"] == 2


async def test_a_whole_life_of_a_task() -> None:
    async with running() as world:
        conversation = Conversation(world)
        say = conversation.good
        action = {"kind": "x", "head": 7, "data": {"id": "t", "timeoutAt": FAR_MS, "tags": TAGS}}
        made = await say("task.create", pid="w", ttl=5, action=action)
        held = {"id": "t", "state": "acquired", "version": 1, "resumes": 0, "ttl": 5, "pid": "w"}
        assert made == {"task": held, "promise": promise("t"), "preload": []}
        assert await say("task.get", id="t") == {"task": held}
        child = {"id": "c", "timeoutAt": FAR_MS}
        fence = {"id": "t", "version": 1}
        done = await say("task.fence", **fence, action={"kind": "promise.create", "data": child})
        assert done["preload"] == []
        assert done["action"]["kind"] == "promise.create"
        assert done["action"]["head"] == {"corrId": "c3", "status": 200, "version": "2026-04-01"}
        assert done["action"]["data"] == {"promise": promise("c", tags={})}
        assert (await conversation.suspend("t", 1, "c", "c")).data == {}
        suspended = {"id": "t", "state": "suspended", "version": 1, "resumes": 0}
        assert await conversation.task("t") == suspended
        await conversation.settle("c")
        assert await conversation.task("t") == {**suspended, "state": "pending", "resumes": 1}
        claimed = await conversation.claim("t", 1, ttl=9)
        assert claimed["task"] == {**held, "version": 2, "ttl": 9}
        assert (await conversation.suspend("t", 2, "c")) == (
            await conversation.suspend("t", 2, "c", "c")
        )
        assert (await conversation.suspend("t", 2, "c")).status == 300
        assert await say("task.heartbeat", pid="w", tasks=[{"id": "t", "version": 2}]) == {}
        assert await say("task.release", id="t", version=2) == {}
        assert await say("task.halt", id="t") == {}
        assert await say("task.halt", id="t") == {}
        assert await say("task.continue", id="t") == {}
        await conversation.claim("t", 2)
        end = {"data": {"id": "t", "state": "rejected", "value": {"data": "d"}}}
        ended = await say("task.fulfill", id="t", version=3, action=end)
        assert ended == {"promise": promise("t", "rejected", value={"data": "d"})}
        assert await conversation.task("t") == {**suspended, "state": "fulfilled", "version": 3}
        again = await say("task.create", pid="w", ttl=5, action=action)
        assert (again["task"]["state"], again["promise"]) == ("fulfilled", ended["promise"])


async def test_schedules() -> None:
    async with running() as world:
        say = Conversation(world).good
        given: dict[str, Any] = {"id": "s", "cron": "0 0 1 1 *", "promiseId": "p.{{.timestamp}}"}
        given |= {"promiseTimeout": 5, "promiseTags": TAGS}
        made = await say("schedule.create", **given, promiseParam={"data": "d"})
        shown = made["schedule"]
        assert shown["nextRunAt"] > NOW_MS
        del shown["nextRunAt"]
        assert shown == {**given, "promiseParam": {"data": "d"}, "createdAt": NOW_MS}
        again = await say("schedule.create", **{**given, "cron": "1 1 1 1 *"})
        assert again["schedule"]["cron"] == "0 0 1 1 *"
        assert await say("schedule.get", id="s") == again
        assert await say("schedule.search", tags=TAGS) == {"schedules": [again["schedule"]]}
        assert await say("schedule.search", tags={"a": "b"}) == {"schedules": []}
        assert await say("schedule.delete", id="s") == {}


@pytest.mark.parametrize(("kind", "count"), [("promise", 7), ("task", 7), ("schedule", 7)])
async def test_searches_go_page_by_page_to_a_page_without_a_cursor(kind: str, count: int) -> None:
    async with running() as world:
        conversation = Conversation(world)
        for number in range(count):
            await conversation.create(f"p{number}")
            await conversation.good(
                "schedule.create",
                id=f"p{number}",
                cron="* * * * *",
                promiseId="x",
                promiseTimeout=1,
                promiseTags=TAGS,
            )
        pages: list[list[str]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await conversation.good(f"{kind}.search", limit=3, **cursor)
            pages.append([one["id"] for one in page[f"{kind}s"]])
            if "cursor" not in page:
                break
            cursor = {"cursor": page["cursor"]}
        assert [len(ids) for ids in pages] == [3, 3, 1]
        assert {one for ids in pages for one in ids} == {f"p{n}" for n in range(count)}
        other = {"promise": "task", "task": "schedule", "schedule": "promise"}[kind]
        foreign = await conversation.say(f"{other}.search", cursor)
        assert foreign.status == (400 if cursor else 200)


async def test_searches_by_state_and_tags() -> None:
    async with running() as world:
        conversation = await prepared(world)
        for state in STATES:
            found = await conversation.good("task.search", state=state)
            assert [task["id"] for task in found["tasks"]] == [state]
        found = await conversation.good("promise.search", state="resolved")
        assert [one["id"] for one in found["promises"]] == ["fulfilled"]
        found = await conversation.good("promise.search", tags=TAGS, state="pending", limit=1000)
        assert {one["id"] for one in found["promises"]} == {*STATES} - {"fulfilled"}


# --- what is refused ------------------------------------------------------------------------------

ON_A_TASK: Final[dict[str, tuple[int, int, int, int, int]]] = {
    "task.create": (200, 409, 409, 409, 200),
    "task.acquire": (200, 409, 409, 409, 409),
    "task.fence": (409, 200, 409, 409, 409),
    "task.suspend": (409, 200, 409, 409, 409),
    "task.fulfill": (409, 200, 409, 409, 409),
    "task.release": (409, 200, 409, 409, 409),
    "task.heartbeat": (200, 200, 200, 200, 200),
    "task.halt": (200, 200, 200, 200, 409),
    "task.continue": (409, 409, 409, 200, 409),
}
"""The status for a task of each of `STATES`."""


def request_for(kind: str, task_id: str, version: int) -> dict[str, Any]:
    """The data of a request for a task."""
    held = {"id": task_id, "version": version}
    new = {"id": task_id, "timeoutAt": FAR_MS, "tags": TAGS}
    child = {"kind": "promise.create", "data": {"id": "child", "timeoutAt": FAR_MS}}
    requests: dict[str, dict[str, Any]] = {
        "task.create": {"pid": "w", "ttl": 1, "action": {"data": new}},
        "task.acquire": {**held, "pid": "w", "ttl": 1},
        "task.fence": {**held, "action": child},
        "task.suspend": {
            **held,
            "actions": [{"data": {"awaited": "awaited", "awaiter": task_id}}],
        },
        "task.fulfill": {**held, "action": {"data": {"id": task_id, "state": "resolved"}}},
        "task.release": held,
        "task.heartbeat": {"pid": "w", "tasks": [held]},
        "task.halt": {"id": task_id},
        "task.continue": {"id": task_id},
    }
    return requests[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ON_A_TASK)
@pytest.mark.parametrize("state", STATES)
async def test_each_kind_on_a_task_of_each_state(kind: str, state: str) -> None:
    async with running() as world:
        conversation = await prepared(world)
        version = 0 if state == "pending" else 1
        before = await conversation.task(state)
        spoken = await conversation.say(kind, request_for(kind, state, version))

        assert spoken.status == ON_A_TASK[kind][STATES.index(state)], spoken
        if spoken.status == 409:
            assert await conversation.task(state) == before


@pytest.mark.parametrize("kind", sorted(ON_A_TASK.keys() - {"task.create", "task.heartbeat"}))
async def test_a_task_that_is_not_there_is_404(kind: str) -> None:
    async with running() as world:
        spoken = await Conversation(world).say(kind, request_for(kind, "nothing", 0))

        assert (spoken.status, spoken.text) == (404, MESSAGES[Code.TASK_NOT_FOUND])


@pytest.mark.parametrize(
    "kind", ["task.acquire", "task.fence", "task.suspend", "task.fulfill", "task.release"]
)
@pytest.mark.parametrize("version", [0, 2, 2**63 - 1])
async def test_another_version_is_409(kind: str, version: int) -> None:
    async with running() as world:
        conversation = await prepared(world)
        state = "acquired"
        if kind == "task.acquire":
            state, version = "pending", version + 1 if version < 5 else version
        spoken = await conversation.say(kind, request_for(kind, state, version))

        assert spoken.status == 409


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("promise.get", {"id": "nothing"}, 404),
        ("promise.settle", {"id": "nothing", "state": "resolved"}, 404),
        ("promise.register_callback", {"awaited": "nothing", "awaiter": "pending"}, 404),
        ("promise.register_callback", {"awaited": "awaited", "awaiter": "nothing"}, 422),
        ("promise.register_callback", {"awaited": "pending", "awaiter": "awaited"}, 422),
        ("promise.register_listener", {"awaited": "nothing", "address": "poll://uni@g/i"}, 404),
        ("schedule.get", {"id": "nothing"}, 404),
        ("schedule.delete", {"id": "nothing"}, 404),
        (
            "task.create",
            {
                "pid": "w",
                "ttl": 1,
                "action": {"data": {"id": "awaited", "timeoutAt": 1, "tags": TAGS}},
            },
            422,
        ),
        (
            "task.suspend",
            {
                "id": "acquired",
                "version": 1,
                "actions": [
                    {"data": {"awaited": "awaited", "awaiter": "acquired"}},
                    {"data": {"awaited": "nothing", "awaiter": "acquired"}},
                ],
            },
            422,
        ),
    ],
)
async def test_other_refusals(kind: str, data: dict[str, Any], status: int) -> None:
    async with running() as world:
        conversation = await prepared(world)

        assert (await conversation.say(kind, data)).status == status


async def test_what_a_node_asks_again_is_answered_as_it_was_though_the_fence_is_gone() -> None:
    """A client whose owner was lost heard nothing: 409 would tell it that nothing was done."""
    async with running() as world:
        conversation = await prepared(world)
        again = Conversation(world, {"troth-asked-again": "1"})
        child = {"id": "child", "timeoutAt": FAR_MS}
        held = {"id": "acquired", "version": 1}
        create = {**held, "action": {"kind": "promise.create", "data": child}}
        settled = {"id": "child", "state": "resolved", "value": {"data": "MQ=="}}
        settle = {**held, "action": {"kind": "promise.settle", "data": settled}}
        other = {**held, "action": {"kind": "promise.create", "data": {**child, "id": "other"}}}
        done = [await conversation.good("task.fence", **one) for one in (create, settle)]
        await conversation.good("task.release", **held)

        assert (await conversation.say("task.fence", create)).status == 409
        for asked, first in zip((create, settle), done, strict=True):
            shown = (await again.good("task.fence", **asked))["action"]
            assert shown["head"]["status"] == 200
            assert shown["data"]["promise"]["id"] == first["action"]["data"]["promise"]["id"]
        assert (await again.say("task.fence", other)).status == 409, "that was not done"


async def test_a_fence_whose_action_fails_succeeds_itself() -> None:
    async with running() as world:
        conversation = await prepared(world)
        action = {"kind": "promise.settle", "data": {"id": "nothing", "state": "resolved"}}
        done = await conversation.good("task.fence", id="acquired", version=1, action=action)

        assert done["action"]["head"]["status"] == 404
        assert done["action"]["data"] == MESSAGES[Code.PROMISE_NOT_FOUND]


async def test_the_examples_of_the_documentation_work_one_after_the_other() -> None:
    async with running() as world:
        (row,) = ENDPOINTS
        page = (await world.send("GET", "/docs")).body.decode()
        for command in row.examples:
            _, body, _ = command.split("'")
            answer = await world.send("POST", "/", raw=body.encode())
            assert answer.status == 200, command
            assert escape(command, quote=False) in page or escape(command) in page
