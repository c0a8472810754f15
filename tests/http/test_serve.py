"""How a server starts and stops: what happens when it is told to stop before it is ready."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import trio

from troth.http.api.context import Readiness
from troth.http.api.dispatch import Dispatcher
from troth.http.processes import last_answers
from troth.http.serve import Server
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets.doors import Door
from troth.http.sockets.ports import ListenError, refuse_exposed
from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import LogRecord
from troth.shards.storage import MemoryStorage

COVERED = LogRecord(0, 0, b"never looked at, since every checkpoint covers sequence 0")


class SlowStorage(MemoryStorage):
    """Gives records until it is told that they are all."""

    def __init__(self) -> None:
        super().__init__(1)
        self.is_read = threading.Event()
        self.enough = threading.Event()
        self.read_count = 0

    def records(self) -> Iterator[tuple[int, LogRecord]]:
        """The same record again and again, which changes nothing."""
        while not self.enough.is_set():
            yield 1, COVERED
            self.read_count += 1
            self.is_read.set()


async def make_server(*, hot_lane: bool = True) -> tuple[Server, SlowStorage]:
    """A server that will not be ready before its storage says so."""
    settings = Settings(
        in_memory=True,
        listen=ListenAddress("127.0.0.1", 0),
        poll_listen=None,
        shutdown_timeout_ms=300,
        hot_lane=hot_lane,
    )
    door = Door(settings.listen, settings, "API", "--listen")
    await door.listener.open()
    storage = SlowStorage()
    return Server(settings, storage, [door]), storage


async def test_a_server_that_is_told_to_stop_while_it_starts_is_never_ready() -> None:
    server, storage = await make_server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await trio.to_thread.run_sync(storage.is_read.wait)
        # A request that is not complete keeps the stop waiting while the start ends.
        client = await trio.open_tcp_stream("127.0.0.1", server.listeners[0].port)
        await client.send_all(b"POST /promises HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{")
        while server.listeners[0].statistics().connections_count == 0:
            await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGTERM)
        while server.api.readiness is Readiness.STARTING:
            await trio.lowlevel.checkpoint()
        storage.enough.set()
    await client.aclose()

    assert server.api.readiness is Readiness.STOPPING


async def test_nobody_uses_the_storage_after_a_stop_that_cut_the_recovery_short() -> None:
    server, storage = await make_server()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await trio.to_thread.run_sync(storage.is_read.wait)
            os.kill(os.getpid(), signal.SIGTERM)

        read_count = storage.read_count
        for _ in range(20):
            await trio.to_thread.run_sync(int)  # whoever still reads gets time for it
        assert read_count == storage.read_count
    finally:
        storage.enough.set()


async def _never(_: Dispatcher) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(("hot_lane", "is_stuck"), [(False, False), (True, False), (True, True)])
async def test_who_waits_is_answered_before_a_process_ends_whose_log_has_failed(
    hot_lane: bool, is_stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait since the server is cut off, on the lane and beside it.

    Also those that wait for something else that never comes.
    """
    if is_stuck:
        monkeypatch.setattr(last_answers, "STOPPED_LIMIT_S", 0.2)
        monkeypatch.setattr(Dispatcher, "_started", _never)
    server, storage = await make_server(hot_lane=hot_lane)
    storage.enough.set()
    failure = LogFailed("the engine has not answered")

    async def run() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            await server.run()
        assert raised.group_contains(LogFailed)

    body = b'{"kind":"promise.get","head":{"corrId":"7","version":"2026-04-01"},"data":{"id":"x"}}'
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await server.ready.wait()
            committer = server.shards.committer
            server.api.is_cut_off = True
            server.api.readiness = Readiness.STARTING
            port = server.listeners[0].port
            clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
            await clients[0].send_all(head + body)
            await clients[1].send_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in await clients[1].receive_some(4096)
            await trio.sleep(0.1)
            committer.fail(failure)
            answer = b""
            while data := await clients[0].receive_some(4096):
                answer += data
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert b"retry-after: " in answer.lower()
    for client in clients:
        await client.aclose()


def test_the_first_account_of_a_cluster_needs_a_server_that_is_not_exposed() -> None:
    """`troth account add` cannot be given without a server, as was advised."""
    settings = Settings(
        listen=ListenAddress("0.0.0.0", 8001), log="postgresql://h/d", cluster="orders"
    )
    with pytest.raises(ListenError, match=r"--listen 127\.0\.0\.1:8001\) until there is an acc"):
        refuse_exposed(settings)
