"""Searches with more than an id: exact states, times, less of the values, pages that end early."""

import base64

import pytest

from tests.http.client import NOW_MS, World, running
from troth.shards import gathering

DATA = base64.b64encode(b"x" * 600).decode()
STATES = {
    "pending": None,
    "resolved": "RESOLVED",
    "rejected": "REJECTED",
    "canceled": "REJECTED_CANCELED",
}


async def filled(world: World) -> None:
    """A promise of each state, a second apart."""
    for name, state in STATES.items():
        world.clock.time_ms += 1_000
        await world.create(name, param={"data": DATA, "headers": {"a": "b"}})
        if state is not None:
            await world.send("PATCH", f"/promises/{name}", {"state": state})
    await world.send("POST", "/promises", {"id": "timedout", "timeout": world.clock.time_ms + 1})
    world.clock.time_ms += 2


async def found(world: World, query: str) -> list[str]:
    answer = await world.send("GET", f"/promises?id=*&{query}")
    assert answer.status == 200, answer.body
    return [row["id"] for row in answer.json["promises"]]


async def test_states_are_exact_ones() -> None:
    async with running() as world:
        await filled(world)
        for name in (*STATES, "timedout"):
            assert await found(world, f"states={name}") == [name]
        assert await found(world, "states=pending,timedout") == ["timedout", "pending"]
        assert await found(world, "state=rejected") == ["timedout", "canceled", "rejected"]
        answer = await world.send("GET", "/promises?id=*&states=pending,gone")
        assert answer.wrong_fields == ["query states"]


async def test_times_are_from_and_before() -> None:
    async with running() as world:
        await filled(world)
        first = NOW_MS + 1_000
        for query, names in {
            f"createdFrom={first + 1_000}&createdTo={first + 2_000}": ["resolved"],
            f"createdTo={first + 1}": ["pending"],
            f"createdFrom={first + 3_000}": ["timedout", "canceled"],
            f"completedFrom={first + 2_000}&completedTo={first + 2_001}": ["rejected"],
            f"completedTo={first + 1_001}": ["resolved"],
        }.items():
            assert await found(world, query) == names, query
        answer = await world.send("GET", "/promises?id=*&createdFrom=x&completedTo=1e3")
        assert answer.wrong_fields == ["query createdFrom", "query completedTo"]


async def test_values_may_be_left_out() -> None:
    async with running() as world:
        await filled(world)

        async def param(values: str) -> object:
            answer = await world.send("GET", f"/promises?id=pending&values={values}")
            return answer.json["promises"][0]["param"]

        whole = DATA
        assert await param("full") == {"headers": {"a": "b"}, "data": whole}
        assert await param("none") == {"headers": {"a": "b"}, "size": len(whole)}
        preview = {"headers": {"a": "b"}, "data": whole[:256], "size": len(whole)}
        assert await param("preview") == preview
        answer = await world.send("GET", "/promises?id=*&values=some&partial=maybe")
        assert answer.wrong_fields == ["query values", "query partial"]


async def test_pages_that_end_early_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PARTIAL_LIMIT_S", 0.0)
    monkeypatch.setattr(gathering, "PARTIAL_SCAN_COUNT", 3)
    async with running() as world:
        for number in range(200):
            await world.create(f"p{number}")
        names: list[str] = []
        through = 0
        seen: set[int] = set()
        target = "/promises?id=p*7&partial=true&values=none"
        pages_count = 0
        while True:
            pages_count += 1
            page = (await world.send("GET", target)).json
            names += [row["id"] for row in page["promises"]]
            assert page["looked"]["of"] == 200
            assert through <= page["looked"]["through"] <= 200
            through = page["looked"]["through"]
            seen.add(through)
            if page["cursor"] is None:
                break
            target = f"/promises?cursor={page['cursor']}"
        assert names == [f"p{number}" for number in range(199, -1, -1) if number % 10 == 7]
        assert pages_count > 3
        assert any(0 < one < 200 for one in seen)
        assert through == 200
        whole = (await world.send("GET", "/promises?id=p*7")).json
        assert "looked" not in whole
        assert whole["cursor"] is None
