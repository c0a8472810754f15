"""How a server starts and stops: what happens when it is told to stop before it is ready."""

import os
import signal
import threading
from collections.abc import Iterator

import trio

from troth.http.api.context import Readiness
from troth.http.serve import Server
from troth.http.settings.kinds import ListenAddress
from troth.http.settings.settings import Settings
from troth.http.sockets.doors import Door
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


async def make_server() -> tuple[Server, SlowStorage]:
    """A server that will not be ready before its storage says so."""
    settings = Settings(
        in_memory=True,
        listen=ListenAddress("127.0.0.1", 0),
        poll_listen=None,
        shutdown_timeout_ms=300,
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
