"""What a service manager is told, and what is taken from it, over real sockets."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from troth.http.settings.settings import Settings
from troth.http.sockets.doors import addressed
from troth.http.supervision.manager_environment import GivenSockets, HandedOverRefused
from troth.http.supervision.notices import EXTENSION_S
from troth.http.supervision.service_manager import ServiceManager, taken

EXTENSION = f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}"


class Manager:
    """The other end: what a service manager has received."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        """Return the datagrams that have come, each as text."""
        found = []
        try:
            while True:
                found.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens at `notify` in the test's directory."""
    other_end = Manager(str(tmp_path / "notify"))
    yield other_end
    other_end.socket.close()


def fill(address: str) -> None:
    """Send a datagram socket as much as it takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.sendto(b"noise", address)


def test_ready_and_stopping_are_told(manager: Manager, tmp_path: Path) -> None:
    ours = ServiceManager(str(tmp_path / "notify"))

    ours.ready("serving at http://127.0.0.1:8001")
    ours.stopping()

    assert manager.received() == [
        "READY=1\nSTATUS=serving at http://127.0.0.1:8001",
        "STOPPING=1\nSTATUS=finishing what is in flight",
    ]


async def test_there_are_signs_of_life_three_times_in_the_timeout(
    manager: Manager, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ours = ServiceManager(str(tmp_path / "notify"), watchdog_s=30.0)
    ours.ready("serving")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(95)
        nursery.cancel_scope.cancel()

    assert manager.received() == ["READY=1\nSTATUS=serving", *["WATCHDOG=1"] * 10]


async def test_more_time_is_asked_for_while_it_starts_and_while_it_stops(
    manager: Manager, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ours = ServiceManager(str(tmp_path / "notify"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(25)
        while_starting = manager.received()
        ours.ready("serving")
        await trio.sleep(1000)
        while_serving = manager.received()
        ours.stopping()
        await trio.sleep(25)
        nursery.cancel_scope.cancel()

    assert while_starting == [EXTENSION] * 3
    assert while_serving == ["READY=1\nSTATUS=serving"]
    assert manager.received() == [
        "STOPPING=1\nSTATUS=finishing what is in flight",
        *[EXTENSION] * 3,
    ]


async def test_ready_is_told_again_until_it_is_taken(
    manager: Manager, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ours = ServiceManager(str(tmp_path / "notify"))
    fill(str(tmp_path / "notify"))

    ours.ready("serving")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(10)
        noise = manager.received()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert set(noise) == {"noise"}
    assert manager.received() == ["READY=1\nSTATUS=serving"]


async def test_a_manager_that_comes_back_is_told(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ours = ServiceManager(str(tmp_path / "notify"))
    ours.ready("serving")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(10)
        manager = Manager(str(tmp_path / "notify"))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert manager.received() == ["READY=1\nSTATUS=serving"]
    manager.socket.close()


async def test_without_a_manager_nothing_runs() -> None:
    ours = taken({})
    ours.ready("serving")

    with trio.fail_after(60):
        await ours.run()


def test_no_child_inherits_what_was_taken(tmp_path: Path) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LISTEN_PID": "1",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "api:poll",
        "PATH": "/bin",
    }

    ours = taken(environment)

    assert environment == {"PATH": "/bin"}
    assert (ours.address, ours.watchdog_s) == (str(tmp_path / "notify"), 30.0)
    assert ours.handed_over == GivenSockets(), "they were for another process"


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
    ],
)
def test_a_watchdog_that_is_not_for_us_is_none(environment: dict[str, str]) -> None:
    assert taken(environment).watchdog_s is None


def test_an_address_that_is_no_path_is_not_used() -> None:
    assert taken({"NOTIFY_SOCKET": "vsock:2:1234"}).address is None


def test_an_abstract_name_is_one(tmp_path: Path) -> None:
    name = f"troth-test-{os.getpid()}"
    other_end = Manager("\0" + name)
    ServiceManager("@" + name).ready("serving")

    assert other_end.received() == ["READY=1\nSTATUS=serving"]
    other_end.socket.close()


def handed(monkeypatch: pytest.MonkeyPatch, first: int, count: int, names: str) -> dict[str, str]:
    """The environment of a process that got descriptors from `first` on."""
    monkeypatch.setattr("troth.http.supervision.manager_environment.FIRST_DESCRIPTOR", first)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}


def consecutive(*sockets: socket.socket) -> int:
    """Duplicate sockets to consecutive descriptors, and return the first of these."""
    first = 700
    for number, one in enumerate(sockets, first):
        os.dup2(one.fileno(), number)
    return first


@pytest.mark.parametrize(("names", "first_is_api"), [("", True), ("poll:api", False)])
def test_sockets_have_roles_by_name_or_order(
    monkeypatch: pytest.MonkeyPatch, names: str, first_is_api: bool
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        ports = [one.getsockname()[1], two.getsockname()[1]]
        found = taken(handed(monkeypatch, consecutive(one, two), 2, names)).handed_over

    settings = addressed(Settings(), found)
    assert settings.poll_listen is not None
    at = [settings.listen.port, settings.poll_listen.port]
    assert at == (ports if first_is_api else ports[::-1])
    assert settings.sources["listen"] == "the service manager"
    for inherited in (*found.api, *found.poll):
        assert not inherited.get_inheritable(), "children do not get it"
        inherited.close()


def test_a_socket_that_lets_in_other_machines_counts_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("0.0.0.0", 0)) as two:
        found = taken(handed(monkeypatch, consecutive(one, two), 2, "api:api")).handed_over

    assert Settings().exposed is None
    assert addressed(Settings(), found).exposed == "listen"
    for inherited in found.api:
        inherited.close()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (socket.SOCK_DGRAM, "not a listening TCP socket"),
        (socket.SOCK_STREAM, "not a listening TCP socket"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: socket.SocketKind, says: str
) -> None:
    with socket.socket(socket.AF_INET, kind) as one:
        first = consecutive(one)
    try:
        with pytest.raises(HandedOverRefused, match=says):
            taken(handed(monkeypatch, first, 1, ""))
    finally:
        os.close(first)


def test_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), 700)
    try:
        with pytest.raises(
            HandedOverRefused, match="descriptor 700, which was handed over, is not"
        ):
            taken(handed(monkeypatch, 700, 1, ""))
    finally:
        os.close(700)


def test_a_descriptor_that_is_not_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandedOverRefused, match="descriptor 701 is a socket to listen on, but"):
        taken(handed(monkeypatch, 701, 1, ""))


def test_more_sockets_than_roles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        first = consecutive(one, one, one)
    try:
        with pytest.raises(HandedOverRefused, match="3 sockets were handed over"):
            taken(handed(monkeypatch, first, 3, "a:b:c"))
    finally:
        for number in range(first, first + 3):
            os.close(number)
