"""Why a promise is pending: each reason, and the way to it over other promises.

`test_why_for_real.py` asks real servers about real workers.
"""

from typing import Any

import pytest
from trio.testing import MockClock

from tests.http.client import FAR_MS, NOW_MS, World, running
from troth.shards.surveys import why as why_module

from .test_lists import FLOW, envelope
from .world import create_with_task, limited

LEASE_MS = 60_000


async def why(world: World, name: str, headers: dict[str, str] | None = None) -> Any:
    answer = await world.send("GET", f"/why/{name.replace('/', '%2F')}", None, headers)
    assert answer.status == 200, answer.body
    return answer.json


async def reason(world: World, name: str) -> str:
    return str((await why(world, name))["cause"]["reason"])


async def flow(world: World, name: str, **tags: str) -> None:
    """Create a workflow of its own."""
    answer = await world.create(name, tags={**FLOW, "resonate:origin": name, **tags})
    assert answer.status == 201, answer.body


async def acquire(world: World, *names: str) -> None:
    for name in names:
        await envelope(world, "task.acquire", id=name, version=0, pid="p", ttl=LEASE_MS)


async def suspend(world: World, name: str, *awaited: str) -> None:
    """Let a workflow that was acquired wait for promises."""
    data = [{"awaited": one, "awaiter": name} for one in awaited]
    actions = [{"kind": "promise.register_callback", "head": {}, "data": one} for one in data]
    await envelope(world, "task.suspend", id=name, version=1, actions=actions)


async def test_without_a_task_it_waits_for_a_client_or_a_time(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("plain")
        await world.create("timer", tags={"resonate:timer": "true"})
        await world.create("sleep", tags={"resonate:timeout": "true"})
        await world.create("done")
        await world.send("PATCH", "/promises/done", {"state": "RESOLVED"})
        assert await reason(world, "plain") == "no-task"
        assert await reason(world, "timer") == "sleeps"
        assert await reason(world, "sleep") == "sleeps"
        assert await reason(world, "done") == "completed"
        assert (await why(world, "timer"))["next"]["at"] == FAR_MS


async def test_the_state_of_a_workflows_task(mock_clock: MockClock) -> None:
    async with running() as world:
        await flow(world, "waits")
        await flow(world, "halted")
        await envelope(world, "task.halt", id="halted")
        await flow(world, "delayed", **{"resonate:delay": str(NOW_MS + 5_000)})
        await flow(world, "held")
        await acquire(world, "held")
        await flow(world, "nowhere", **{"resonate:target": "what"})
        assert await reason(world, "waits") == "no-listener"
        assert await reason(world, "halted") == "halted"
        assert await reason(world, "nowhere") == "undeliverable"
        delayed = await why(world, "delayed")
        assert (delayed["cause"]["reason"], delayed["next"]["at"]) == ("delayed", NOW_MS + 5_000)
        assert await reason(world, "held") == "holder-gone"
        with world.api.polls.connect("flows", "p"):
            assert await reason(world, "held") == "held"
            assert await reason(world, "waits") == "sending"


async def test_the_state_of_a_task_of_rest(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "any", "poll://any@g")
        await create_with_task(world, "one", "poll://uni@g/w2")
        await create_with_task(world, "push", "http://worker.test/push")
        assert await reason(world, "any") == "no-listener"
        assert await reason(world, "push") == "sending"
        with world.api.polls.connect("g", "w1"):
            assert await reason(world, "any") == "sending"
            assert await reason(world, "one") == "not-connected"
        body = {"id": "__invoke:any", "counter": 1, "processId": "w1", "ttl": LEASE_MS}
        assert (await world.send("POST", "/tasks/claim", body)).status == 201
        assert await reason(world, "any") == "holder-gone"
        with world.api.polls.connect("g", "w1"):
            assert await reason(world, "any") == "held"


async def test_causes_of_what_is_awaited_are_followed(mock_clock: MockClock) -> None:
    async with running() as world:
        for name in ("a", "b", "c", "d", "e"):
            await flow(world, name)
        await acquire(world, "a", "b")
        await suspend(world, "b", "c", "d")
        await suspend(world, "a", "b", "e")
        await envelope(world, "task.halt", id="d")
        found = await why(world, "a")
        assert [link["id"] for link in found["path"]] == ["b", "c"]
        assert found["cause"]["reason"] == "no-listener", "sooner told than what a client halted"
        assert (found["awaits"], found["awaitsCount"]) == (["b", "e"], 2)


async def test_a_circle_is_told(mock_clock: MockClock) -> None:
    async with running() as world:
        for name in ("a", "b", "c"):
            await flow(world, name)
        await acquire(world, "a", "b", "c")
        await suspend(world, "a", "b")
        await suspend(world, "b", "c")
        await suspend(world, "c", "b")
        assert await reason(world, "b") == "circle"
        assert await reason(world, "a") == "circle"


async def test_so_many_are_looked_at(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why_module, "PROMISES_LIMIT_COUNT", 2)
    async with running() as world:
        for name in ("a", "b", "c"):
            await flow(world, name)
        await acquire(world, "a", "b")
        await suspend(world, "b", "c")
        await suspend(world, "a", "b")
        found = await why(world, "a")
        assert (found["cause"]["reason"], found["cause"]["promiseId"]) == ("too-many", "c")


async def test_what_a_token_may_not_see_is_hidden(mock_clock: MockClock) -> None:
    async with running() as world:
        await flow(world, "a/f")
        await flow(world, "b/x")
        await acquire(world, "a/f")
        await suspend(world, "a/f", "b/x")
        assert [link["id"] for link in (await why(world, "a/f"))["path"]] == ["b/x"]
        found = await why(world, "a/f", await limited(world, "a/"))
        assert (found["cause"]["reason"], found["path"], found["awaits"]) == ("hidden", [], [])
        assert found["awaitsCount"] == 1


async def test_what_has_no_task_is_part_of_its_parents_work(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "o")
        await world.create("o.1")
        await world.create("own", tags={"resonate:root": "o", "resonate:parent": "o.1"})
        for name, path in (("o.1", ["o"]), ("own", ["o.1", "o"])):
            found = await why(world, name)
            assert found["cause"]["reason"] == "no-listener"
            assert [(link["id"], link["how"]) for link in found["path"]] == [
                (one, "part of") for one in path
            ]
        await world.send("PATCH", "/promises/o", {"state": "RESOLVED"})
        assert await reason(world, "o.1") == "no-task"


async def test_what_resumes_a_root_is_followed(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("root")
        await create_with_task(world, "step")
        body = {"promiseId": "step", "rootPromiseId": "root", "timeout": FAR_MS, "id": "x"}
        answer = await world.send("POST", "/callbacks", {**body, "recv": "poll://any@g"})
        assert answer.status == 201, answer.body
        found = await why(world, "root")
        assert [link["id"] for link in found["path"]] == ["step"]
        assert found["cause"]["reason"] == "no-listener"
