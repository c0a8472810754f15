"""Function tasks over the API, run by scripted nodes: `/v1/task` and the protocol of nodes."""

import base64
import json

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.http.client import NOW_MS
from tests.http.function_world import (
    NODE,
    OTHER_NODE,
    ScriptedNode,
    created,
    functions_running,
    ready_node,
)
from tests.http.tenants import tenant
from troth.core.catalog import EXECUTION_PREFIX
from troth.core.codes import Code
from troth.core.executions import HEADERS_KEY
from troth.core.model import replace
from troth.http.executions.values import result_value
from troth.http.settings.settings import Settings

ISSUED = str(NOW_MS // 1000)


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
        # Quick to refuse: one that is looked at again from each of its quotes takes hours.
        (b'"' + b'\\"' * 1_000_000, "application/json", None),
        (b'["\\', "application/json", None),
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

        another_id = await world.function(customer.account_id)
        another = await customer.send("POST", f"/task/{another_id}", {"a": 1}, headers=key)
        assert another.status == 201
        assert another.json != first.json


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
        await wait("2.5563495785053338e-194")  # a JSON number, found by schemathesis
        assert [status for _, status in ended] == [200, 200]
        assert ended[0][0] < 0.05
        for wrong in ("61", "-1", "x", "1e2", "1e999", "60.1", "nan"):
            answer = await customer.send("GET", f"/task/{task_id}/result?wait={wrong}")
            assert (answer.status, answer.wrong_fields) == (400, ["query wait"])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["revoked", "disabled", "expired"])
async def test_a_wait_ends_with_its_token(autojump_clock: MockClock, way: str) -> None:
    async with functions_running() as world:
        customer = tenant(world)
        directory = world.api.credentials
        (token,) = directory.tokens()
        if way == "expired":
            directory.put(replace(token, expires_on=NOW_MS + 2_000))
        task_id = await created(customer, await world.function(customer.account_id))
        ended: list[tuple[float, int]] = []

        async def wait() -> None:
            answer = await customer.send("GET", f"/task/{task_id}/result?wait=60")
            ended.append((trio.current_time() - started, answer.code))

        started = trio.current_time()
        async with trio.open_nursery() as waits:
            waits.start_soon(wait)
            await trio.sleep_until(started + 2)
            if way == "revoked":
                directory.put(replace(token, revision=2, revoked_on=NOW_MS))
            elif way == "disabled":
                account = directory.account(customer.account_id)
                assert account is not None
                directory.put(replace(account, revision=2, disabled=True))
        ((ended_s, code),) = ended
        assert code == Code.UNAUTHORIZED
        assert ended_s == pytest.approx(2.0, abs=0.05)


async def test_a_wait_that_ends_together_with_its_token_shows_nothing(
    autojump_clock: MockClock,
) -> None:
    async with functions_running() as world:
        customer = tenant(world)
        task_id = await created(customer, await world.function(customer.account_id))
        codes: list[int] = []

        async def wait() -> None:
            codes.append((await customer.send("GET", f"/task/{task_id}/result?wait=60")).code)

        async with trio.open_nursery() as waits:
            waits.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            # Nothing runs between the two, so the wait finds both.
            world.api.endings.ended(f"{EXECUTION_PREFIX}{task_id}")
            account = world.api.credentials.account(customer.account_id)
            assert account is not None
            world.api.credentials.put(replace(account, revision=2, disabled=True))
        assert codes == [Code.UNAUTHORIZED]


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
        (504, "it took too long", b"{}", 504, Code.EXECUTION_TIMEDOUT),
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


COMMANDS = (
    "X-Accel-Redirect",
    "X-Accel-Buffering",
    "X-Accel-Charset",
    "X-Accel-Expires",
    "X-Accel-Limit-Rate",
    "X-Sendfile",
    "X-Sendfile2",
    "X-LIGHTTPD-send-file",
    "X-LIGHTTPD-send-tempfile",
    "X-LiteSpeed-Location",
    "X-Reproxy-URL",
    "X-Reproxy-File",
)
"""What proxies in front take for orders."""


def test_what_a_result_says_of_itself_is_handed_on() -> None:
    given = [
        ("Cache-Control", "max-age=60"),
        ("Content-Disposition", "attachment"),
        ("Content-Language", "de"),
        ("Content-Type", "text/plain"),
        ("ETag", '"1"'),
        ("Last-Modified", "Sun, 29 Nov 2026 00:00:00 GMT"),
        ("Link", "</next>; rel=next"),
        ("Location", "/there"),
        ("Retry-After", "5"),
        ("Vary", "Accept"),
        ("X-Shop", "north"),
    ]
    other = [(name, "x") for name in (*COMMANDS, "Content-Encoding", "Server", "Warning", "Age")]
    _, value = result_value(200, [*given, *other], None)
    assert value.headers is not None
    kept = json.loads(value.headers[HEADERS_KEY])

    assert kept == [[name.lower(), text] for name, text in given]


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
        ("Content-Encoding", "gzip"),
        ("Refresh", "0; url=//evil"),
        ("X-Content-Type-Options", "x"),
        *((name, "/internal/keys.txt") for name in COMMANDS),
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
        assert result.header("x-content-type-options") == "nosniff"
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
