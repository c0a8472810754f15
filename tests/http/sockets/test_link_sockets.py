"""Links over real sockets, in the passes of lanes: clients of any process reach all groups."""

import json
import os
import resource
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs
from structlog.testing import capture_logs

from tests.shards.mesh.world import Process, make_process, start
from tests.shards.stage import FAR_MS, id_in
from troth.core.commands import CreatePromise
from troth.core.model import Value
from troth.http.api.context import Api
from troth.http.documents.table import API_ENDPOINTS
from troth.http.links.node_links import NodeLinks
from troth.http.links.unix_sockets import is_same_user
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets import link_sockets
from troth.http.sockets.lane import Lane
from troth.http.sockets.link_sockets import LinkSockets, _LinkSocket
from troth.http.sockets.listener import SocketListener
from troth.shards.delivery.polls import Polls
from troth.shards.mesh.answering import Answering
from troth.shards.mesh.frames import Kind, encode_frame
from troth.shards.mesh.link import MeshLink
from troth.shards.mesh.place import encode_hello

SHARDS_EACH_COUNT = 2
LIMIT_S = 30


@dataclass
class Served:
    """A process with a port, a lane, and its links."""

    process: Process
    listener: SocketListener
    lane: Lane
    links: LinkSockets
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run_links(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the links until the scope is canceled."""
        with self.scope:
            await self.links.run(task_status=task_status)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send one request; return the status and the body of the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", self.listener.port) as stream:
            await stream.send_all(head.encode() + b"Connection: close\r\n\r\n" + content)
            with trio.fail_after(LIMIT_S):
                answer = b"".join([part async for part in stream])
        first, _, rest = answer.partition(b"\r\n\r\n")
        return int(first.split()[1]), json.loads(rest) if rest else None

    @property
    def is_linked(self) -> bool:
        """Return whether all of this process's links are up."""
        return all(link.is_up for link in self.process.mesh.links.values())


async def make(
    nursery: trio.Nursery,
    directory: Path,
    k: int,
    count: int,
    *,
    incarnation: int = 1,
    nodes_of: Callable[[Process], NodeLinks] | None = None,
) -> Served:
    """Run one process; of a cluster, if it has links to other nodes."""
    lanes: list[Lane] = []
    process = make_process(
        k,
        (SHARDS_EACH_COUNT,) * count,
        links_directory=str(directory),
        wake=lambda: lanes[0].stir() if lanes else None,
        incarnation=incarnation,
    )
    settings = Settings()
    api = Api(
        settings=settings,
        url="http://127.0.0.1",
        shards=process.shards,
        polls=Polls(connections_limit_count=10, buffer_limit_count=10),
        hold=process.shards.hold,
    )
    listener = SocketListener(nothing, ListenAddress("127.0.0.1", 0), settings)
    listener.in_flight = api.in_flight
    lane = listener.lane = Lane(api, API_ENDPOINTS, listener.limits)
    lanes.append(lane)
    await start(nursery, process, manual=False)
    nodes = None if nodes_of is None else nodes_of(process)
    links = LinkSockets(process.mesh, process.shards, lane, nodes)
    lane.serve_links(links)
    await nursery.start(lane.run)
    await listener.open()
    await nursery.start(listener.run)
    served = Served(process, listener, lane, links)
    await nursery.start(served.run_links)
    return served


async def nothing(*_: object) -> None:
    """Serve nothing: all requests of these tests are for the lane."""
    raise AssertionError


@asynccontextmanager
async def serving(directory: Path, count: int = 2) -> AsyncIterator[list[Served]]:
    """Run several processes in one loop."""
    async with trio.open_nursery() as nursery:
        served = [await make(nursery, directory, k, count) for k in range(count)]
        await until_linked(served)
        yield served
        for one in served:
            one.listener.cut()
        nursery.cancel_scope.cancel()


async def until_linked(served: list[Served]) -> None:
    """Wait until all links of all processes are up."""
    with trio.fail_after(LIMIT_S):
        while not all(one.is_linked for one in served):  # noqa: ASYNC110  nothing tells of it
            await trio.sleep(0.01)


def id_of(group: int, name: str, count: int = 2) -> str:
    """Return an id that lives in a group."""
    return id_in(group * SHARDS_EACH_COUNT, count * SHARDS_EACH_COUNT, name)


async def test_clients_of_any_process_reach_all_groups(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as served:
        for home in range(3):
            for number, process in enumerate(served):
                name = id_of(home, f"order-{number}", 3)
                status, _ = await process.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
                assert status == 201
                for reader in served:
                    status, found = await reader.ask("GET", f"/promises/{name}")
                    assert (status, found["id"]) == (200, name)
        for reader in served:
            status, page = await reader.ask("GET", "/promises?id=order-*&limit=100")
            assert status == 200
            assert len(page["promises"]) == 9


async def test_many_requests_together_are_few_batches(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        count = 200
        statuses: list[int] = []

        async def create(number: int) -> None:
            name = id_of(1, f"order-{number}")
            status, _ = await served[0].ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
            statuses.append(status)

        before = served[1].process.shards.statistics().committer.batches_count
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(create, number)
        after = served[1].process.shards.statistics().committer.batches_count
        assert statuses == [201] * count
        assert after - before < count, "what came together was no turn"


async def test_a_large_value_goes_there_and_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        shards = served[0].process.shards
        data = "YWFh" * 2_000_000
        name = id_of(1, "large")
        with trio.fail_after(LIMIT_S):
            await shards.ask(CreatePromise(name, FAR_MS, Value(data=data)))
            status, _ = await served[0].ask("GET", f"/promises/{id_of(1, 'small')}")
        assert status == 404
        state = served[1].process.shards.states()[0]
        found = state.find_promise(name)
        assert found is not None
        assert found.param.data == data


async def test_nobody_is_woken_when_the_other_end_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there is room is news only for who waits for it; a pass for nothing costs as others."""
    async with serving(tmp_path) as served:
        events_count = reads_count = 0
        on_event, receive = _LinkSocket.on_event, MeshLink.received

        def count_event(link: _LinkSocket, mask: int) -> None:
            nonlocal events_count
            events_count += link.is_asking
            on_event(link, mask)

        def count_read(link: MeshLink, data: bytes) -> None:
            nonlocal reads_count
            reads_count += 1
            receive(link, data)

        monkeypatch.setattr(_LinkSocket, "on_event", count_event)
        monkeypatch.setattr(MeshLink, "received", count_read)
        for number in range(20):
            name = id_of(1, f"order-{number}")
            status, _ = await served[0].ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
            assert status == 201
        assert events_count <= reads_count


async def test_what_a_lonely_create_waits_for_elsewhere_is_sent_before_the_rest_of_a_pass(
    tmp_path: Path,
) -> None:
    left_bytes: list[int] = []

    def look_after(links: LinkSockets) -> None:
        links.let_go()
        ends = [one._end for one in links._sockets.values()]
        left_bytes.extend(len(one.outgoing) for one in ends if isinstance(one, Answering))

    async with serving(tmp_path) as served:
        served[1].process.mesh.when_let_go = lambda: look_after(served[1].links)
        for number in range(10):
            name = id_of(1, f"order-{number}")
            status, _ = await served[0].ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
            assert status == 201
    assert left_bytes
    assert not any(left_bytes)


@dataclass
class Heard:
    """A loop that keeps what it was last asked to tell of each socket."""

    wanted: dict[int, str] = field(default_factory=dict)
    sends_soon: bool = True

    def watch(self, number: int) -> None:
        self.wanted[number] = "what comes"

    def tell_again(self, number: int) -> None:
        self.wanted[number] = "what comes"

    def await_room(self, number: int) -> None:
        self.wanted[number] = "room, too"

    def forget(self, number: int) -> None:
        del self.wanted[number]

    def submitted(self) -> None:
        """Run no turn."""

    def stir(self) -> None:
        """Run no pass."""


class Talker:
    """An end of a link that has much to say."""

    def __init__(self, left: bytes) -> None:
        self.left = left

    def take(self) -> bytes:
        taken, self.left = self.left, b""
        return taken

    def look(self) -> bool:
        return True

    def received(self, data: bytes) -> bool:  # noqa: ARG002
        return False

    def closed(self) -> None:
        """Say nothing further."""

    def say_last(self) -> None:
        """Nor at the end."""


async def test_room_is_waited_for_until_all_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where more comes than is read in one pass, which is told again."""
    monkeypatch.setattr(link_sockets, "_READ_BYTES", 1)
    monkeypatch.setattr(link_sockets, "_READS_A_PASS_COUNT", 1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop, said = Heard(), b"x" * 3_000_000
        talker = Talker(said)
        link = _LinkSocket(ours, talker, talker.received, loop)
        link.flush()
        assert loop.wanted.get(link.number) == "room, too"
        theirs.send(b"ab")
        link.on_event(select.EPOLLIN)
        assert loop.wanted.get(link.number) == "room, too"
        heard = 0
        while heard < len(said):
            heard += len(theirs.recv(1_000_000))
            link.on_event(select.EPOLLOUT)
        assert loop.wanted.get(link.number) == "what comes"


@pytest.mark.slow
async def test_a_process_that_goes_and_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first, second = served
        name = id_of(1, "order")
        second.scope.cancel()
        with trio.fail_after(LIMIT_S):
            while first.is_linked:  # noqa: ASYNC110  nothing tells of it
                await trio.sleep(0.01)
        began_s = trio.current_time()
        status, answer = await first.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
        assert status == 503
        assert answer["error"]["code"] == 50306
        assert trio.current_time() - began_s >= 1.9, "it has waited for the link"
        async with trio.open_nursery() as nursery:
            second.scope = trio.CancelScope()
            await nursery.start(second.run_links)
            await until_linked(served)
            status, _ = await first.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
            assert status == 201
            second.scope.cancel()


async def test_what_is_no_process_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        path = str(served[1].links.path_of(1))
        for content in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"\x00" * 64):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(content)
                with trio.fail_after(LIMIT_S):
                    assert await stream.receive_some() == b""
        assert all(one.is_linked for one in served), "the others' links stay"


async def test_the_greeting_of_a_process_that_was_replaced_is_no_damage(
    tmp_path: Path,
) -> None:
    """It was on its way while the next process began; found by seed 206 of the simulation."""
    async with serving(tmp_path) as served:
        before = served[0].process.mesh.place
        after = structs.replace(before, incarnation=before.incarnation + 1)
        with capture_logs() as logs:
            async with (
                await trio.open_unix_socket(str(served[1].links.path_of(1))) as newer,
                await trio.open_unix_socket(str(served[1].links.path_of(1))) as older,
            ):
                await newer.send_all(encode_frame(Kind.HELLO, encode_hello(after)))
                with trio.fail_after(LIMIT_S):
                    assert await newer.receive_some()
                await older.send_all(encode_frame(Kind.HELLO, encode_hello(before)))
                with trio.fail_after(LIMIT_S):
                    assert await older.receive_some() == b""
        assert {one["log_level"] for one in logs} == {"info"}, logs


def test_only_processes_of_this_user_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert is_same_user(one)
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        assert not is_same_user(one)


async def test_links_come_back_when_there_are_descriptors_again(tmp_path: Path) -> None:
    """A process that has too few does not end for that."""
    async with serving(tmp_path) as served:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            for link in list(served[0].links._sockets.values()):
                link.close()
            await trio.sleep(0.3)
            assert not served[0].is_linked
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await until_linked(served)
