"""Memory that runs out at one step of a request, by either way in: refused, or cut off, never 500.

Before the command was taken the request is refused. After that no refusal would be true: the answer
is made of the reserve, or else the connection ends, and the client asks again.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from tests.http.client import FAR_MS, World, running, scope
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.http.api.dispatch import Dispatcher
from troth.http.api.rows import Asking, Renewals
from troth.http.documents.table import API_ENDPOINTS
from troth.http.promises import promise_endpoints
from troth.http.sockets import asgi
from troth.http.sockets.asgi import CONNECTION_KEY
from troth.http.sockets.lane_exchange import Exchange
from troth.http.sockets.lane_streams import LaneStream
from troth.http.wire import json_text
from troth.http.wire.bodies import BodyDecoder
from troth.http.wire.in_flight import InFlight
from troth.http.wire.requests import Request
from troth.persistence.memory_reserve import RESERVE
from troth.shards.held import HeldMessages
from troth.shards.turns import Asker

BODY = json.dumps({"id": "p", "timeout": FAR_MS}).encode()


@dataclass
class Way:
    """Sends one request in its way; what came of it: a status, or None for a cut connection."""

    is_lane: bool

    async def send(self, world: World, method: str, path: str, body: bytes = b"") -> int | None:
        """Send it and wait for what comes of it."""
        if self.is_lane:
            return await _by_lane(world, method, path, body)
        return await _slowly(world, method, path, body)


@dataclass
class _Connection:
    """A connection of the lane, and the lane."""

    world: World
    ended: trio.Event = field(default_factory=trio.Event)
    status: int | None = None
    in_flight: InFlight = field(default_factory=lambda: InFlight(1_000_000))

    def submit(self, command: Command, held: HeldMessages | None, asker: Asker) -> None:
        shards: Any = self.world.api.shards
        shards.submit(command, held, asker)
        shards.run_turn()

    def submit_renewals(self, renewals: Renewals, held: HeldMessages, asker: Asker) -> int:  # noqa: ARG002
        raise AssertionError("no heartbeat is sent")

    def defer(self, exchange: Exchange, reply: Reply) -> None:  # noqa: ARG002
        raise AssertionError("nothing is large")

    def start(self, exchange: Exchange) -> None:  # noqa: ARG002
        raise AssertionError("these requests need no task")

    def answered(self, data: bytes, held: HeldMessages) -> None:
        held.release()
        self.status = int(data[9:12])
        self.ended.set()

    def close(self) -> None:
        self.ended.set()

    def streams(self, stream: LaneStream) -> None:  # noqa: ARG002
        raise AssertionError("no stream was asked for")


async def _by_lane(world: World, method: str, path: str, body: bytes) -> int | None:
    dispatcher = Dispatcher(world.api, API_ENDPOINTS)
    held = world.api.hold()
    request = Request(method, path.encode(), b"", {}, body, held, id="r")
    connection = _Connection(world)
    match = dispatcher.router.match(method, path.encode())
    Exchange(connection, dispatcher, request, held, match, connection, 0.0).run()
    with trio.fail_after(30):
        await connection.ended.wait()
    return connection.status


class _AsgiConnection:
    """What hypercorn's way tells the application of a connection."""

    is_broken = False

    def abandon(self) -> None:
        self.is_broken = True

    def when_stopping(self, action: Callable[[], None]) -> None:
        """Nothing is stopped here."""


async def _slowly(world: World, method: str, path: str, body: bytes) -> int | None:
    connection = _AsgiConnection()
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await trio.sleep_forever()
        raise AssertionError("nobody wakes it")

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start" and not connection.is_broken:
            statuses.append(message["status"])

    asked = scope(method, path)
    asked["headers"] = [(b"content-length", str(len(body)).encode())] if body else []
    asked["state"] = {CONNECTION_KEY: connection}
    with trio.fail_after(30):
        await world.application(asked, receive, send)
    return statuses[0] if statuses else None


@pytest.fixture(params=["lane", "slow way"])
def way(request: pytest.FixtureRequest) -> Way:
    """Either way in."""
    return Way(request.param == "lane")


@pytest.fixture
def reserve() -> Iterator[None]:
    """A reserve that is there."""
    RESERVE.open(1 << 20, lambda: None)
    yield
    RESERVE.close()


def no_memory(*_: object, **__: object) -> Any:
    """Play any function for which there is none."""
    raise MemoryError


@pytest.mark.parametrize("step", ["decode", "command"])
async def test_what_was_not_taken_is_refused(
    way: Way, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as world:
        with monkeypatch.context() as patched:
            if step == "decode":
                patched.setattr(BodyDecoder, "decode", no_memory)
            else:
                patched.setattr(promise_endpoints, "CreatePromise", no_memory)
            assert await way.send(world, "POST", "/promises", BODY) == 503
        assert (await world.send("GET", "/promises/p")).status == 404
        assert await way.send(world, "POST", "/promises", BODY) == 201


async def test_an_answer_is_made_of_the_reserve(
    way: Way, reserve: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = json_text.dump
    left_count = 1

    def dump(made: object) -> bytes:
        nonlocal left_count
        if left_count:
            left_count -= 1
            raise MemoryError
        answer: bytes = real(made)
        return answer

    async with running() as world:
        monkeypatch.setattr(world.api, "dump", dump)
        assert await way.send(world, "POST", "/promises", BODY) == 201
        assert RESERVE.is_given_away


async def test_without_memory_for_an_answer_the_connection_ends(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as world:
        with monkeypatch.context() as patched:
            patched.setattr(world.api, "dump", no_memory)
            assert await way.send(world, "POST", "/promises", BODY) is None
            # Nothing is carried out by reading: that can be said.
            assert await way.send(world, "GET", "/promises/p") == 503
        assert await way.send(world, "GET", "/promises/p") == 200


async def test_a_body_without_room_is_refused_and_a_begun_request_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as world:
        with monkeypatch.context() as patched:
            patched.setattr(asgi._Exchange, "_read_body", no_memory)
            assert await _slowly(world, "POST", "/promises", BODY) == 503
        with monkeypatch.context() as patched:
            patched.setattr(asgi.Application, "call_quart", no_memory)
            assert await _slowly(world, "POST", "/promises", BODY) is None
        assert await _slowly(world, "POST", "/promises", BODY) == 201


async def test_nothing_is_taken_until_the_reserve_is_back(
    way: Way, reserve: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as world:
        assert await way.send(world, "POST", "/promises", BODY) == 201
        assert RESERVE.give_away()
        assert await way.send(world, "GET", "/promises/p") == 503
        RESERVE.look()
        assert await way.send(world, "GET", "/promises/p") == 200


async def test_nothing_is_created_while_memory_is_short(way: Way) -> None:
    left_bytes = 10 << 20
    RESERVE.open(1 << 20, lambda: left_bytes)
    try:
        async with running() as world:
            assert await way.send(world, "POST", "/promises", BODY) == 201
            left_bytes = 0
            RESERVE.look()
            other = BODY.replace(b'"p"', b'"q"')
            assert await way.send(world, "POST", "/promises", other) == 503
            assert await way.send(world, "GET", "/promises/p") == 200
            resolved = b'{"state":"RESOLVED"}'
            assert await way.send(world, "PATCH", "/promises/p", resolved) == 201
    finally:
        RESERVE.close()


def test_the_handlers_have_two_halves() -> None:
    """What is tested here is what most endpoints are."""
    assert sum(isinstance(row.handler, Asking) for row in API_ENDPOINTS) >= 10
