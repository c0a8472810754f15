"""Nodes over the API, and that accounts see nothing of each other's nodes and tasks."""

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.http.function_world import (
    NODE,
    OTHER_NODE,
    ScriptedNode,
    created,
    functions_running,
    ready_node,
)
from tests.http.tenants import tenant
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.model import replace
from troth.http.executions.calls import SERVER_NODE_ID

# --- isolation ------------------------------------------------------------------------------------


async def test_another_account_sees_nothing(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner, stranger = tenant(world), tenant(world, 2)
        function_id = await world.function(owner.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(owner, function_id)
        order = await node.take()

        create = await stranger.send("POST", f"/task/{function_id}")
        assert create.code == Code.FUNCTION_NOT_FOUND
        for method, path in [
            ("GET", f"/task/{task_id}"),
            ("GET", f"/task/{task_id}/result"),
            ("GET", f"/task/{task_id}/result?wait=60"),
            ("DELETE", f"/task/{task_id}"),
        ]:
            answer = await stranger.send(method, path)
            absent = await stranger.send(method, path.replace(task_id, "0" * 24))
            assert answer.status == absent.status == 404
            assert answer.code == absent.code == Code.EXECUTION_NOT_FOUND
        assert (await stranger.send("GET", "/task/list")).json == []
        assert (await stranger.send("GET", f"/task/list?functionId={function_id}")).json == []

        thief = ScriptedNode(stranger)
        with trio.fail_after(600):  # a stream that is opened for a stranger does not end
            for answer in [
                await thief.register(),
                await thief.assign(*order),
                await thief.report(order),
                await thief.give_back(*order),
                await thief.result(*order),
                await stranger.send("PATCH", f"/node/{NODE}"),
                await stranger.send("PATCH", f"/node/{NODE}", {"disabled": True}),
                await stranger.send("DELETE", f"/node/{NODE}"),
                await stranger.send("GET", f"/node/{NODE}/work"),
            ]:
                assert (answer.status, answer.code) == (404, Code.NODE_NOT_FOUND)
        assert (await stranger.send("GET", "/node/list")).json == []

        # A node of its own gets nothing of others, and cannot take what it was not given.
        own = ScriptedNode(stranger, OTHER_NODE)
        await own.register(slots=5)
        await own.connect(nursery)
        second_id = await created(owner, function_id)
        await trio.testing.wait_all_tasks_blocked()
        assert own.orders_count == 0
        third_id = await created(owner, function_id)
        await owner.send("DELETE", f"/task/{third_id}")
        # Nor can it find out which ids are in use: those of tasks that run, wait, or have ended.
        for guessed in (order, (second_id, 1), (third_id, 1), ("0" * 24, 1)):
            assert (await own.assign(*guessed)).code == Code.EXECUTION_NOT_HELD
            assert (await own.result(*guessed)).code == Code.EXECUTION_NOT_FOUND
            assert (await own.give_back(*guessed)).code == Code.EXECUTION_NOT_FOUND
            assert (await own.report(guessed)).json["stop"] != []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/task/{task}", Scope.TASKS_WRITE),
        ("DELETE", "/task/{task}", Scope.TASKS_WRITE),
        ("GET", "/task/{task}", Scope.TASKS_READ),
        ("GET", "/task/list", Scope.TASKS_READ),
        ("GET", "/task/{task}/result", Scope.TASKS_READ),
        ("GET", "/node/list", Scope.NODE),
        ("POST", f"/node/{NODE}", Scope.NODE),
        ("PATCH", f"/node/{NODE}", Scope.NODE),
        ("DELETE", f"/node/{NODE}", Scope.NODE),
        ("GET", f"/node/{NODE}/work", Scope.NODE),
        ("POST", f"/node/{NODE}/assign", Scope.NODE),
        ("POST", f"/node/{NODE}/report", Scope.NODE),
        ("POST", f"/node/{NODE}/return/{{task}}/1", Scope.NODE),
        ("POST", f"/node/{NODE}/result/{{task}}/1", Scope.NODE),
    ],
)
async def test_every_route_needs_its_scope(
    autojump_clock: MockClock, method: str, path: str, scope: Scope
) -> None:
    async with functions_running() as world:
        path = path.format(task="0" * 24)
        others = tuple(one for one in Scope if one is not scope)
        lacking = await tenant(world, 1, others).send(method, path)
        assert (lacking.status, lacking.code) == (403, Code.FORBIDDEN_SCOPE)
        allowed = await tenant(world, 2, (scope,)).send(method, path)
        assert allowed.status in (200, 400, 404)
        anonymous = await world.send(method, f"/v1{path}")
        assert anonymous.status == 401


# --- nodes ----------------------------------------------------------------------------------------


async def test_a_node_is_registered_listed_changed_deleted_and_restored(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        owner = tenant(world)
        node = ScriptedNode(owner)
        offers: dict[str, Any] = {
            "description": "Rack 3",
            "languages": ["js", "PY"],
            "cpuCount": 4,
            "memSize": 2048,
            "networkLatency": 5,
            "privileged": True,
            "slots": 2,
        }
        answer = await node.register(**offers)
        assert (answer.status, answer.body) == (201, b"")
        row = {
            "available": False,
            "description": "Rack 3",
            "disabled": False,
            "hash": NODE,
            "draining": False,
            "slots": 2,
            "running": 0,
            "languages": ["PY", "JS"],
        }
        assert (await owner.send("GET", "/node/list")).json == [row]
        await node.connect(nursery)
        await node.register(**{**offers, "slots": 3, "description": None})
        row |= {"available": True, "slots": 3}
        assert (await owner.send("GET", "/node/list")).json == [row]

        change = await owner.send("PATCH", f"/node/{NODE}", {"disabled": True})
        assert (change.status, change.body) == (200, b"")
        assert (await node.order())["type"] == "disable"
        await owner.send("PATCH", f"/node/{NODE}", {"description": "Rack 4"})
        row |= {"disabled": True, "description": "Rack 4"}
        assert (await owner.send("GET", "/node/list")).json == [row]

        assert (await owner.send("DELETE", f"/node/{NODE}")).status == 204
        assert (await owner.send("GET", "/node/list")).json == []
        assert (await owner.send("DELETE", f"/node/{NODE}")).code == Code.NODE_NOT_FOUND
        assert (await node.register(**offers)).code == Code.NODE_NOT_FOUND
        assert (await owner.send("GET", f"/node/{NODE}/work")).code == Code.NODE_NOT_FOUND
        assert (await owner.send("PATCH", f"/node/{NODE}")).status == 200
        row |= {"available": False}
        assert (await owner.send("GET", "/node/list")).json == [row]
        acts = [(entry["act"], entry["node"]) for entry in await world.api.audit.read(100)]
        assert acts == [
            ("node.change", NODE),
            ("node.change", NODE),
            ("node.delete", NODE),
            ("node.restore", NODE),
        ]
        unknown = await owner.send("PATCH", f"/node/{OTHER_NODE}")
        assert unknown.code == Code.NODE_NOT_FOUND
        # Nor is noted what anybody calls a node: the audit log is not theirs to fill.
        assert len(await world.api.audit.read(100)) == len(acts)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"languages": []}, "languages"),
        ({"languages": ["COBOL"]}, "languages"),
        ({"languages": ["PY"], "slots": 0}, "slots"),
        ({"languages": ["PY"], "slots": 257}, "slots"),
        ({"languages": ["PY"], "cpuCount": -1}, "cpuCount"),
        ({"languages": ["PY"], "memSize": "1"}, "memSize"),
    ],
)
async def test_a_node_that_makes_no_sense_is_refused(
    autojump_clock: MockClock, body: dict[str, Any], field: str
) -> None:
    async with functions_running() as world:
        answer = await tenant(world).send("POST", f"/node/{NODE}", body)
        assert (answer.status, answer.wrong_fields) == (400, [field])


async def test_a_node_is_named_by_a_uuid(autojump_clock: MockClock) -> None:
    async with functions_running() as world:
        owner = tenant(world)
        answer = await owner.send("POST", "/node/my-node", {"languages": ["PY"]})
        assert (answer.status, answer.wrong_fields) == (400, ["path hash"])
        assert (
            await owner.send("POST", f"/node/{NODE.upper()}", {"languages": ["PY"]})
        ).status == (201)
        assert (await owner.send("GET", "/node/list")).json[0]["hash"] == NODE


async def test_nobody_registers_as_the_node_that_calls_http_functions(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world:
        thief = tenant(world)
        answer = await thief.send("POST", f"/node/{SERVER_NODE_ID}", {"languages": ["PY"]})
        assert (answer.status, answer.wrong_fields) == (400, ["path hash"])
        # With it, one who knows the id of another account's task could end it.
        answer = await ScriptedNode(thief, SERVER_NODE_ID).result("0" * 24, 1)
        assert answer.code == Code.NODE_NOT_FOUND


async def test_a_shared_node_takes_an_administrator_and_runs_everybodys_functions(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        lacking = ScriptedNode(tenant(world, 1, (Scope.NODE,)))
        assert (await lacking.register(shared=True)).code == Code.FORBIDDEN_SCOPE
        node = await ready_node(world, nursery, shared=True)
        customer = tenant(world, 2)
        task_id = await created(customer, await world.function(customer.account_id))
        await node.result(*await node.take(), b"shared")
        assert (await customer.send("GET", f"/task/{task_id}/result")).body == b"shared"
        nursery.cancel_scope.cancel()


async def test_a_stream_ends_when_its_token_is_revoked(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        node = await ready_node(world, nursery)
        assert world.api.function_placement.nodes[NODE].is_available
        account = world.api.credentials.account(node.tenant.account_id)
        assert account is not None
        world.api.credentials.put(replace(account, revision=2, disabled=True))
        await trio.testing.wait_all_tasks_blocked()
        assert not world.api.function_placement.nodes[NODE].is_available
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({}, "header Troth-Status"),
        ({"Troth-Status": "2000"}, "header Troth-Status"),
        ({"Troth-Status": "200", "Troth-Headers": "!"}, "header Troth-Headers"),
        ({"Troth-Status": "200", "Troth-Headers": "e30="}, "header Troth-Headers"),
        ({"Troth-Status": "200", "Troth-Headers": "W1siYSJdXQ=="}, "header Troth-Headers"),
        ({"Troth-Status": "500", "Troth-Error": "/w=="}, "header Troth-Error"),
    ],
)
async def test_a_result_that_cannot_be_read_is_refused(
    autojump_clock: MockClock, headers: dict[str, str], field: str
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        await created(customer, function_id)
        task_id, counter = await node.take()
        path = f"/node/{NODE}/result/{task_id}/{counter}"
        answer = await customer.send("POST", path, raw=b"x", headers=headers)
        assert (answer.status, answer.wrong_fields) == (400, [field])
        nursery.cancel_scope.cancel()
