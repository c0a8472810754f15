"""A server that does nothing: one process, one epoll set, every request answered with its body.

It has the shape of the fastest server that can be written in Python, so what it manages is the
ceiling for any. Run as a process, it prints its port and serves until it is ended:

    python -m troth.bench.echo [PORT]

`--rate NUMBER` makes it answer only so many requests a second: a server whose speed is known, to
check a load generator against.
"""

import os
import select
import signal
import socket
import sys
import time
from typing import Final

import click

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_EMPTY: Final = _HEAD % 0
_CATCH_UP_S: Final = 0.25


class EchoServer:
    """Answers requests, pipelined ones too, that have a `Content-Length` or no body."""

    def __init__(self, port: int = 0, rate: float | None = None) -> None:
        """Listen on the loopback address; port 0: any that is free. Raises OSError."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._interval_s = 1 / rate if rate else 0.0
        self._due_s = time.perf_counter()

    def serve(self, lifeline: int | None = None) -> None:
        """Serve for ever, or until the other end of the descriptor `lifeline` is closed."""
        listener = self._listener.fileno()
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        if lifeline is not None:
            epoll.register(lifeline, select.EPOLLIN)
        sockets: dict[int, socket.socket] = {}
        rests: dict[int, bytes] = {}
        while True:
            for descriptor, _ in epoll.poll():
                if descriptor == listener:
                    accepted, _address = self._listener.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sockets[accepted.fileno()] = accepted
                    epoll.register(accepted, select.EPOLLIN)
                    continue
                if descriptor == lifeline:
                    if not os.read(lifeline, 1024):
                        return
                    continue
                opened = sockets[descriptor]
                try:
                    data = opened.recv(65536)
                    if data:
                        answers, rest = self._answer(rests.pop(descriptor, b"") + data)
                        if rest:
                            rests[descriptor] = rest
                        if answers:
                            opened.sendall(answers)
                except OSError:
                    data = b""  # the client is gone
                if not data:
                    rests.pop(descriptor, None)
                    del sockets[descriptor]
                    epoll.unregister(descriptor)
                    opened.close()

    def _answer(self, data: bytes) -> tuple[bytes, bytes]:
        """The answers to all whole requests in `data`, and what is left."""
        answers = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return answers, data
            head = data[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(data) < whole:
                return answers, data
            if self._interval_s:
                self._pace()
            answers += _HEAD % length + data[end + 4 : whole] if length else _EMPTY
            data = data[whole:]

    def _pace(self) -> None:
        """Wait until the next answer is due; a short delay is made up for, a long pause is not."""
        now = time.perf_counter()
        self._due_s = max(self._due_s + self._interval_s, now - _CATCH_UP_S)
        while time.perf_counter() < self._due_s:
            time.sleep(max(0.0, self._due_s - time.perf_counter() - 0.0005))


@click.command()
@click.argument("port", default=0)
@click.option("--rate", type=float, help="Answer at most so many requests a second.")
@click.option("--child", is_flag=True, help="Ignore Ctrl-C; end when standard input does.")
def main(port: int, rate: float | None, child: bool) -> None:
    """Serve echoes on 127.0.0.1 and print the port."""
    server = EchoServer(port, rate)
    click.echo(server.port)
    if child:
        # Ctrl-C reaches all processes of a terminal; the one that started this ends it. Should that
        # one be killed, its end of the pipe is closed all the same.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    server.serve(sys.stdin.fileno() if child else None)


if __name__ == "__main__":
    main()
