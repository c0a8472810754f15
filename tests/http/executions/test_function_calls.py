"""HTTP functions: called by the server itself, on hosts that behave and hosts that do not."""

import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpcore
import pytest
import trio

from tests.http.client import Answer
from tests.http.function_world import FunctionWorld, functions_running
from tests.http.tenants import Tenant, tenant
from troth.core.catalog import Capabilities, Function, FunctionKind
from troth.core.codes import Code
from troth.core.commands import AssignExecution, Command, CreateEntry, FinishExecution
from troth.core.replies import Reply
from troth.http.executions.calls import SERVER_NODE_ID
from troth.http.functions.values import new_id
from troth.http.outgoing import connections as http_connections
from troth.http.outgoing.guards import Guard, IpAddress, OwnPorts, is_public
from troth.http.settings.settings import Settings
from troth.shards.placement import placement

Handler = Callable[[trio.SocketStream, bytes], Awaitable[None]]


def answering(text: str) -> Handler:
    """Always this answer, text as it goes over the wire."""

    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(text.replace("\n", "\r\n").encode("latin-1"))

    return handle


OK = answering("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")


async def hang(stream: trio.SocketStream, request: bytes) -> None:
    await trio.sleep_forever()


async def endless_body(stream: trio.SocketStream, request: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b"more" * 1000)


async def endless_interim_answers(stream: trio.SocketStream, request: bytes) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)


async def body_in_crumbs(stream: trio.SocketStream, request: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await stream.send_all(b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n")


async def body_in_lines(stream: trio.SocketStream, request: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(250):
        await stream.send_all(b"3\r\nabc\r\n")
    await stream.send_all(b"1000\r\n" + bytes(0x1000) + b"\r\n0\r\n\r\n")


async def garbage(stream: trio.SocketStream, request: bytes) -> None:
    await stream.send_all(b"\x00\xff\x13\x37" * 50)


@asynccontextmanager
async def host(handler: Handler, received: list[bytes] | None = None) -> AsyncIterator[str]:
    """A host whose connections each serve one request; its address."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request or not _is_whole(request):
                request += await stream.receive_some(65_536)
            if received is not None:
                received.append(request)
            try:
                await handler(stream, request)
            except trio.BrokenResourceError:
                return  # the caller has had enough

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return True


@asynccontextmanager
async def world_with(guard: Guard | None = None, **settings: Any) -> AsyncIterator[FunctionWorld]:
    """A server whose calls are guarded so."""
    async with functions_running(Settings(**settings), guard=guard) as world:
        yield world


def calls_count(world: FunctionWorld) -> int:
    """How many calls are under way."""
    return world.api.function_placement.statistics().running_calls_count


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds; five seconds at most."""
    for _ in range(500):
        if condition():
            return
        await trio.sleep(0.01)
    raise AssertionError("it does not come")


async def function(world: FunctionWorld, account_id: str, url: str, timeout_s: int = 10) -> str:
    """An HTTP function; its id."""
    function_id = new_id(0)
    entry = Function(
        function_id,
        1,
        0,
        account_id,
        "f",
        FunctionKind.HTTP,
        url=url,
        capabilities=Capabilities(timeout_s=timeout_s),
    )
    await world.shards.ask(CreateEntry(entry))
    return function_id


async def called(
    world: FunctionWorld, url: str, *, body: object = None, query: str = "", timeout_s: int = 10
) -> tuple[Tenant, str, Answer]:
    """Create a task and wait for its result: the tenant, the task, the result."""
    customer = tenant(world)
    function_id = await function(world, customer.account_id, url, timeout_s)
    made = await customer.send(
        "POST",
        f"/task/{function_id}{query}",
        body,
        headers={"Content-Type": "application/json", "Cookie": "a=b", "X-Mine": "1"},
    )
    assert made.status == 201, made.body
    task_id = made.json["id"]
    return customer, task_id, await customer.send("GET", f"/task/{task_id}/result?wait=30")


async def test_a_function_is_called_with_what_the_task_was_created_with() -> None:
    received: list[bytes] = []
    text = "HTTP/1.1 201 Made\nContent-Length: 2\nX-Yours: 2\nSet-Cookie: a=b\nServer: x\n\nok"
    async with host(answering(text), received) as place, world_with() as world:
        customer, task_id, result = await called(
            world, f"http://{place}/run?fixed=1", body={"a": 1}, query="?q=%20x&r"
        )
        assert (result.status, result.body) == (201, b"ok")
        assert result.header("X-Yours") == "2"
        assert result.header("Set-Cookie") is None
        assert result.header("Server") is None
        head, _, body = received[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /run?fixed=1&q=%20x&r HTTP/1.1\r\n")
        assert json.loads(body) == {"a": 1}
        lines = [line.lower() for line in head.split(b"\r\n")]
        assert b"host: " + place.encode() in lines
        assert b"x-mine: 1" in lines
        assert b"troth-task-id: " + task_id.encode() in lines
        assert b"content-type: application/json" in lines
        assert not [line for line in lines if line.startswith((b"authorization", b"cookie"))]
        shown = (await customer.send("GET", f"/task/{task_id}")).json
        assert (shown["node"], shown["progress"]) == (SERVER_NODE_ID, 100)


async def test_a_redirect_on_the_same_host_is_followed() -> None:
    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        target = request.split(b" ", 2)[1]
        if target == b"/a":
            await stream.send_all(b"HTTP/1.1 303 See\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")
        else:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + request[:3])

    async with host(handle) as place, world_with() as world:
        _, _, result = await called(world, f"http://{place}/a", body={})
        assert (result.status, result.body) == (200, b"GET")


@pytest.mark.parametrize(
    ("handler", "part"),
    [
        (answering("HTTP/1.1 302 F\nLocation: http://10.0.0.1/\n\n"), "redirects to another host"),
        (answering("HTTP/1.1 302 F\nLocation: /\nContent-Length: 0\n\n"), "redirects more than"),
        (answering("HTTP/1.1 700 Odd\nContent-Length: 0\n\n"), "status 700"),
        (endless_body, "longer than 5000 bytes"),
        (endless_interim_answers, "do not end"),
        (body_in_crumbs, "too small pieces"),
        (garbage, "could not be called"),
    ],
)
async def test_a_host_that_misbehaves_gives_502(handler: Handler, part: str) -> None:
    async with host(handler) as place, world_with(body_limit_bytes=5_000) as world:
        _, _, result = await called(world, f"http://{place}/")
        assert (result.status, result.code) == (502, Code.FUNCTION_UNUSABLE)
        assert part in result.json["error"]["details"][0]["message"]


async def test_a_body_may_come_in_some_small_pieces() -> None:
    async with host(body_in_lines) as place, world_with() as world:
        _, _, result = await called(world, f"http://{place}/")
        assert (result.status, result.body) == (200, b"abc" * 250 + bytes(0x1000))


async def test_what_takes_long_to_understand_is_read_in_small_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 KB may take seconds, and everybody would have to wait for that long."""
    now_s = 0.0
    monkeypatch.setattr("troth.http.outgoing.connections.perf_counter", lambda: now_s)
    network = _Network()
    stream = http_connections._Stream(network)
    for passed_s in (0.0, 0.001, 0.05, 0.05, 0.05, 0.001, *[0.001] * 10):
        now_s += passed_s
        await stream.read(1_000_000)
    assert network.wanted[:6] == [2048, 4096, 1024, 512, 512, 1024]
    assert network.wanted[-1] == 65_536
    now_s += 60
    await stream.write(b"the next request of this connection")
    await stream.read(1_000_000)
    assert network.wanted[-1] == 65_536


class _Network(httpcore.AsyncNetworkStream):
    """Remembers how much is read from it."""

    def __init__(self) -> None:
        self.wanted: list[int] = []

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> bytes:
        self.wanted.append(max_bytes)
        return b"x"

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        pass


async def test_a_host_that_hangs_gives_504_and_its_place_is_free_again() -> None:
    async with host(hang) as place, world_with() as world:
        _, _, result = await called(world, f"http://{place}/", timeout_s=1)
        assert (result.status, result.code) == (504, Code.EXECUTION_TIMEDOUT)
        assert "longer than 1 s" in result.json["error"]["details"][0]["message"]
        await eventually(lambda: calls_count(world) == 0)


async def test_a_canceled_call_ends_at_once() -> None:
    received: list[bytes] = []
    async with host(hang, received) as place, world_with() as world:
        customer = tenant(world)
        function_id = await function(world, customer.account_id, f"http://{place}/", 60)
        task_id = (await customer.send("POST", f"/task/{function_id}")).json["id"]
        await eventually(lambda: bool(received))
        assert (await customer.send("DELETE", f"/task/{task_id}")).status == 204
        await eventually(lambda: calls_count(world) == 0)
        assert (await customer.send("GET", f"/task/{task_id}/result")).status == 410


async def test_a_call_that_outlives_the_shards_is_given_up_in_peace() -> None:
    received: list[bytes] = []
    may_answer = trio.Event()

    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        await may_answer.wait()
        await OK(stream, request)

    async with host(handle, received) as place, world_with() as world:
        customer = tenant(world)
        function_id = await function(world, customer.account_id, f"http://{place}/")
        assert (await customer.send("POST", f"/task/{function_id}")).status == 201
        await eventually(lambda: bool(received))
        await world.shards.stop()
        may_answer.set()
        await eventually(lambda: calls_count(world) == 0)


def answer_no_memory() -> Reply:
    return Reply(Code.OVERLOADED)


def fail() -> Reply:
    raise RuntimeError("a defect")


@pytest.mark.parametrize("refusal", [answer_no_memory, fail])
async def test_a_call_that_was_not_given_its_task_is_made_again(
    refusal: Callable[[], Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_CALL_AGAIN_MS", 10)
    refused: list[Command] = []
    received: list[bytes] = []
    async with host(OK, received) as place, world_with() as world:
        ask = world.shards.ask

        async def ask_in_vain(command: Command, *rest: Any) -> Reply:
            if isinstance(command, AssignExecution) and not refused:
                refused.append(command)
                return refusal()
            return await ask(command, *rest)

        monkeypatch.setattr(world.shards, "ask", ask_in_vain)
        _, _, result = await called(world, f"http://{place}/")
        assert (result.status, len(refused), len(received)) == (200, 1, 1)


async def test_a_result_that_there_was_no_memory_for_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: list[bytes] = []
    refused: list[Command] = []
    async with host(OK, received) as place, world_with() as world:
        ask = world.shards.ask

        async def ask_in_vain(command: Command, *rest: Any) -> Reply:
            if isinstance(command, FinishExecution) and len(refused) < 2:
                refused.append(command)
                return answer_no_memory()
            return await ask(command, *rest)

        monkeypatch.setattr(world.shards, "ask", ask_in_vain)
        _, _, result = await called(world, f"http://{place}/")
        assert (result.status, len(refused), len(received)) == (200, 2, 1)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_private_addresses_are_not_called_whatever_they_are_named(name: str) -> None:
    received: list[bytes] = []
    async with host(OK, received) as place, world_with(guard=OwnPorts().public_only) as world:
        _, _, result = await called(world, f"http://{place.replace('127.0.0.1', name)}/")
        assert (result.status, result.code) == (502, Code.FUNCTION_UNUSABLE)
        assert "no public address" in result.json["error"]["details"][0]["message"]
        assert received == []


async def test_the_guard_judges_the_address_that_is_connected_to() -> None:
    judged: list[str] = []

    def allow(address: IpAddress, port: int) -> bool:
        judged.append(f"{address} {port}")
        return True

    async with host(OK) as place, world_with(guard=allow) as world:
        _, _, result = await called(world, f"http://{place}/")
        assert (result.status, result.body) == (200, b"ok")
        assert judged == [f"127.0.0.1 {place.rpartition(':')[2]}"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("::127.0.0.1", False),
        ("fec0::1", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("192.88.99.1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("2001:20::1", False),
        ("fd00:ec2::254", False),
        ("2002:5db8:d822::", True),
    ],
)
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) == public


async def test_many_calls_to_one_host_take_turns() -> None:
    running = most = 0

    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.05)
        running -= 1
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with host(handle) as place, world_with() as world:
        customer = tenant(world)
        function_id = await function(world, customer.account_id, f"http://{place}/")
        ids = [(await customer.send("POST", f"/task/{function_id}")).json["id"] for _ in range(20)]
        for task_id in ids:
            answer = await customer.send("GET", f"/task/{task_id}/result?wait=30")
            assert answer.status == 200
        assert most == 4
