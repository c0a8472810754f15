"""GET /failures: what went wrong, who sees which of it, and that no kind hides another."""

import base64
import json

import pytest

from tests.http.admin.test_accounts import bearer, operator, secret_of
from tests.http.client import NOW_MS, World, running
from troth.core.codes import Code
from troth.core.failures import PARAM_LIMIT_CHARACTERS, FailureKind, Failures


async def shown(world: World, query: str = "", headers: dict[str, str] | None = None) -> list[str]:
    """What is listed: kind, id and reason of each."""
    answer = await world.send("GET", f"/failures?{query}", headers=headers)
    assert answer.status == 200, answer.body
    return [f"{row['kind']} {row['id']} {row['reason']}" for row in answer.json["failures"]]


async def fail_some(world: World) -> None:
    """Let a promise be rejected, one be canceled, one be resolved, one time out, a lease end."""
    for name, state in (("no", "REJECTED"), ("off", "REJECTED_CANCELED"), ("yes", "RESOLVED")):
        await world.create(name)
        await world.send("PATCH", f"/promises/{name}", {"state": state})
    late = {"id": "late", "timeout": NOW_MS + 5}
    await world.send("POST", "/promises", late)
    await world.create("work", tags={"resonate:invoke": "poll://any@g"})
    task = {"id": "__invoke:work", "counter": 1, "processId": "w", "ttl": 1_000}
    assert (await world.send("POST", "/tasks/claim", task)).status == 201
    world.clock.time_ms += 1_000
    await world.send("GET", "/promises/late")
    assert (await world.send("POST", "/tasks/complete", task)).status == 403


async def test_promises_and_leases_are_noted() -> None:
    async with running() as world:
        await fail_some(world)

        assert sorted(await shown(world)) == [
            "lease __invoke:work the lease ran out",
            "promise late REJECTED_TIMEDOUT",
            "promise no REJECTED",
        ]
        assert await shown(world, "kind=lease") == ["lease __invoke:work the lease ran out"]
        assert len(await shown(world, "limit=1")) == 1


async def test_the_lease_of_an_envelope_task_is_noted() -> None:
    async with running() as world:
        await world.create("p", tags={"resonate:target": "poll://any@g"})
        envelope = {
            "kind": "task.acquire",
            "head": {"corrId": "1", "version": "2026-04-01"},
            "data": {"id": "p", "version": 0, "pid": "w1", "ttl": 1_000},
        }
        assert (await world.send("POST", "/", envelope)).status == 200
        world.clock.time_ms += 1_000
        await world.send("POST", "/", {**envelope, "kind": "task.get", "data": {"id": "p"}})

        assert await shown(world) == ["lease p the lease ran out"]


async def test_promises_name_their_function() -> None:
    """The one in the param, also after the promise was deleted; a long param is not kept."""
    async with running() as world:
        for name, args in (("short", [1]), ("long", ["x" * PARAM_LIMIT_CHARACTERS])):
            data = base64.b64encode(json.dumps({"func": "charge_card", "args": args}).encode())
            body = {"id": name, "timeout": NOW_MS + 5, "param": {"data": data.decode()}}
            await world.send("POST", "/promises", body)
            await world.send("PATCH", f"/promises/{name}", {"state": "REJECTED"})
        await world.send("POST", "/promises", {**body, "id": "late", "param": {"data": "Pw=="}})
        await world.create("none")
        await world.send("PATCH", "/promises/none", {"state": "REJECTED"})
        world.clock.time_ms += 10
        await world.send("GET", "/promises/late")
        assert (await world.send("DELETE", "/promises/short")).status == 204

        rows = (await world.send("GET", "/failures")).json["failures"]
        assert {row["id"]: row["about"] for row in rows} == {
            "short": "charge_card",
            "long": "",
            "late": "",
            "none": "",
        }


async def test_pages_follow_each_other() -> None:
    async with running() as world:
        for number in range(5):
            await world.create(f"p{number}")
            await world.send("PATCH", f"/promises/p{number}", {"state": "REJECTED"})
        first = (await world.send("GET", "/failures?limit=3")).json
        rest = (await world.send("GET", f"/failures?limit=3&before={first['before']}")).json

        assert [row["id"] for row in first["failures"]] == ["p4", "p3", "p2"]
        assert [row["id"] for row in rest["failures"]] == ["p1", "p0"]
        assert rest["before"] is None


async def test_who_sees_what() -> None:
    async with running() as world:
        await fail_some(world)
        await operator(world)
        all_of_it = await secret_of(world, "metrics:read")
        promises = await secret_of(world, "promises:read")
        within = await secret_of(world, "promises:read", "metrics:read", idPrefix="w")
        await world.send("GET", "/promises/a", headers=bearer("wrong"))

        seen = await shown(world, headers=all_of_it)
        assert "login 127.0.0.1 wrong credentials" in seen
        assert len(seen) == 4
        only = await shown(world, headers=promises)
        assert only == ["promise late REJECTED_TIMEDOUT", "promise no REJECTED"]
        assert await shown(world, "kind=login", promises) == []
        assert await shown(world, headers=within) == ["lease __invoke:work the lease ran out"]


@pytest.mark.parametrize("query", ["kind=other", "limit=1001", "before=0", "before=x"])
async def test_wrong_questions_are_refused(query: str) -> None:
    async with running() as world:
        assert (await world.send("GET", f"/failures?{query}")).code == Code.INVALID


def test_a_flood_of_one_kind_hides_no_other() -> None:
    failures = Failures(limit_count=10)
    failures.note(FailureKind.BUILD, 1, "b", "x")
    for number in range(100):
        failures.note(FailureKind.LOGIN, number, "peer", "y" * 1_000)

    everything, has_more = failures.newest(list(FailureKind), 1_000)
    assert (len(everything), has_more) == (11, False)
    assert everything[-1].kind is FailureKind.BUILD
    assert len(everything[0].reason) == 200
    assert failures.totals == {FailureKind.LOGIN: 100, FailureKind.BUILD: 1}
