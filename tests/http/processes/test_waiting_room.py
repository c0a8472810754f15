"""A node that serves no group says that it starts, and else leaves connections to others."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.shards.mesh.world import make_process
from troth.http.api.context import Api, Readiness
from troth.http.documents.table import API_ENDPOINTS
from troth.http.processes import waiting_room
from troth.http.processes.waiting_room import WaitingRoom
from troth.http.settings.settings import Settings
from troth.http.sockets.descriptors import PLENTY
from troth.shards.delivery.polls import Polls

REQUEST = b"GET /promises/one HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "HELD_S", 0.3)
    monkeypatch.setattr(waiting_room, "_LOOK_S", 0.02)


async def test_it_is_open_only_while_no_process_of_the_node_serves(nursery: trio.Nursery) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    process = make_process(0, (1,))
    api = Api(
        settings=Settings(),
        url="http://127.0.0.1",
        shards=process.shards,
        polls=Polls(connections_limit_count=10, buffer_limit_count=10),
        hold=process.shards.hold,
        readiness=Readiness.STARTING,
    )
    seated: Any = SimpleNamespace(
        is_node_serving=True,
        handed_over=SimpleNamespace(api=(listening,)),
        seat=SimpleNamespace(api_address=address),
    )
    ready = trio.Event()
    nursery.start_soon(WaitingRoom(seated, api, PLENTY, API_ENDPOINTS, ready).run)
    with trio.fail_after(60):
        waiting = await trio.open_tcp_stream(*address)
        await waiting.send_all(REQUEST)
        with trio.move_on_after(0.8) as scope:
            await waiting.receive_some(1)
        assert scope.cancelled_caught, "another process takes it"

        seated.is_node_serving = False
        answer = bytes(await waiting.receive_some(4096))
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"retry-after" in answer.lower()
        seated.is_node_serving = True
        while await waiting.receive_some(4096):
            pass  # it ends, for the client to come again

        seated.is_node_serving = False
        async with await trio.open_tcp_stream(*address) as again:
            await again.send_all(REQUEST)
            assert (await again.receive_some(4096)).startswith(b"HTTP/1.1 503")
            ready.set()
            while await again.receive_some(4096):
                pass
        await waiting.aclose()
    assert listening.fileno() >= 0, "it is the process's own"
    listening.close()
    nursery.cancel_scope.cancel()
