"""The tree of calls below a promise, and who waits for one."""

import base64
import json
from typing import Any

from trio.testing import MockClock

from tests.http.client import FAR_MS, NOW_MS, World, running
from troth.http.settings.settings import Settings

from .world import create_with_task, ids, limited


async def tree(world: World, path: str, headers: dict[str, str] | None = None) -> Any:
    answer = await world.send("GET", f"/tree/{path}", None, headers)
    assert answer.status == 200, answer.body
    return answer.json


def drawn(found: Any) -> list[tuple[str, str | None, int]]:
    return [(call["id"], call["parent"], call["depth"]) for call in found["calls"]]


async def test_calls_are_found_by_ids_and_tags(mock_clock: MockClock) -> None:
    async with running() as world:
        param = base64.b64encode(json.dumps({"func": "checkout"}).encode()).decode()
        await world.create("o", param={"data": param}, tags={"resonate:root": "o"})
        for name in ("o.10", "o.9", "o.1", "o.1.1", "o.7.1"):
            await world.create(name)
        await world.create("own", tags={"resonate:root": "o", "resonate:parent": "o.1"})
        await world.create("other", tags={"resonate:root": "x"})
        await world.create("o1")
        await world.send("PATCH", "/promises/o.1", {"state": "RESOLVED"})
        found = await tree(world, "o")
        assert drawn(found) == [
            ("o", None, 0),
            ("o.1", "o", 1),
            ("o.1.1", "o.1", 2),
            ("own", "o.1", 2),
            ("o.7.1", "o", 1),  # o.7 does not exist
            ("o.9", "o", 1),
            ("o.10", "o", 1),
        ]
        assert found["cut"] is False
        assert found["calls"][0]["function"] == "checkout"
        assert found["calls"][1]["state"] == "RESOLVED"
        assert found["calls"][1]["completedOn"] == NOW_MS
        assert "param" not in found["calls"][0]


async def test_a_promise_made_by_hand_is_below_the_origin_that_it_names(
    mock_clock: MockClock,
) -> None:
    """Nothing says of the origin that it is one."""
    async with running() as world:
        await world.create("o")
        await world.create("of-o", tags={"resonate:origin": "o"})
        await world.create("x", tags={"resonate:origin": "o"})
        await world.create("of-x", tags={"resonate:root": "x"})
        assert drawn(await tree(world, "o")) == [("o", None, 0), ("of-o", "o", 1), ("x", "o", 1)]
        assert drawn(await tree(world, "x")) == [("x", None, 0), ("of-x", "x", 1)]


async def test_what_belongs_to_another_promise_is_not_in_the_tree(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("b")
        await world.create("b:c", tags={"resonate:origin": "a"})
        await world.create("a")
        assert drawn(await tree(world, "a")) == [("a", None, 0)]
        assert drawn(await tree(world, "b")) == [("b", None, 0), ("b:c", "b", 1)]
        await world.send("PATCH", "/promises/b", {"state": "RESOLVED"})
        await world.send("DELETE", "/promises/b")
        assert drawn(await tree(world, "a")) == [("a", None, 0), ("b:c", "a", 1)]


async def test_the_tree_of_a_workflow(mock_clock: MockClock) -> None:
    """The envelope protocol's tags say the same in other words."""
    async with running() as world:

        async def create(name: str, parent: str, **more: str) -> None:
            tags = {"resonate:origin": "w", "resonate:parent": parent, **more}
            await world.create(name, tags=tags)

        await create("w", "w", **{"resonate:target": "poll://any@g"})
        await create("w:1", "w")
        await create("w:1.1", "w:1")
        await create("named", "w:1")
        assert drawn(await tree(world, "w")) == [
            ("w", None, 0),
            ("w:1", "w", 1),
            ("named", "w:1", 2),
            ("w:1.1", "w:1", 2),
        ]


async def test_pending_calls_show_their_tasks_and_what_is_wrong(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "o", "poll://any@nobody")
        await create_with_task(world, "o.1", "what")
        await world.create("o.2")
        calls = (await tree(world, "o"))["calls"]
        assert calls[0]["tasks"][0]["receiver"] == "poll://any@nobody"
        hint = "no worker listens to the group `nobody` (no worker is connected at all)"
        assert calls[0]["hint"] == hint
        assert calls[1]["hint"].startswith("its receiver cannot be reached: ")
        assert "hint" not in calls[2]


async def test_a_tree_is_bounded(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("o")
        for number in range(30):
            await world.create(f"o.{number}")
            await world.create(f"o.{number}.1")
        found = await tree(world, "o?limit=10")
        assert len(found["calls"]) == 10
        assert found["cut"] is True
        found = await tree(world, "o?depth=1")
        assert len(found["calls"]) == 31
        assert found["cut"] is False
        assert drawn(await tree(world, "o?depth=0")) == [("o", None, 0)]
        assert (await world.send("GET", "/tree/o?limit=2001")).wrong_fields == ["query limit"]
        assert (await world.send("GET", "/tree/x")).code == 40400


async def test_circles_and_missing_parents_end(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("o", tags={"resonate:root": "o"})
        circle = (("c1", "c2"), ("c2", "c1"), ("self", "self"), ("orphan", "missing"))
        for name, parent in circle:
            await world.create(name, tags={"resonate:root": "o", "resonate:parent": parent})
        # Who claims each other leads nowhere; whose parent is missing belongs to the root.
        assert drawn(await tree(world, "o")) == [
            ("o", None, 0),
            ("orphan", "o", 1),
            ("self", "o", 1),
        ]


async def test_a_timeout_that_has_passed_is_shown_so(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("o")
        await world.send("POST", "/promises", {"id": "o.1", "timeout": NOW_MS + 5})
        world.clock.time_ms += 10
        call = (await tree(world, "o"))["calls"][1]
        assert (call["state"], call["completedOn"]) == ("REJECTED_TIMEDOUT", NOW_MS + 5)


async def test_a_token_with_a_prefix_sees_its_part_of_the_tree(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("a/o", tags={"resonate:root": "a/o"})
        await world.create("a/o.1")
        await world.create("b/x", tags={"resonate:root": "a/o", "resonate:parent": "a/o"})
        assert ids((await tree(world, "a%2Fo"))["calls"]) == ["a/o", "a/o.1", "b/x"]
        headers = await limited(world, "a/")
        assert ids((await tree(world, "a%2Fo", headers))["calls"]) == ["a/o", "a/o.1"]


async def test_everybody_who_waits_is_listed(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("p")
        await world.create("root")
        await world.create("flow", tags={"resonate:target": "poll://any@g"})
        body = {"id": "c", "promiseId": "p", "rootPromiseId": "root", "timeout": FAR_MS}
        await world.send("POST", "/callbacks", {**body, "recv": "poll://any@g"})
        body = {"id": "s", "promiseId": "p", "timeout": FAR_MS, "recv": "https://example.com/x"}
        await world.send("POST", "/subscriptions", body)
        head = {"corrId": "1", "version": "2026-04-01"}
        for kind, data in (
            ("promise.register_listener", {"awaited": "p", "address": "poll://uni@g/1"}),
            ("promise.register_callback", {"awaited": "p", "awaiter": "flow"}),
        ):
            answer = await world.send("POST", "/", {"kind": kind, "head": head, "data": data})
            assert answer.json["head"]["status"] < 300, answer.body
        found = (await world.send("GET", "/waiting/p")).json
        assert found["id"] == "p"
        shown = [
            (one["kind"], one["id"], one.get("promiseId"), one.get("receiver"))
            for one in found["waiting"]
        ]
        assert sorted(shown, key=str) == sorted(
            [
                ("callback", "__resume:root:p", "root", "poll://any@g"),
                ("subscription", "__notify:p:s", None, "https://example.com/x"),
                ("await", "flow", "flow", None),
                ("listener", "poll://uni@g/1", None, "poll://uni@g/1"),
            ],
            key=str,
        )
        await world.send("PATCH", "/promises/p", {"state": "RESOLVED"})
        assert (await world.send("GET", "/waiting/p")).json["waiting"] == []
        assert (await world.send("GET", "/waiting/x")).code == 40400


async def test_a_tree_says_which_trace_its_root_belongs_to(mock_clock: MockClock) -> None:
    trace_id, place = (
        "0af7651916cd43dd8448eb211c80319c",
        "https://traces.example.com/{trace_id}?x=1",
    )
    async with running(Settings(trace_url=place)) as world:
        for flags in ("01", "00"):
            parent = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-{flags}"}
            body = {"id": f"o{flags}", "timeout": FAR_MS}
            assert (await world.send("POST", "/promises", body, parent)).status == 201
        await world.create("none")

        url = f"https://traces.example.com/{trace_id}?x=1"
        assert (await tree(world, "o01"))["trace"] == {"id": trace_id, "url": url}
        assert (await tree(world, "o00"))["trace"] == {"id": trace_id}
        assert "trace" not in await tree(world, "none")
