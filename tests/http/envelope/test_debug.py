"""The debug operations of `POST /`: off unless set, and what they show and do (envelope.md 10)."""

from typing import Any, Final

import pytest

from tests.http.admin.test_accounts import new_account, operator, secret_of
from tests.http.client import NOW_MS, running
from tests.http.envelope.conversation import TARGET, Conversation
from troth.core.catalog import Scope
from troth.core.limits import WORKFLOW_RETRY_MS
from troth.http.envelope.debug import DEBUG_PROCEDURES
from troth.http.settings.settings import Settings

ON: Final = Settings(debug_operations=True)
TARGETED: Final = {"resonate:target": TARGET}
LATE_MS: Final = 1_000_000


class At:
    """A client whose requests say what time it is."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def good(self, now_ms: int, kind: str, /, **data: object) -> Any:
        """Make a request at a time; its data."""
        spoken = await self._conversation.say(kind, data, **{"resonate:debug_time": now_ms})
        assert spoken.status == 200, spoken
        return spoken.data

    async def tick(self, now_ms: int) -> None:
        """Let everything happen that is due."""
        assert await self._conversation.good("debug.tick", time=now_ms) == []

    async def snap(self) -> Any:
        """Return all there is."""
        return await self._conversation.good("debug.snap")


@pytest.mark.parametrize("kind", DEBUG_PROCEDURES)
async def test_they_are_off_unless_set(kind: str) -> None:
    async with running() as world:
        await Conversation(world).create("p")
        refused = await Conversation(world).say(kind, {"time": 0})

        assert (refused.status, refused.text) == (403, "debug operations are off")
        assert await Conversation(world).good("promise.get", id="p")


async def test_the_time_of_a_request_counts_only_where_they_are_on() -> None:
    for settings, created_at in ((Settings(), NOW_MS), (ON, 7)):
        async with running(settings) as world:
            data = {"id": "p", "timeoutAt": 2 * NOW_MS}
            spoken = await Conversation(world).say(
                "promise.create", data, **{"resonate:debug_time": 7}
            )
            assert spoken.data["promise"]["createdAt"] == created_at
            # Without a time it is the clock's, whatever the one before has said.
            now = await Conversation(world).create("q", tags={}, timeoutAt=2 * NOW_MS)
            assert now["createdAt"] == NOW_MS


async def test_a_wrong_time_is_refused() -> None:
    async with running(ON) as world:
        for wrong in (-1, "1", 1.5):
            spoken = await Conversation(world).say(
                "promise.get", {"id": "p"}, **{"resonate:debug_time": wrong}
            )
            assert spoken.status == 400
        assert (await Conversation(world).say("debug.tick", {})).status == 400
        assert (await Conversation(world).say("debug.tick", {"time": -1})).status == 400


async def test_everything_happens_at_the_time_that_is_said() -> None:
    async with running(ON) as world:
        conversation = Conversation(world)
        at = At(conversation)
        assert await conversation.good("debug.start") == {}
        root = {"id": "r", "timeoutAt": LATE_MS, "tags": TARGETED}
        await at.good(10, "promise.create", **root)
        snap = await at.snap()
        assert snap["taskTimeouts"] == [{"id": "r", "type": 0, "timeout": 10 + WORKFLOW_RETRY_MS}]
        execute = {"kind": "execute", "head": {"serverUrl": world.api.url}}
        message = {**execute, "data": {"task": {"id": "r", "version": 0}}}
        assert snap["messages"] == [{"address": TARGET, "message": message}]

        await at.good(20, "task.acquire", id="r", version=0, pid="w", ttl=1_000)
        assert (await at.snap())["taskTimeouts"] == [{"id": "r", "type": 1, "timeout": 1_020}]
        held = [{"id": "r", "version": 1}]
        await at.good(500, "task.heartbeat", pid="w", tasks=held)
        snap = await at.snap()
        assert snap["taskTimeouts"] == [{"id": "r", "type": 1, "timeout": 1_500}]
        assert snap["messages"] == []

        for name in ("a", "b"):
            await at.good(600, "promise.create", id=name, timeoutAt=2_000)
        await at.good(600, "promise.register_listener", awaited="a", address="poll://uni@g/1")
        actions = [{"data": {"awaited": name, "awaiter": "r"}} for name in ("a", "b")]
        await at.good(700, "task.suspend", id="r", version=1, actions=actions)
        snap = await at.snap()
        assert all(one["awaiter"] == "r" for one in snap["callbacks"])
        assert sorted(one["awaited"] for one in snap["callbacks"]) == ["a", "b"]
        assert snap["listeners"] == [{"id": "a", "address": "poll://uni@g/1"}]
        assert {one["id"]: one["timeout"] for one in snap["promiseTimeouts"]} == {
            "a": 2_000,
            "b": 2_000,
            "r": LATE_MS,
        }
        assert snap["taskTimeouts"] == []

        await at.good(800, "promise.settle", id="b", state="resolved")
        snap = await at.snap()
        assert snap["taskTimeouts"] == [{"id": "r", "type": 0, "timeout": 800 + WORKFLOW_RETRY_MS}]
        assert snap["tasks"] == [{"id": "r", "state": "pending", "version": 1, "resumes": 1}]

        await at.tick(2_000)
        snap = await at.snap()
        states = {one["id"]: (one["state"], one.get("settledAt")) for one in snap["promises"]}
        assert states == {
            "r": ("pending", None),
            "a": ("rejected_timedout", 2_000),
            "b": ("resolved", 800),
        }
        assert [one["message"]["kind"] for one in snap["messages"]].count("unblock") == 1
        found = await at.good(2_000, "promise.search", state="pending")
        assert [one["id"] for one in found["promises"]] == ["r"]
        gone = await at.good(LATE_MS, "promise.search", state="pending")
        assert gone["promises"] == []
        assert world.outbox.sent == []


async def test_after_stop_messages_leave_and_after_reset_nothing_is_there() -> None:
    async with running(ON) as world:
        conversation = Conversation(world)
        await conversation.good("debug.start")
        await conversation.create("r")
        assert world.outbox.sent == []
        assert await conversation.good("debug.stop") == {}
        assert world.outbox.sent == ["r"]

        assert await conversation.good("debug.reset") == {}
        snap = await conversation.good("debug.snap")
        assert set(snap) == {
            *("promises", "promiseTimeouts", "callbacks", "listeners"),
            *("tasks", "taskTimeouts", "messages"),
        }
        assert not any(snap.values())


async def test_messages_to_workers_of_the_rest_api_are_shown_too() -> None:
    async with running(ON) as world:
        await Conversation(world).good("debug.start")
        await world.create("i", tags={"resonate:invoke": "poll://any@g"})
        (shown,) = (await Conversation(world).good("debug.snap"))["messages"]

        assert shown["message"]["type"] == "invoke"


@pytest.mark.parametrize("kind", DEBUG_PROCEDURES)
async def test_with_accounts_they_are_the_operators(kind: str) -> None:
    async with running(ON) as world:
        data = {"time": NOW_MS}
        assert (await Conversation(world).say(kind, data)).status == 200
        await new_account(world)
        assert (await Conversation(world).say(kind, data)).status == 401
        token = await secret_of(world, *(Scope.PROMISES_READ.value, Scope.PROMISES_WRITE.value))
        assert (await Conversation(world, token).say(kind, data)).status == 403
        key = await operator(world)
        assert (await Conversation(world, key).say(kind, data)).status == 200
