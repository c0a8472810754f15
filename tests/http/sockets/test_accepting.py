"""Connections are accepted in passes: shortages, refusals and defects, on sockets of our own."""

import errno
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from troth.http.sockets.accepting import ACCEPTS_LIMIT_COUNT, PAUSE_S, Acceptor, Port
from troth.http.sockets.departures import HandedOver


@dataclass
class Visitors:
    """A port with as much room as there is in `room_count`."""

    room_count: int = 1_000
    served: list[socket.socket] = field(default_factory=list)
    refused: list[socket.socket] = field(default_factory=list)
    ends: list[str | None] = field(default_factory=list)
    short: list[Exception] = field(default_factory=list)
    fails: bool = False

    def admit(self, connected: socket.socket, peer: str | None) -> bool:
        assert peer == "127.0.0.1"
        if len(self.served) < self.room_count:
            return True
        self.refused.append(connected)
        return False

    def ended(self, peer: str | None) -> None:
        self.ends.append(peer)

    def take_over(self, handed_over: HandedOver, peer: str | None) -> None:
        raise AssertionError(f"nothing leaves: {handed_over} of {peer}")

    def run_short(self, error: Exception) -> None:
        self.short.append(error)

    def serve(self, connected: socket.socket, peer: str | None, port: Port) -> None:
        assert peer == "127.0.0.1"
        assert port is self
        if self.fails:
            raise RuntimeError("a defect")
        self.served.append(connected)


class Listening(socket.socket):
    """A listening socket whose next calls of `accept` fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        self.bind(("127.0.0.1", 0))
        self.listen(256)

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.failures:
            raise self.failures.pop(0)
        return super().accept()


@pytest.fixture
def listening() -> Iterator[Listening]:
    with Listening() as one:
        yield one


@pytest.fixture
def connect(listening: Listening) -> Iterator[Callable[[int], list[socket.socket]]]:
    made: list[socket.socket] = []

    def come(count: int) -> list[socket.socket]:
        made.extend(socket.create_connection(listening.getsockname()) for _ in range(count))
        return made

    yield come
    for one in made:
        one.close()


def waits(epoll: select.epoll) -> bool:
    return bool(epoll.poll(0))


def close(visitors: Visitors) -> None:
    for one in visitors.served + visitors.refused:
        one.close()


Connect = Callable[[int], list[socket.socket]]


async def test_a_pass_accepts_some_and_the_next_the_rest(
    listening: Listening, connect: Connect
) -> None:
    """More in each as long as more come; after a pass without any, it begins with one again."""
    visitors = Visitors()
    async with trio.open_nursery() as nursery:
        with select.epoll() as epoll:
            acceptor = Acceptor(epoll, nursery, [listening], visitors, visitors.serve)
            connect(2 * ACCEPTS_LIMIT_COUNT + 21)
            counts = []
            for number in (1, 2, 3, 4, 5):
                assert waits(epoll)
                acceptor.accept(number)
                counts.append(len(visitors.served))
            assert counts == [1, 5, 21, 21 + ACCEPTS_LIMIT_COUNT, 21 + 2 * ACCEPTS_LIMIT_COUNT]
            assert not waits(epoll)
            connect(3)
            acceptor.accept(7)
            assert len(visitors.served) == counts[-1] + 1
            acceptor.accept(8)
            assert len(visitors.served) == counts[-1] + 3
            assert not waits(epoll)
            for one in visitors.served:
                assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            acceptor.stop()
            connect(1)
            assert not waits(epoll)
    close(visitors)


@pytest.mark.parametrize(
    "shortage", [OSError(errno.EMFILE, "too many"), OSError(errno.ENOMEM, "none"), MemoryError()]
)
async def test_while_descriptors_run_short_nothing_is_accepted(
    listening: Listening,
    connect: Connect,
    shortage: Exception,
    autojump_clock: trio.testing.MockClock,
) -> None:
    visitors = Visitors()
    async with trio.open_nursery() as nursery:
        with select.epoll() as epoll:
            acceptor = Acceptor(epoll, nursery, [listening], visitors, visitors.serve)
            connect(2)
            listening.failures = [shortage]
            acceptor.accept(1)
            assert visitors.short == [shortage]
            assert not waits(epoll)  # it would be told so without end
            await trio.sleep(PAUSE_S * 2)
            assert waits(epoll)
            acceptor.accept(2)
            acceptor.accept(3)
            assert len(visitors.served) == 2
            listening.failures = [shortage]
            acceptor.accept(4)
            acceptor.stop()
            await trio.sleep(PAUSE_S * 2)
            connect(1)
            assert not waits(epoll)
    close(visitors)


async def test_what_is_gone_is_left_out_and_a_socket_that_has_failed_is_told(
    listening: Listening, connect: Connect
) -> None:
    visitors = Visitors()
    async with trio.open_nursery() as nursery:
        with select.epoll() as epoll:
            acceptor = Acceptor(epoll, nursery, [listening], visitors, visitors.serve)
            connect(1)
            listening.failures = [OSError(errno.ECONNABORTED, "gone")] * 3
            acceptor.accept(1)
            acceptor.accept(2)
            assert len(visitors.served) == 1
            listening.failures = [OSError(errno.ECONNABORTED, "gone")] * (ACCEPTS_LIMIT_COUNT + 22)
            for number in (4, 5, 6, 7):
                acceptor.accept(number)
            assert len(listening.failures) == 1  # a pass ends, whatever the system says
            listening.failures = [OSError(errno.EBADF, "no descriptor")]
            with pytest.raises(OSError, match="no descriptor"):
                acceptor.accept(8)
    close(visitors)


async def test_a_port_that_another_process_has_shut_is_left_alone(
    listening: Listening, connect: Connect
) -> None:
    visitors = Visitors()
    async with trio.open_nursery() as nursery:
        with select.epoll() as epoll:
            acceptor = Acceptor(epoll, nursery, [listening], visitors, visitors.serve)
            connect(1)
            acceptor.accept(1)
            listening.shutdown(socket.SHUT_RDWR)
            assert waits(epoll)
            acceptor.accept(2)
            assert not waits(epoll), "a pass that is told again and again never rests"
            acceptor.stop()
    assert len(visitors.served) == 1
    close(visitors)


async def test_who_is_refused_or_fails_costs_no_other(
    listening: Listening, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    visitors = Visitors(room_count=1)
    async with trio.open_nursery() as nursery:
        with select.epoll() as epoll:
            acceptor = Acceptor(epoll, nursery, [listening], visitors, visitors.serve)
            connect(2)
            acceptor.accept(1)
            acceptor.accept(2)
            assert (len(visitors.served), len(visitors.refused)) == (1, 1)
            visitors.room_count, visitors.fails = 3, True
            *_, client = connect(1)
            acceptor.accept(3)
            assert client.recv(1) == b""
            assert visitors.ends == ["127.0.0.1"]
            assert "a defect" in capsys.readouterr().out
    close(visitors)
