"""Function tasks over the API, run by scripted nodes: `/v1/task` and the protocol of nodes."""

import base64
import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.http.client import NOW_MS
from tests.http.function_world import (
    NODE,
    OTHER_NODE,
    FunctionWorld,
    ScriptedNode,
    functions_running,
)
from tests.http.tenants import Tenant, tenant
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.model import replace
from troth.http.settings import Settings

ISSUED = str(NOW_MS // 1000)


async def created(sender: Tenant, function_id: str, body: object = None, query: str = "") -> str:
    """Create a task; its id."""
    answer = await sender.send("POST", f"/task/{function_id}{query}", body)
    assert answer.status == 201, answer.body
    assert list(answer.json) == ["id"]
    task_id: str = answer.json["id"]
    return task_id


async def ready_node(world: FunctionWorld, nursery: trio.Nursery, **body: object) -> ScriptedNode:
    """A connected node of the first account."""
    node = ScriptedNode(tenant(world))
    assert (await node.register(**body)).status == 201
    await node.connect(nursery)
    return node


async def test_a_task_from_its_creation_to_its_result(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id, timeout_s=30, memory_mb=64)
        task_id = await created(
            customer, function_id, {"name": "John Doe", "age": 30}, "?myParam1=100&myParam2=Green"
        )
        shown = (await customer.send("GET", f"/task/{task_id}")).json
        assert shown == {
            "functionId": function_id,
            "issued": ISSUED,
            "assigned": "",
            "finished": "",
            "progress": 0,
            "node": "",
            "timeout": 30,
            "capabilities": {
                "cpuCount": 0,
                "memSize": 64,
                "networkLatency": 0,
                "privileged": False,
            },
        }
        early = await customer.send("GET", f"/task/{task_id}/result")
        assert (early.status, early.code) == (404, Code.RESULT_NOT_READY)
        assert early.header("Retry-After") == "1"

        await trio.sleep(5)
        node = await ready_node(world, nursery, memSize=128)
        order = await node.run_order()
        assert order == (task_id, 1)
        assigned = await node.assign(*order)
        assert assigned.status == 201
        assert len(assigned.json["buildId"]) == 24
        request = assigned.json["request"]
        assert request["method"] == "POST"
        assert request["query"] == "myParam1=100&myParam2=Green"
        assert json.loads(base64.b64decode(request["body"])) == {
            "name": "John Doe",
            "age": 30,
        }
        assert assigned.json["functionId"] == function_id
        assert assigned.json["timeout"] == 30
        assert assigned.json["language"] == "PY"
        assert assigned.json["account"] == customer.account_id
        again = await node.assign(*order)
        assert (again.status, again.json) == (200, assigned.json)

        assert (await node.report(order, progress=75)).json == {"stop": []}
        shown = (await customer.send("GET", f"/task/{task_id}")).json
        assert (shown["progress"], shown["node"]) == (75, NODE)
        assert shown["assigned"] == str(NOW_MS // 1000 + 5)
        listed = (await customer.send("GET", "/task/list")).json
        assert listed == [{"id": task_id, "issued": ISSUED, "progress": 75, "status": 0}]

        await trio.sleep(1)
        answer = await node.result(
            *order, b"hello", status=207, headers=[("Content-Type", "text/x"), ("X-Mine", "1")]
        )
        assert answer.status == 201
        assert (
            await node.result(
                *order, b"hello", status=207, headers=[("Content-Type", "text/x"), ("X-Mine", "1")]
            )
        ).status == 200
        assert (await node.result(*order, b"other")).code == Code.EXECUTION_FINISHED
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert (result.status, result.body) == (207, b"hello")
        assert result.header("Content-Type") == "text/x"
        assert result.header("X-Mine") == "1"
        assert result.header("Content-Security-Policy") == "sandbox"
        shown = (await customer.send("GET", f"/task/{task_id}")).json
        assert (shown["progress"], shown["node"]) == (100, NODE)
        assert shown["finished"] == str(NOW_MS // 1000 + 6)
        assert shown["timeout"] == 30
        assert shown["capabilities"]["memSize"] == 64
        listed = (await customer.send("GET", "/task/list")).json
        assert listed == [{"id": task_id, "issued": ISSUED, "progress": 100, "status": 207}]
        nursery.cancel_scope.cancel()


async def test_what_a_function_is_given_has_no_credentials_in_it(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        sent = {
            "Cookie": "a=b",
            "Content-Type": "application/json",
            "Connection": "keep-alive",
            "Idempotency-Key": "k",
            "X-Mine": "yes",
            "Host": "troth.example",
        }
        await customer.send("POST", f"/task/{function_id}", raw=b"{}", headers=sent)
        node = await ready_node(world, nursery)
        assigned = await node.assign(*await node.run_order())
        request = assigned.json["request"]
        assert request["headers"] == [["content-type", "application/json"], ["x-mine", "yes"]]
        assert request["host"] == "troth.example"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("body", "content_type", "given"),
    [
        (b"", "application/json", b""),
        (b"", None, b""),
        (b"not json", "text/plain", b"not json"),
        (b"\xff\x00", None, b"\xff\x00"),
        (b"[1]", "application/json; charset=utf-8", b"[1]"),
        (b'{"a": "x,}", "b": true,\n}', "application/json", b'{"a": "x,}", "b": true\n}'),
        (b"{]", "application/json", None),
        (b'{"a" 1}', "application/problem+json", None),
        (b'"\xff"', "application/json", None),
        (b"[" * 100_000, "application/json", None),
    ],
)
async def test_a_body_is_judged_only_if_it_is_called_json(
    autojump_clock: MockClock, body: bytes, content_type: str | None, given: bytes | None
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await customer.send("POST", f"/task/{function_id}", raw=body, headers=headers)
        if given is None:
            assert (answer.status, answer.wrong_fields) == (400, ["body"])
        else:
            assert answer.status == 201
            node = await ready_node(world, nursery)
            request = (await node.assign(*await node.run_order())).json["request"]
            assert base64.b64decode(request["body"]) == given
        nursery.cancel_scope.cancel()


async def test_a_repeated_creation_is_answered_with_the_first_task(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world:
        customer, stranger = tenant(world), tenant(world, 2)
        function_id = await world.function(customer.account_id)
        other_id = await world.function(stranger.account_id)
        key = {"Idempotency-Key": "k"}
        first = await customer.send("POST", f"/task/{function_id}", {"a": 1}, headers=key)
        second = await customer.send("POST", f"/task/{function_id}", {"a": 2}, headers=key)
        others = await stranger.send("POST", f"/task/{other_id}", {"a": 1}, headers=key)
        assert (first.status, second.status, others.status) == (201, 200, 201)
        assert first.json == second.json != others.json
        assert len((await customer.send("GET", "/task/list")).json) == 1


async def test_functions_that_cannot_run_are_refused(autojump_clock: MockClock) -> None:
    async with functions_running(Settings(function_queue_limit_count=2)) as world:
        customer = tenant(world)
        send = customer.send
        paused = await world.function(customer.account_id, paused=True)
        unbuilt = await world.function(customer.account_id, built=False)
        assert (await send("POST", f"/task/{paused}")).code == Code.FUNCTION_PAUSED
        assert (await send("POST", f"/task/{unbuilt}")).code == Code.NO_BUILD
        assert (await send("POST", f"/task/{'0' * 24}")).code == Code.FUNCTION_NOT_FOUND
        assert (await send("POST", "/task/nonsense")).code == Code.FUNCTION_NOT_FOUND

        function_id = await world.function(customer.account_id)
        key = {"Idempotency-Key": "k"}
        first = await send("POST", f"/task/{function_id}", headers=key)
        assert (await send("POST", f"/task/{function_id}")).status == 201
        full = await send("POST", f"/task/{function_id}")
        assert (full.status, full.code) == (429, Code.TOO_MANY_EXECUTIONS)
        assert full.header("Retry-After") == "1"
        known = await send("POST", f"/task/{function_id}", headers=key)
        assert (known.status, known.json) == (200, first.json)


async def test_the_list_is_newest_first_in_pages(autojump_clock: MockClock) -> None:
    async with functions_running() as world:
        customer = tenant(world)
        one = await world.function(customer.account_id)
        two = await world.function(customer.account_id)
        ids = [await created(customer, one if n % 3 else two) for n in range(130)]
        ids.reverse()

        async def listed(query: str) -> list[str]:
            rows = (await customer.send("GET", f"/task/list{query}")).json
            return [row["id"] for row in rows]

        assert await listed("") == ids[:100]
        assert await listed("?page=2") == ids[100:]
        assert await listed("?limit=130") == ids
        assert await listed("?page=3&limit=50") == ids[100:]
        assert await listed("?page=4&limit=50") == []
        assert await listed("?limit=7&page=2") == ids[7:14]
        of_two = [one_id for n, one_id in enumerate(reversed(ids)) if n % 3 == 0]
        assert await listed(f"?functionId={two}") == of_two[::-1]
        assert await listed(f"?functionId={'0' * 24}") == []
        wrong = await customer.send("GET", "/task/list?limit=0&page=x")
        assert (wrong.status, wrong.wrong_fields) == (400, ["query limit", "query page"])
        assert (await customer.send("GET", "/task/list?limit=1001")).status == 400
        assert (await customer.send("GET", "/task/list?limit=1000&page=101")).status == 400


async def test_a_wait_ends_with_the_task_at_once(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        order = await node.take()
        ended: list[tuple[float, int]] = []

        async def wait(seconds: str) -> None:
            answer = await customer.send("GET", f"/task/{task_id}/result?wait={seconds}")
            ended.append((trio.current_time() - started, answer.status))

        started = trio.current_time()
        async with trio.open_nursery() as waits:
            waits.start_soon(wait, "0.5")
            waits.start_soon(wait, "60")
            await trio.sleep(2)
            await node.report(order)
            await node.result(*order, b"done")
        assert [status for _, status in ended] == [404, 200]
        assert [seconds for seconds, _ in ended] == pytest.approx([0.5, 2.0], abs=0.05)
        ended.clear()
        started = trio.current_time()
        await wait("60")
        assert ended[0][1] == 200
        assert ended[0][0] < 0.05
        for wrong in ("61", "-1", "x", "1e1", "60.1", "nan"):
            answer = await customer.send("GET", f"/task/{task_id}/result?wait={wrong}")
            assert (answer.status, answer.wrong_fields) == (400, ["query wait"])
        nursery.cancel_scope.cancel()


async def test_canceling_tells_the_node_and_ends_the_task(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        order = await node.take()
        assert (await customer.send("DELETE", f"/task/{task_id}")).status == 204
        assert await node.order() == {"type": "cancel", "task": {"id": task_id, "counter": 1}}
        assert (await customer.send("DELETE", f"/task/{task_id}")).status == 204
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert (result.status, result.code) == (410, Code.EXECUTION_CANCELED)
        assert (await node.report(order)).json == {"stop": [{"id": task_id, "counter": 1}]}
        assert (await node.result(*order)).code == Code.EXECUTION_FINISHED
        assert (await customer.send("GET", f"/task/{task_id}")).json["progress"] == 100

        # The slot is free, and a finished task cannot be canceled.
        done_id = await created(customer, function_id)
        await node.result(*await node.take(), b"ok")
        answer = await customer.send("DELETE", f"/task/{done_id}")
        assert (answer.status, answer.code) == (409, Code.EXECUTION_FINISHED)
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_silent_past_the_timeout_gives_504(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id, timeout_s=10)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        order = await node.take()
        started = trio.current_time()
        for _ in range(6):
            await trio.sleep(2.4)
            await node.report(order)
        result = await customer.send("GET", f"/task/{task_id}/result?wait=60")
        assert (result.status, result.code) == (504, Code.EXECUTION_TIMEDOUT)
        assert trio.current_time() - started == pytest.approx(15, abs=0.1)
        assert (await node.order())["type"] == "cancel"
        nursery.cancel_scope.cancel()


async def test_a_task_whose_nodes_die_four_times_gives_502(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id, timeout_s=100)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        for counter in (1, 2, 3, 4):
            assert await node.take(20) == (task_id, counter)
            with trio.move_on_after(9):
                await node.order(100)
            assert (await customer.send("GET", f"/task/{task_id}")).json["node"] == NODE
            assert (await node.order(20))["type"] == "cancel"
        result = await customer.send("GET", f"/task/{task_id}/result?wait=60")
        assert (result.status, result.code) == (502, Code.NODES_LOST)
        assert (await node.result(task_id, 2)).code == Code.EXECUTION_FINISHED
        nursery.cancel_scope.cancel()


async def test_a_stale_counter_is_refused_everywhere(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id, timeout_s=100)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        stale = await node.take()
        await trio.sleep(10.5)  # its lease runs out
        assert (await node.order())["type"] == "cancel"
        current = await node.take()
        assert current == (task_id, 2)
        assert (await node.assign(*stale)).code == Code.EXECUTION_NOT_HELD
        assert (await node.report(stale, current)).json == {"stop": [{"id": task_id, "counter": 1}]}
        assert (await node.give_back(*stale)).code == Code.EXECUTION_NOT_HELD
        assert (await node.result(*stale, b"late")).code == Code.EXECUTION_NOT_HELD
        assert (await node.result(*current, b"good")).status == 201
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert result.body == b"good"
        nursery.cancel_scope.cancel()


async def test_a_returned_task_goes_to_another_node_and_counts_as_no_loss(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        for counter in range(1, 7):
            order = await node.take(2)
            assert order == (task_id, counter)
            assert (await node.give_back(*order)).status == 204
        other = ScriptedNode(customer, OTHER_NODE)
        await other.register()
        await node.tenant.send("PATCH", f"/node/{NODE}", {"draining": True})
        assert (await node.order())["type"] == "drain"
        await other.connect(nursery)
        assert await other.take() == (task_id, 7)
        assert (await other.result(task_id, 7, b"ok")).status == 201
        nursery.cancel_scope.cancel()


async def test_a_stream_that_breaks_loses_no_task(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        node.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        task_id = await created(customer, function_id)
        rows = (await customer.send("GET", "/node/list")).json
        assert [row["available"] for row in rows] == [False]
        await node.connect(nursery)
        assert await node.run_order() == (task_id, 1)
        # Told, but it never takes it on: the task is offered again.
        assert (await node.order(12))["type"] == "cancel"
        assert await node.run_order() == (task_id, 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "error", "body", "answered", "code"),
    [
        (500, "it broke", b"", 500, Code.FUNCTION_FAILED),
        (504, "it took too long", b"", 504, Code.EXECUTION_TIMEDOUT),
        (418, "no such failure", b"", 500, Code.FUNCTION_FAILED),
        (199, None, b"x", 502, Code.FUNCTION_UNUSABLE),
        (600, None, b"x", 502, Code.FUNCTION_UNUSABLE),
    ],
)
async def test_what_is_no_answer_of_the_function_is_a_refusal(
    autojump_clock: MockClock,
    status: int,
    error: str | None,
    body: bytes,
    answered: int,
    code: Code,
) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        await node.result(*await node.take(), body, status=status, error=error)
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert (result.status, result.code) == (answered, code)
        row = (await customer.send("GET", "/task/list")).json[0]
        assert row["status"] == answered
        nursery.cancel_scope.cancel()


async def test_an_exception_of_the_function_is_handed_on_as_json(autojump_clock: MockClock) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        body = b'{"error":{"type":"KeyError","message":"a"}}'
        headers = [("Content-Type", "application/json")]
        await node.result(*await node.take(), body, status=500, headers=headers, error="KeyError")
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert (result.status, result.body) == (500, body)
        assert result.header("Content-Type") == "application/json"
        nursery.cancel_scope.cancel()


async def test_headers_of_a_result_cannot_speak_for_the_server(autojump_clock: MockClock) -> None:
    bad: list[tuple[str, str]] = [
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "3"),
        ("Date", "x"),
        ("Server", "x"),
        ("Set-Cookie", "a=b"),
        ("Access-Control-Allow-Origin", "*"),
        ("Content-Security-Policy", "default-src *"),
        ("X-Split", "a\r\nX-Evil: 1"),
        ("X-Null", "a\0b"),
        ("X Space", "1"),
        ("X-Colon:", "1"),
        ("X-\u00e9", "1"),
        ("X-Wide", "\u2603"),
        ("", "1"),
        ("Request-Id", "x"),
        ("X-Long", "x" * 9_000),
    ]
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        body = bytes(range(256)) * 8
        headers = [*bad, ("X-Good", " 1 "), ("X-Good", "2")]
        assert (await node.result(*await node.take(), body, headers=headers)).status == 201
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert result.body == body
        names = sorted(name for name, _ in result.headers)
        assert names == [
            "content-length",
            "content-security-policy",
            "request-id",
            "resonate-version",
            "x-content-type-options",
            "x-good",
            "x-good",
        ]
        assert result.header("content-length") == str(len(body))
        assert result.header("content-security-policy") == "sandbox"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_status_without_a_body_has_none(autojump_clock: MockClock, status: int) -> None:
    async with functions_running() as world, trio.open_nursery() as nursery:
        customer = tenant(world)
        function_id = await world.function(customer.account_id)
        node = await ready_node(world, nursery)
        task_id = await created(customer, function_id)
        await node.result(*await node.take(), b"never seen", status=status)
        result = await customer.send("GET", f"/task/{task_id}/result")
        assert (result.status, result.body) == (status, b"")
        nursery.cancel_scope.cancel()


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
        for guessed in (order, (second_id, 1)):
            assert (await own.assign(*guessed)).code == Code.EXECUTION_NOT_HELD
            assert (await own.result(*guessed)).code == Code.EXECUTION_NOT_HELD
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
        unknown = await owner.send("PATCH", f"/node/{OTHER_NODE}")
        assert unknown.code == Code.NODE_NOT_FOUND
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
        account = world.api.directory.account(node.tenant.account_id)
        assert account is not None
        world.api.directory.put(replace(account, revision=2, disabled=True))
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
