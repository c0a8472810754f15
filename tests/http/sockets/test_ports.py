"""Several listening sockets for one port, and ports that are taken."""

import errno
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from troth.http.settings.kinds import ListenAddress
from troth.http.sockets.ports import ListenError, Sockets, address_of, close_all, open_shared

COUNT = 4


def opened(host: str, port: int = 0) -> Sockets:
    """Open a port for some processes."""
    return open_shared(ListenAddress(host, port), COUNT, "API", "--listen")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """The sockets of a free port."""
    found = opened("127.0.0.1")
    yield found
    close_all(found)


def test_connections_are_shared_out(sockets: Sockets) -> None:
    port = sockets[0][0].getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    counts: Counter[int] = Counter()
    for process, (one,) in enumerate(sockets):
        one.setblocking(False)
        while True:
            try:
                one.accept()[0].close()
            except BlockingIOError:
                break
            counts[process] += 1
    for client in clients:
        client.close()
    assert sum(counts.values()) == 400
    # About 100 each; the kernel goes by a hash of the addresses.
    assert min(counts[process] for process in range(COUNT)) > 50, counts


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_another_server_of_ours_is_refused(sockets: Sockets, host: str) -> None:
    """Though its sockets could be shared: each would get a part of the other's clients."""
    port = sockets[0][0].getsockname()[1]
    with pytest.raises(ListenError, match=f"{host} port {port} is in use by another process"):
        opened(host, port)


def test_a_port_of_another_program_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match="choose another port with --listen"):
            opened("127.0.0.1", port)


def test_nothing_stays_open_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it comes in the middle, when some are open."""
    made: list[socket.socket] = []
    real = socket.socket

    class Last(real):  # type: ignore[misc,valid-type]
        """A socket of which there is one too few."""

        def listen(self, *arguments: int) -> None:
            made.append(self)
            if len(made) == COUNT:
                raise OSError(errno.EADDRINUSE, "taken")
            super().listen(*arguments)

    monkeypatch.setattr(socket, "socket", Last)
    with pytest.raises(ListenError, match="in use"):
        opened("127.0.0.1")
    assert len(made) == COUNT
    assert all(one.fileno() < 0 for one in made)


def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(ListenError, match=r"Cannot serve the API on nowhere\.invalid port 80"):
        opened("nowhere.invalid", 80)


def test_the_address_that_lets_in_most_stands_for_all(sockets: Sockets) -> None:
    assert address_of([]) is None
    own = address_of(sockets[0])
    assert own is not None
    assert own.is_loopback
    with socket.socket() as wide:
        wide.bind(("0.0.0.0", 0))
        found = address_of([sockets[0][0], wide])
    assert found is not None
    assert found.host == "0.0.0.0"
