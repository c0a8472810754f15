"""A node beside a server of the same user: its functions could read the server's key."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.server import SERVE, ServerProcess
from tests.helpers.users import ONE_USER
from tests.node.fake_server import WAIT_S, FakeServer, python, wait_until
from tests.node.node_process import AS_ONE_USER, NodeProcess
from troth.node.errors import NodeError
from troth.node.neighbors import KEY_FILE, readable_keys, refuse_beside_a_server

READING = python("def handle(request):\n    return open(request.Body).read()\n")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Whom the node works for; another one than the one beside it."""
    with FakeServer() as fake:
        yield fake


def server_of_one_user(directory: Path) -> ServerProcess:
    """A server of the user that nodes run as in these tests."""
    if os.geteuid() != 0:
        return ServerProcess(directory)
    process = ServerProcess(directory, command=(*AS_ONE_USER, *SERVE))
    os.chown(directory, ONE_USER, ONE_USER)
    return process


def one_user(directory: Path, server: FakeServer, *arguments: str) -> NodeProcess:
    """A node of the same user, which trusts functions only if it is told to."""
    return NodeProcess(
        directory / "node", server, *arguments, mode="one user", trusts_functions=False
    )


@pytest.mark.slow
def test_a_node_does_not_start_where_functions_could_read_a_servers_key(
    tmp_path: Path, server: FakeServer
) -> None:
    with (
        server_of_one_user(tmp_path / "beside") as beside,
        one_user(tmp_path, server) as node,
    ):
        assert node.wait() == 1

        assert str(beside.data / KEY_FILE) in node.log()
        assert "--trust-functions" in node.log()
        assert server.registrations == []


@pytest.mark.slow
def test_a_server_that_is_started_later_ends_the_node_when_it_connects_again(
    tmp_path: Path, server: FakeServer
) -> None:
    with one_user(tmp_path, server) as node:
        # Where another test runs a server as the user of all tests, it is refused at once.
        wait_until(lambda: server.connected.is_set() or "could read" in node.log())
        with server_of_one_user(tmp_path / "beside"):
            server.go_away()
            server.start()

            assert node.wait() == 1
            assert "could read" in node.log()


@pytest.mark.slow
def test_a_node_that_trusts_its_functions_starts_and_they_can_read_the_key(
    tmp_path: Path, server: FakeServer
) -> None:
    """What the flag means; without it this was every node of a server's user."""
    with (
        server_of_one_user(tmp_path / "beside") as beside,
        one_user(tmp_path, server, "--trust-functions") as node,
    ):
        assert server.connected.wait(WAIT_S), node.log()
        task = server.run(READING, str(beside.data / KEY_FILE).encode())

        assert (task.status, len(task.body)) == (200, 65)


@pytest.mark.parametrize("open_name", ["", "lock", "log/00000000000000000001.log"])
def test_a_key_is_found_by_what_a_server_has_open(tmp_path: Path, open_name: str) -> None:
    key = tmp_path / KEY_FILE
    key.write_text("0" * 64)
    opened = tmp_path / open_name
    if open_name:
        opened.parent.mkdir(exist_ok=True)
        opened.write_text("")

    assert key not in readable_keys()

    descriptor = os.open(opened, os.O_RDONLY)
    try:
        assert key in readable_keys()
        with pytest.raises(NodeError, match="--trust-functions"):
            refuse_beside_a_server()
    finally:
        os.close(descriptor)


def test_a_key_is_found_in_the_usual_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "troth-data").mkdir()
    (tmp_path / "troth-data" / KEY_FILE).write_text("")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / KEY_FILE).write_text("")
    monkeypatch.chdir(tmp_path)

    assert tmp_path / "troth-data" / KEY_FILE in readable_keys()
    assert tmp_path / "named" / KEY_FILE not in readable_keys()

    monkeypatch.setenv("TROTH_DATA", "named")

    assert tmp_path / "named" / KEY_FILE in readable_keys()
