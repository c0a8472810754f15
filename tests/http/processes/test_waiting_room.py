"""A node that serves no group passes its clients on, and else leaves connections to others."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.shards.mesh.world import make_process
from troth.http.api.context import Api, Readiness
from troth.http.documents.table import API_ENDPOINTS
from troth.http.links.passed_connections import PassedConnection
from troth.http.processes import passing_on, waiting_room
from troth.http.processes.passing_on import PassingOn, again, may_be_asked_again
from troth.http.processes.waiting_room import WaitingRoom
from troth.http.settings.settings import Settings
from troth.http.sockets.descriptors import PLENTY
from troth.shards.delivery.polls import Polls
from troth.shards.mesh.owners import Owner, Owners

REQUEST = b"GET /promises/one HTTP/1.1\r\nHost: localhost\r\n\r\n"
OF_NODE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def envelope(kind: str) -> bytes:
    """Return a request of the envelope protocol."""
    body = b'{"kind":"%b","head":{"corrId":"7","version":"2026-04-01"},"data":{}}' % kind.encode()
    return b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


class Carrier:
    """Brings connections to another node, if that can be reached; `brought` was read of them."""

    def __init__(self, owners: Owners) -> None:
        self.is_reached = True
        self.brought: list[tuple[int, bytes, str | None]] = []
        self.clients: list[Any] = []
        self._owners = owners

    def elsewhere(self, group: int) -> Owner | None:
        """Return the owner of a group: none is here."""
        return self._owners.of(group)

    async def bring(
        self,
        _owner: Owner,
        _group: int,
        passed: PassedConnection,
        client: object,
    ) -> bool:
        """Answer for the other node."""
        await trio.lowlevel.checkpoint()
        if not self.is_reached:
            return False
        self.brought.append((passed.port_number, passed.received, passed.peer))
        self.clients.append(client)
        passed.socket.send(ANSWER)
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing."""
        task_status.started()
        await trio.sleep_forever()

    async def finish(self) -> None:
        """Do nothing."""


class World:
    """A process that stands by in a node, and its port."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        process = make_process(0, (1,))
        api = Api(
            settings=Settings(poll_listen=None),
            url="http://127.0.0.1",
            shards=process.shards,
            polls=Polls(connections_limit_count=10, buffer_limit_count=10),
            hold=process.shards.hold,
            readiness=Readiness.STARTING,
        )
        seated: Any = SimpleNamespace(
            is_node_serving=True,
            handed_over=SimpleNamespace(api=(self.listening,), poll=()),
            seat=SimpleNamespace(api_address=self.address, poll_address=None),
        )
        self.seated = seated
        self.ready = trio.Event()
        self.owners = Owners()
        self.carrier = Carrier(self.owners)
        nowhere: Any = None
        carrier: Any = self.carrier
        self.passing = PassingOn(nowhere, carrier, self.owners, 2, "http://127.0.0.1")
        tables = (API_ENDPOINTS,)
        self.room = WaitingRoom(seated, api, PLENTY, tables, self.ready, self.passing)
        nursery.start_soon(self.room.run)

    def own_elsewhere(self) -> None:
        """Have another node own a group."""
        self.owners.learn(1, Owner("south", "127.0.0.1", 1, 1))

    async def ask(self, request: bytes) -> bytes:
        """Return the answer to a request on a connection of its own."""
        async with await trio.open_tcp_stream(*self.address) as client:
            await client.send_all(request)
            return bytes(await client.receive_some(4096))


@pytest.fixture
async def world(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> World:
    """Be in a hurry."""
    monkeypatch.setattr(waiting_room, "HELD_S", 0.3)
    monkeypatch.setattr(waiting_room, "_LOOK_S", 0.02)
    monkeypatch.setattr(passing_on, "SHORT_WAIT_S", 0.2)
    monkeypatch.setattr(passing_on, "RETRY_S", 0.02)
    return World(nursery)


@pytest.mark.slow
async def test_it_is_open_only_while_no_process_of_the_node_serves(
    nursery: trio.Nursery, world: World
) -> None:
    seated = world.seated
    with trio.fail_after(60):
        waiting = await trio.open_tcp_stream(*world.address)
        await waiting.send_all(REQUEST)
        with trio.move_on_after(0.8) as scope:
            await waiting.receive_some(1)
        assert scope.cancelled_caught, "another process takes it"

        seated.is_node_serving = False
        answer = bytes(await waiting.receive_some(4096))
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"retry-after" in answer.lower()
        await waiting.aclose()
        assert (await world.ask(OF_NODE)).startswith(b"HTTP/1.1 200")
        async with await trio.open_tcp_stream(*world.address) as idle:
            await idle.send_all(OF_NODE)
            assert (await idle.receive_some(4096)).startswith(b"HTTP/1.1 200")
            seated.is_node_serving = True
            while await idle.receive_some(4096):
                pass  # it ends, for the client to come again

        seated.is_node_serving = False
        assert (await world.ask(REQUEST)).startswith(b"HTTP/1.1 503")
        world.ready.set()
        await trio.sleep(0.2)
        async with await trio.open_tcp_stream(*world.address) as later:
            await later.send_all(REQUEST)
            with trio.move_on_after(0.5) as scope:
                await later.receive_some(1)
            assert scope.cancelled_caught, "it is for this process itself"
    assert world.listening.fileno() >= 0, "it is the process's own"
    world.listening.close()
    nursery.cancel_scope.cancel()


async def test_clients_are_passed_on_to_owners_on_other_nodes(
    nursery: trio.Nursery, world: World
) -> None:
    world.seated.is_node_serving = False
    world.own_elsewhere()
    long = b"POST /promises HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with trio.fail_after(60):
        for request in (REQUEST, envelope("promise.get"), long):
            assert await world.ask(request) == ANSWER
        assert world.carrier.brought == [
            (0, REQUEST, "127.0.0.1"),
            (0, envelope("promise.get"), "127.0.0.1"),
            (0, long, "127.0.0.1"),
        ]
        assert (await world.ask(OF_NODE)).startswith(b"HTTP/1.1 200")
        ready = OF_NODE.replace(b"health", b"ready")
        assert (await world.ask(ready)).startswith(b"HTTP/1.1 503")
        assert len(world.carrier.brought) == 3, "that is asked of this node"
    world.listening.close()
    nursery.cancel_scope.cancel()


async def test_only_what_a_refusal_would_harm_waits_for_an_owner_that_is_away(
    nursery: trio.Nursery, world: World
) -> None:
    world.seated.is_node_serving = False
    world.own_elsewhere()
    world.carrier.is_reached = False
    with trio.fail_after(60):
        assert (await world.ask(REQUEST)).startswith(b"HTTP/1.1 503")
        async with await trio.open_tcp_stream(*world.address) as waiting:
            await waiting.send_all(envelope("task.fence"))
            with trio.move_on_after(0.6) as scope:
                await waiting.receive_some(1)
            assert scope.cancelled_caught, "it waits"
            world.carrier.is_reached = True
            assert await waiting.receive_some(4096) == ANSWER
        world.carrier.is_reached = False
        async with await trio.open_tcp_stream(*world.address) as waiting:
            await waiting.send_all(envelope("task.fence"))
            await trio.sleep(0.3)
            with trio.fail_after(5):
                await world.room.stop()
            answer = bytes(await waiting.receive_some(4096))
        assert answer.startswith(b"HTTP/1.1 503"), "the process ends"
        assert b'"corrId"' in answer, "in its own form"
    world.listening.close()
    nursery.cancel_scope.cancel()


async def test_what_may_be_asked_again_is_when_the_owner_was_lost(
    nursery: trio.Nursery, world: World
) -> None:
    world.own_elsewhere()
    claim, fence = envelope("task.acquire"), envelope("task.fence")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        lost = world.passing.lost
        await lost(PassedConnection(0, theirs, fence, None), is_whole=True)
        assert ours.recv(4096) == ANSWER
        first, rest = fence.split(b"\r\n", 1)
        said = first + b"\r\ntroth-asked-again: 1\r\n" + rest
        assert world.carrier.brought == [(0, said, None)]
        assert again(said) == said
        await lost(PassedConnection(0, theirs, claim, None), is_whole=True)
        answer = ours.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()
        assert b'"corrId"' in answer
        assert len(world.carrier.brought) == 1, "it may have been carried out"
    assert not may_be_asked_again(fence[:-1]), "a part of it"
    assert not may_be_asked_again(b"POST /promises HTTP/1.1\r\n\r\n{}")
    assert may_be_asked_again(REQUEST)
    world.listening.close()
    nursery.cancel_scope.cancel()
