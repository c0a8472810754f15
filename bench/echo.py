"""A server that does nothing: reads requests as a server must, and answers each with its body.

It is built as the fast part of a server on this stack is: trio, one task, one epoll set over all
connections, and each wake-up serves everything that is ready. A request is parsed whole, its
fields into a mapping, within bounds. What this manages is the ceiling for such a server. Run as a
process, it prints its port and serves until it is ended:

    python -m troth.bench.echo [PORT]

`--rate NUMBER` limits the requests it answers a second: a server whose speed is known, to
check a load generator against.
"""

import os
import re
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

import click
import trio

HEAD_LIMIT_BYTES: Final = 16 * 1024
BODY_LIMIT_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_CATCH_UP_S: Final = 0.25

_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class MalformedError(Exception):
    """The client sent something that this server does not understand."""


class EchoRequest(NamedTuple):
    """One whole request. `end` is where the next one begins."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    end: int


def parse(data: bytes) -> EchoRequest | None:
    """Return the request that `data` begins with, or None if it is not complete.

    Raises MalformedError.
    """
    head_end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT_BYTES)
    if head_end < 0:
        if len(data) >= HEAD_LIMIT_BYTES:
            raise MalformedError("the head is too long")
        return None
    first, *lines = data[:head_end].split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(first)
    if request_line is None:
        raise MalformedError("the request line is wrong")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise MalformedError("a header field is wrong")
        name, value = field.groups()
        headers[name.lower()] = value.strip(b" \t")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_LIMIT_BYTES or b"transfer-encoding" in headers:
        raise MalformedError("the body has no length, or one that is too long")
    start = head_end + 4
    end = start + int(length)
    if len(data) < end:
        return None
    return EchoRequest(request_line[1], request_line[2], headers, data[start:end], end)


@dataclass(slots=True)
class _EchoConnection:
    """A client. `received` has not been answered; `unsent` waits for the client to take it."""

    socket: socket.socket
    received: bytes = b""
    unsent: bytes = b""


class EchoServer:
    """Answers requests, pipelined ones too, that have a `Content-Length` or no body."""

    def __init__(self, port: int = 0, rate: float | None = None) -> None:
        """Listen on the loopback address; port 0: any that is free. Raises OSError."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._interval_s = 1 / rate if rate else 0.0
        self._due_s = time.perf_counter()
        self._connections: dict[int, _EchoConnection] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)

    async def serve(self, lifeline: int | None = None) -> None:
        """Serve forever, or until the other end of the descriptor `lifeline` is closed."""
        if lifeline is not None:
            self._epoll.register(lifeline, select.EPOLLIN)
        listener = self._listener.fileno()
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0):
                if descriptor == listener:
                    self._accept()
                elif descriptor == lifeline:
                    if not os.read(lifeline, 1024):
                        return
                else:
                    self._serve_one(self._connections[descriptor])

    def _accept(self) -> None:
        try:
            accepted, _address = self._listener.accept()
        except BlockingIOError:
            return  # the client has left again
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = _EchoConnection(accepted)
        self._epoll.register(accepted, select.EPOLLIN)

    def _serve_one(self, connection: _EchoConnection) -> None:
        """Read what is there, or go on writing; a client that is gone or wrong is forgotten."""
        try:
            if connection.unsent:
                self._send(connection, connection.unsent)
                return
            data = connection.socket.recv(_READ_BYTES)
            if data:
                answers = self._answers(connection, connection.received + data)
                if answers:
                    self._send(connection, answers)
                return
        except BlockingIOError:
            return
        except (OSError, MalformedError):
            pass  # the client is gone, or is not worth an answer here
        self._epoll.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _answers(self, connection: _EchoConnection, data: bytes) -> bytes:
        """Return the answers to all whole requests in `data`. Raises MalformedError."""
        answers = b""
        while data:
            request = parse(data)
            if request is None:
                break
            if self._interval_s:
                self._pace()
            answers += _HEAD % len(request.body) + request.body
            data = data[request.end :]
        connection.received = data
        return answers

    def _send(self, connection: _EchoConnection, data: bytes) -> None:
        """Send. What the client does not take now goes later; until then it is not read from."""
        rest = data[connection.socket.send(data) :]
        if bool(rest) != bool(connection.unsent):
            events = select.EPOLLOUT if rest else select.EPOLLIN
            self._epoll.modify(connection.socket, events)
        connection.unsent = rest

    def _pace(self) -> None:
        """Wait until the next answer is due; a short delay is made up for, a long pause is not."""
        now = time.perf_counter()
        self._due_s = max(self._due_s + self._interval_s, now - _CATCH_UP_S)
        while time.perf_counter() < self._due_s:
            time.sleep(max(0.0, self._due_s - time.perf_counter() - 0.0005))


@click.command()
@click.argument("port", default=0)
@click.option("--rate", type=float, help="Maximum number of requests to answer per second.")
@click.option("--child", is_flag=True, help="Ignore Ctrl-C; stop when standard input ends.")
def main(port: int, rate: float | None, child: bool) -> None:
    """Serve echoes on 127.0.0.1 and print the port."""
    server = EchoServer(port, rate)
    click.echo(server.port)
    if child:
        # Ctrl-C reaches all processes of a terminal; the one that started this ends it. Should that
        # one be killed, its end of the pipe is closed all the same.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    trio.run(server.serve, sys.stdin.fileno() if child else None)


if __name__ == "__main__":
    main()
