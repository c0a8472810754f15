"""A server for the load generator's own tests: it does with each request what the test says."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from troth.bench.client import BenchTarget

Behaviour = Callable[[int], bytes | None]
"""Is given the number of the request; returns the answer, or None to close the connection."""


def answer(status: int, body: bytes = b"{}") -> bytes:
    """An answer as bytes."""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class FakeServer:
    """One thread that serves all connections in turn, so that a pause stops everybody."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.01)
        self._ending = False
        self._thread = threading.Thread(target=self._serve)
        self.requests_count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending = True
        self._thread.join()
        self._listener.close()

    @property
    def target(self) -> BenchTarget:
        port: int = self._listener.getsockname()[1]
        return BenchTarget("127.0.0.1", port, "127.0.0.1", port)

    def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            opened: list[socket.socket] = []
            while not self._ending:
                # Nobody has come: look after those that are here.
                with contextlib.suppress(TimeoutError, BlockingIOError):
                    accepted = stack.enter_context(self._listener.accept()[0])
                    accepted.setblocking(False)
                    opened.append(accepted)
                    self._listener.settimeout(0)
                served = [self._serve_one(one, opened) for one in tuple(opened)]
                if not any(served):
                    time.sleep(0.0005)

    def _serve_one(self, client: socket.socket, opened: list[socket.socket]) -> bool:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        reply = self._behaviour(self.requests_count) if data else None
        self.requests_count += bool(data)
        if reply is None:
            client.close()
            opened.remove(client)
        else:
            # The generator may have ended meanwhile.
            with contextlib.suppress(OSError):
                client.sendall(reply)
        return True
