"""Exchanges of nodes: results and assignments of a moment in one request, each as if alone."""

import base64
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.client import Answer
from tests.http.function_world import (
    NODE,
    OTHER_NODE,
    ScriptedNode,
    created,
    functions_running,
    ready_node,
)
from tests.http.tenants import tenant
from troth.core.catalog import Build
from troth.core.codes import Code
from troth.core.commands import DeleteEntry
from troth.core.limits import NODE_EXCHANGE_LIMIT_COUNT, NODE_LEASE_MS
from troth.http.nodes.node_exchange import ASSIGNMENTS_LIMIT_BYTES
from troth.shards.errors import Overloaded

Key = tuple[str, int]


def result(key: Key, body: bytes = b"done", **more: object) -> dict[str, object]:
    """What a node says of a result."""
    content = base64.b64encode(body).decode()
    return {"id": key[0], "counter": key[1], "status": 200, "body": content, **more}


def named(key: Key) -> dict[str, object]:
    """What a node says of a task that it takes on."""
    return {"id": key[0], "counter": key[1]}


async def exchange(node: ScriptedNode, **body: object) -> Answer:
    """Exchange."""
    return await node.tenant.send("POST", f"/node/{node.id}/exchange", body)


def given(answer: Answer) -> list[Key]:
    """The tasks that an answer gives, or tells of."""
    assert answer.status == 200, answer.body
    return [(one["id"], one["counter"]) for one in answer.json["assigned"]]


async def test_results_make_room_for_tasks_that_come_with_the_answer(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner = tenant(world)
        function_id = await world.function(owner.account_id)
        node = await ready_node(world, nursery, slots=2)
        ids = {await created(owner, function_id, {"number": 1}) for _ in range(5)}
        orders = [await node.run_order(), await node.run_order()]
        taken = await exchange(node, assign=[named(order) for order in orders], room=True)
        assert given(taken) == orders
        assert [one["status"] for one in taken.json["assigned"]] == [201, 201]
        request = taken.json["assigned"][0]["assignment"]["request"]
        assert base64.b64decode(request["body"]) == b'{"number": 1}'

        headers = [["content-type", "text/plain"]]
        answer = await exchange(
            node,
            results=[result(orders[0], b"a", headers=headers), result(orders[1], b"", error="no")],
            room=True,
        )
        assert answer.json["results"] == [{"status": 201}, {"status": 201}]
        along = given(answer)
        left = ids - {task_id for task_id, _ in (*orders, *along)}
        assert (len(along), len(left)) == (2, 1)
        assert [one["status"] for one in answer.json["assigned"]] == [201, 201]
        first, second = [
            await owner.send("GET", f"/task/{task_id}/result") for task_id, _ in orders
        ]
        assert (first.status, first.body, second.code) == (200, b"a", Code.FUNCTION_FAILED)
        # They are the node's: it is not told of them by its stream, and can report and finish them.
        assert (await node.report(*along)).json == {"stop": []}
        assert node.orders_count == 0

        # Without room nothing comes along: it waits for the stream.
        answer = await exchange(node, results=[result(along[0])])
        assert given(answer) == []
        assert {(await node.run_order())[0]} == left
        nursery.cancel_scope.cancel()


async def test_a_repeated_exchange_is_answered_again(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner = tenant(world)
        function_id = await world.function(owner.account_id)
        node = await ready_node(world, nursery)
        first = await created(owner, function_id)
        second = await created(owner, function_id)
        order = await node.run_order()
        for status in (201, 200):
            taken = await exchange(node, assign=[named(order)])
            assert [one["status"] for one in taken.json["assigned"]] == [status]
        lost = await exchange(node, results=[result(order)], room=True)
        assert given(lost) == [(second, 1)]
        again = await exchange(node, results=[result(order)], room=True)
        assert (again.json["results"], given(again)) == ([{"status": 200}], [])
        # What was given by the answer that was lost goes out again when its lease is over.
        assert (await node.order(NODE_LEASE_MS / 1000 + 5))["type"] == "cancel"
        assert await node.run_order() == (second, 2)
        assert (await owner.send("GET", f"/task/{first}/result")).body == b"done"
        nursery.cancel_scope.cancel()


async def test_each_is_refused_as_it_would_be_alone(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner, stranger = tenant(world), tenant(world, 2)
        function_id = await world.function(owner.account_id)
        node = await ready_node(world, nursery)
        await created(owner, function_id)
        order = await node.take()
        answer = await exchange(
            node,
            results=[result(("0" * 24, 1)), result((order[0], 2)), result(order)],
            assign=[named(("0" * 24, 1))],
        )
        codes = [one.get("error", {}).get("code") for one in answer.json["results"]]
        assert codes == [Code.EXECUTION_NOT_FOUND, Code.EXECUTION_NOT_HELD, None]
        (one,) = answer.json["assigned"]
        assert (one["status"], one["error"]["code"]) == (409, Code.EXECUTION_NOT_HELD)

        # A node of another account learns nothing of an id, whether there is such a task or not.
        thief = ScriptedNode(stranger, OTHER_NODE)
        await thief.register()
        for guessed in (order, ("0" * 24, 1)):
            answer = await exchange(thief, results=[result(guessed)], assign=[named(guessed)])
            (refused,) = answer.json["results"]
            assert refused["error"]["code"] == Code.EXECUTION_NOT_FOUND
            assert answer.json["assigned"][0]["error"]["code"] == Code.EXECUTION_NOT_HELD
        assert (await exchange(ScriptedNode(stranger))).code == Code.NODE_NOT_FOUND
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "body",
    [
        {"results": [{"id": "0" * 24, "counter": 1}]},
        {"results": [result(("0" * 24 + "\n", 1))]},
        {"results": [result(("0" * 24, 0))]},
        {"results": [{**result(("0" * 24, 1)), "body": "!"}]},
        {"results": [{**result(("0" * 24, 1)), "headers": [["a"]]}]},
        {"assign": [named(("0" * 24, 1))] * (NODE_EXCHANGE_LIMIT_COUNT + 1)},
        {"room": 1},
        [],
    ],
)
async def test_what_is_no_exchange_is_refused(autojump_clock: MockClock, body: Any) -> None:
    async with functions_running() as world:
        owner = tenant(world)
        await ScriptedNode(owner).register()
        answer = await owner.send("POST", f"/node/{NODE}/exchange", body)
        assert (answer.status, answer.wrong_fields) == (400, ["body"])


async def test_a_task_without_code_ends_and_a_large_one_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner = tenant(world)
        node = await ready_node(world, nursery)
        function_id = await world.function(owner.account_id)
        large_id = await created(owner, function_id, "x" * ASSIGNMENTS_LIMIT_BYTES)
        order = await node.run_order()
        (one,) = (await exchange(node, assign=[named(order)])).json["assigned"]
        assert one == {"id": large_id, "counter": 1, "status": 201}
        assert (await node.assign(*order)).status == 200

        lost_id = await created(owner, function_id)
        (build,) = await world.api.shards.list_entries(Build, owner.account_id)
        await world.shards.ask(DeleteEntry(build.id, build.revision))
        answer = await exchange(node, results=[result(order)], room=True)
        (one,) = answer.json["assigned"]
        assert (one["id"], one["error"]["code"]) == (lost_id, Code.BUILD_NOT_FOUND)
        assert (await owner.send("GET", f"/task/{lost_id}/result")).code == Code.FUNCTION_FAILED
        nursery.cancel_scope.cancel()


async def test_a_task_that_was_taken_along_and_refused_goes_out_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner = tenant(world)
        function_id = await world.function(owner.account_id)
        node = await ready_node(world, nursery)
        await created(owner, function_id)
        second = await created(owner, function_id)
        order = await node.take()
        ask_each = world.api.shards.ask_each

        async def fail(commands: Any) -> Any:
            raise Overloaded

        monkeypatch.setattr(world.api.shards, "ask_each", fail)
        answer = await exchange(node, results=[result(order)], room=True)
        assert answer.status == 503
        monkeypatch.setattr(world.api.shards, "ask_each", ask_each)
        assert (await exchange(node, results=[result(order)])).json["results"] == [{"status": 201}]
        # Not held by the node, nor lost: when the time to claim is over it is sent again.
        assert (await node.order(60))["type"] == "cancel"
        assert await node.run_order() == (second, 2)
        nursery.cancel_scope.cancel()
