"""`POST /promises/batch`: each call is answered as if it were alone, and a batch stays bounded."""

import json
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.client import FAR_MS, Answer, World, running
from tests.http.tenants import tenant
from troth.core.catalog import Scope
from troth.core.commands import ReadPromise
from troth.core.limits import (
    BATCH_ANSWER_LIMIT_BYTES,
    BATCH_COMPLETIONS_COUNT,
    BATCH_ITEMS_LIMIT_COUNT,
    BATCH_SLICE_COUNT,
    LARGE_BODY_BYTES,
)
from troth.core.model import Trace
from troth.shards.shards import Shards

Item = dict[str, Any]


async def alone(world: World, item: Item) -> Answer:
    """Make one call of a batch as a request of its own."""
    ((kind, body),) = item.items()
    body = dict(body)
    headers = {}
    key, strict = body.pop("idempotencyKey", None), body.pop("strict", None)
    if key is not None:
        headers["Idempotency-Key"] = key
    if strict is not None:
        headers["Strict"] = json.dumps(strict)
    if kind == "create":
        return await world.send("POST", "/promises", body, headers)
    if kind == "read":
        return await world.send("GET", f"/promises/{body['id']}")
    return await world.send("PATCH", f"/promises/{body.pop('id')}", body, headers)


async def batch(world: World, items: list[Item], **more: Any) -> list[Any]:
    """Send a batch; its answers."""
    answer = await world.send("POST", "/promises/batch", items, **more)
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json
    return found


def create(promise_id: str, **more: object) -> Item:
    return {"create": {"id": promise_id, "timeout": FAR_MS, **more}}


def complete(promise_id: str, state: str = "RESOLVED", **more: object) -> Item:
    return {"complete": {"id": promise_id, "state": state, **more}}


def meant(body: Any, kind: str = "") -> Any:
    """Leave out of a refusal the request's id, and where in a batch a field is."""
    text = json.dumps(body).replace(f"{kind}.", "") if kind else json.dumps(body)
    found = json.loads(text)
    for detail in found.get("error", {}).get("details", []):
        detail["metadata"].pop("requestId", None)
    return found


def anything(chance: random.Random) -> Item:
    """Choose a call: most of them good, about few promises."""
    promise_id = chance.choice(["a", "b", "c", "é", ""])
    kind = chance.choice(["create", "complete", "read"])
    if kind == "read":
        return {"read": {"id": promise_id or "a"}}
    body: dict[str, Any] = {"id": promise_id if kind == "create" else promise_id or "a"}
    if kind == "create":
        body["timeout"] = chance.choice([FAR_MS, 5, None, "x"])
        body["tags"] = chance.choice([None, {"t": "u"}, {"t": 1}])
        body["param"] = chance.choice([None, {"data": "aGk="}, {"data": "@"}])
    else:
        body["state"] = chance.choice(["RESOLVED", "rejected", "REJECTED_CANCELED", "nonsense"])
        body["value"] = chance.choice([None, {"headers": {"h": "1"}, "data": "aGk="}])
    if chance.random() < 0.5:
        body["idempotencyKey"] = chance.choice(["k", "", "é"])
    if chance.random() < 0.3:
        body["strict"] = chance.choice([True, False])
    return {kind: body}


@pytest.mark.parametrize("seed", range(6))
async def test_each_call_is_answered_as_it_would_be_alone(seed: int) -> None:
    chance = random.Random(seed)
    items = [anything(chance) for _ in range(300)]
    async with running() as one, running() as other:
        singly = [await alone(one, item) for item in items]
        together = await batch(other, items)

    for item, single, answer in zip(items, singly, together, strict=True):
        (kind,) = item
        found = answer["status"], meant(answer["body"], kind)
        assert found == (single.status, meant(single.json)), (seed, item)


async def test_lines_are_answered_by_lines() -> None:
    lines = b'\r\n{"create": {"id": "a", "timeout": 9}}\r\n\n{"read": {"id": "b"}}\nnonsense'
    async with running() as world:
        kind = {"Content-Type": "Application/X-NDJSON; charset=utf-8"}
        answer = await world.send("POST", "/promises/batch", headers=kind, raw=lines)

        assert answer.header("content-type") == "application/x-ndjson"
        statuses = [json.loads(line)["status"] for line in answer.body.splitlines()]
        assert statuses == [201, 404, 400]


async def test_an_empty_batch_has_no_answers() -> None:
    async with running() as world:
        assert await batch(world, []) == []


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"null", b"[", b"[1,]", b"[]x", b"\xff", b"[" * 100_000]
)
async def test_what_is_no_array_is_refused(raw: bytes) -> None:
    async with running() as world:
        answer = await world.send("POST", "/promises/batch", raw=raw)

        assert (answer.status, answer.wrong_fields) == (400, ["body"])


TWO: Item = {"create": {"id": "a"}, "read": {"id": "a"}}


@pytest.mark.parametrize(
    "item", [{}, {"create": None}, {"creates": {"id": "a"}}, 5, None, [], "x", TWO]
)
async def test_a_call_that_is_none_spoils_no_other(item: Any) -> None:
    async with running() as world:
        answers = await batch(world, [create("first"), item, create("last")])

        assert [answer["status"] for answer in answers] == [201, 400, 201]


async def test_a_batch_of_refused_calls_only_is_answered() -> None:
    async with running() as world:
        with trio.fail_after(60):
            answers = await batch(world, [TWO] * (2 * BATCH_SLICE_COUNT))

        assert [answer["status"] for answer in answers] == [400] * (2 * BATCH_SLICE_COUNT)


async def test_a_batch_has_so_many_calls_at_most() -> None:
    read = {"read": {"id": "a"}}
    async with running() as world:
        full = await batch(world, [read] * BATCH_ITEMS_LIMIT_COUNT)
        answer = await world.send(
            "POST", "/promises/batch", [create("a")] * (BATCH_ITEMS_LIMIT_COUNT + 1)
        )

        assert {one["status"] for one in full} == {404}
        assert (answer.status, answer.wrong_fields) == (400, ["body"])
        assert (await world.send("GET", "/promises/a")).status == 404


async def test_what_is_carried_out_together_is_one_batch_of_the_log(
    autojump_clock: MockClock,
) -> None:
    """On a clock that stands still within a pass: otherwise a slow machine takes two."""
    items = [create(f"p-{number}") for number in range(BATCH_SLICE_COUNT)]
    async with running() as world:
        shards = world.api.shards
        assert isinstance(shards, Shards)
        before = shards.committer.statistics().batches_count
        await batch(world, items)

        assert shards.committer.statistics().batches_count - before == 1


async def test_answers_that_are_long_together_end_a_batch_and_the_rest_is_not_carried_out() -> None:
    data = "a" * (BATCH_ANSWER_LIMIT_BYTES // 4)
    async with running() as world:
        await world.create("long", param={"data": data})
        reads = [{"read": {"id": "long"}}] * 10
        more = [create(f"later-{number}") for number in range(BATCH_SLICE_COUNT)]
        answers = await batch(world, [*reads, *more, *more])

        statuses = [answer["status"] for answer in answers]
        assert statuses[:4] == [200] * 4
        assert statuses[5:10] == [503] * 5
        # The rest of the same slice was asked at the same time, and what was done is said.
        carried_out = statuses[10:BATCH_SLICE_COUNT]
        assert carried_out == [201] * len(carried_out)
        assert statuses[BATCH_SLICE_COUNT:] == [503] * (len(statuses) - BATCH_SLICE_COUNT)
        first_refused = BATCH_SLICE_COUNT - 10
        assert (await world.send("GET", f"/promises/later-{first_refused}")).status == 404


async def test_completions_are_answered_however_long_but_few_at_a_time() -> None:
    data = "a" * (BATCH_ANSWER_LIMIT_BYTES // 4)
    ids = [f"long-{number}" for number in range(2 * BATCH_COMPLETIONS_COUNT)]
    async with running() as world:
        for promise_id in ids:
            await world.create(promise_id, param={"data": data})
        answers = await batch(world, [complete(promise_id) for promise_id in ids])

        statuses = [answer["status"] for answer in answers]
        assert statuses == [201] * BATCH_COMPLETIONS_COUNT + [503] * BATCH_COMPLETIONS_COUNT
        last = await world.send("GET", f"/promises/{ids[-1]}")
        assert last.json["state"] == "PENDING"


async def test_rights_are_those_of_each_call() -> None:
    async with running() as world:
        writer = tenant(world, 1, (Scope.PROMISES_WRITE,), "w/")
        reader = tenant(world, 2, (Scope.PROMISES_READ,))
        items = [create("w/1"), create("x/1"), {"read": {"id": "w/1"}}, create("troth:1")]

        written = await batch(world, items, headers=writer.headers)
        read = await batch(world, items, headers=reader.headers)
        assert [one["status"] for one in written] == [201, 403, 403, 403]
        assert [one["status"] for one in read] == [403, 403, 200, 403]
        assert (await world.send("POST", "/promises/batch", items)).status == 401


async def test_trace_and_fence_of_the_request_are_those_of_its_calls() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running() as world:
        fenced = await batch(
            world, [create("a")], headers={"Task-Id": "__resume:x:y", "Task-Counter": "1"}
        )
        assert fenced[0]["status"] == 412
        assert await batch(world, [create("a")], headers={"traceparent": trace})
        reply = await world.api.shards.ask(ReadPromise("a"))
        assert reply.promise is not None
        assert reply.promise.trace == Trace(trace)


async def test_a_batch_waits_for_room_and_keeps_its_order() -> None:
    """All of it belongs to one shard, whose mailbox takes three."""
    ids = [f"a.{number}" for number in range(BATCH_SLICE_COUNT // 2)]
    async with running(mailbox_limit_count=3) as world:
        items = [item for promise_id in ids for item in (create(promise_id), complete(promise_id))]
        answers = await batch(world, items)

        assert [answer["status"] for answer in answers] == [201] * len(items)
        states = [answer["body"]["state"] for answer in answers]
        assert states == ["PENDING", "RESOLVED"] * len(ids)
        assert [answer["body"]["id"] for answer in answers[::2]] == ids


async def test_long_answers_are_whole_beside_refusals() -> None:
    data = "a" * 4 * (LARGE_BODY_BYTES // 8)
    async with running() as world:
        await world.create("long", param={"data": data})
        answers = await batch(world, [TWO, *[{"read": {"id": "long"}}] * 3, {"read": {"id": "no"}}])

        assert [answer["status"] for answer in answers] == [400, 200, 200, 200, 404]
        assert [answer["body"]["param"]["data"] for answer in answers[1:4]] == [data] * 3


async def test_others_get_their_turn_between_two_slices() -> None:
    items = [create(f"p-{number}") for number in range(BATCH_ITEMS_LIMIT_COUNT)]
    order: list[str] = []
    async with running() as world:

        async def ask_batch() -> None:
            await batch(world, items)
            order.append("batch")

        async def ask_single() -> None:
            await world.create("single")
            order.append("single")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_batch)
            nursery.start_soon(ask_single)

    assert order == ["single", "batch"]
