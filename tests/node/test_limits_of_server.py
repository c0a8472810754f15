"""Limits that are settings of the server: the node learns them, and says at once what they stop."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.helpers.server import ServerProcess
from troth.node import client as node_client
from troth.node.client import ServerClient
from troth.node.errors import AnswerTooLarge, NotReached
from troth.node.limits import RESULT_HEADERS_LIMIT_BYTES, ResultLimits

from .fake_server import WAIT_S, FakeServer, python
from .node_process import NodeProcess
from .test_with_server import Functions, functions_of

MEBIBYTE = 1 << 20
SIZED = python("def handle(request):\n    return bytes(int(request.Body))\n")
HEADED = python("def handle(request):\n    return {'Header': {'x': 'y' * int(request.Body)}}\n")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server of the test's own."""
    with FakeServer() as fake:
        yield fake


@contextlib.contextmanager
def running(directory: Path, server: FakeServer) -> Iterator[NodeProcess]:
    """A node that is connected."""
    with NodeProcess(directory / "node", server) as node:
        assert server.connected.wait(WAIT_S), node.log()
        yield node


@pytest.mark.slow
def test_a_result_may_be_as_large_as_the_server_takes(tmp_path: Path, server: FakeServer) -> None:
    server.said = {"bodyLimitBytes": 16 * MEBIBYTE, "headLimitBytes": 32 << 10}
    with running(tmp_path, server):
        large = server.run(SIZED, str(5 * MEBIBYTE).encode())
        too_large = server.run(SIZED, str(16 * MEBIBYTE + 1).encode())

    assert (large.status, len(large.body)) == (200, 5 * MEBIBYTE)
    assert too_large.json()["error"] == {
        "type": "ResultTooLarge",
        "message": f"the result is larger than {16 * MEBIBYTE} bytes",
    }


@pytest.mark.slow
def test_a_result_is_refused_by_the_node_where_the_server_would(
    tmp_path: Path, server: FakeServer
) -> None:
    server.said = {"bodyLimitBytes": MEBIBYTE, "headLimitBytes": 4 << 10}
    server.result_limit_bytes = MEBIBYTE
    # As many as the headers limit leaves beside everything else.
    server.result_headers_limit_bytes = 2 << 10
    with running(tmp_path, server) as node:
        body = server.run(SIZED, str(2 * MEBIBYTE).encode())
        headers = server.run(HEADED, b"2000")
        assert "a result was refused" not in node.events()

    assert body.json()["error"]["message"] == f"the result is larger than {MEBIBYTE} bytes"
    assert headers.json()["error"]["message"].endswith("headers of 1536 bytes together")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "size", "kind", "said"),
    [
        (SIZED, b"2000", "ResultTooLarge", "(2000 bytes, and 36 of headers): 413"),
        (HEADED, b"2000", "BadResponse", "(0 bytes, and 2001 of headers): 431"),
    ],
)
def test_a_refusal_for_good_is_said_at_once_with_its_numbers(
    tmp_path: Path, server: FakeServer, code: object, size: bytes, kind: str, said: str
) -> None:
    server.result_limit_bytes, server.result_headers_limit_bytes = 1_000, 1_000
    with running(tmp_path, server) as node:
        task = server.run(code, size)  # type: ignore[arg-type]

        assert task.json()["error"]["type"] == kind
        assert said in task.json()["error"]["message"]
        assert said in node.log()
        assert "asking again" not in node.events()


@pytest.mark.slow
def test_a_registration_that_is_refused_for_good_ends_the_node(
    tmp_path: Path, server: FakeServer
) -> None:
    # Every path ends so; the registration is the first that is asked for.
    server.refuse[""] = 400
    with NodeProcess(tmp_path / "node", server) as node:
        assert node.wait() == 1

        assert "does not take this node as it describes itself: 400" in node.log()
        assert server.refused == [""]


@pytest.mark.slow
def test_a_body_limit_that_was_raised_holds_for_results_and_archives(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raised = ("--body-limit-bytes", str(16 * MEBIBYTE), "--build-limit-bytes", str(8 * MEBIBYTE))
    with ServerProcess(tmp_path_factory.mktemp("server"), *raised) as process:
        functions: Functions = functions_of(process, tmp_path)
        # Noise is as large in an archive as outside of it.
        noise = python(
            "import noise\ndef handle(request):\n    return bytes(int(request.Body))\n",
            noise=f"kept = '{os.urandom(5 * MEBIBYTE // 2).hex()}'\n",
        )
        function_id = functions.function(noise)
        with functions.node("0") as node:
            status, body = functions.result(functions.create(function_id, b"5242880"))

            assert (status, len(body)) == (200, 5 * MEBIBYTE), node.log()


def test_headers_of_a_result_fit_into_the_request_that_carries_them() -> None:
    # Base64 makes four bytes of three.
    assert ResultLimits.of_server(1, 4_096).headers_bytes == 1_536
    assert ResultLimits.of_server(1, 1 << 20).headers_bytes == RESULT_HEADERS_LIMIT_BYTES
    assert 0 < ResultLimits.of_server(1, 1_024).headers_bytes < 1_024


@contextlib.contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[ServerClient]:
    """A client of a server that does what it likes with one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                # The client has gone.
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield ServerClient(f"127.0.0.1:{listener.getsockname()[1]}", "t")
        finally:
            with contextlib.suppress(OSError):
                # Nobody may have come.
                socket.create_connection(listener.getsockname()).close()
            thread.join()


async def test_an_answer_that_comes_before_all_was_sent_is_the_answer() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        # It closes with most of the body unread.

    with answering(refuse) as client:
        answer = await client.ask("POST", "/", bytes(8 * MEBIBYTE))

    assert answer.status == 413


async def test_an_answer_that_is_too_large_is_no_reason_to_ask_again() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + bytes(100_000))

    with answering(talk) as client, pytest.raises(AnswerTooLarge, match="1000 bytes"):
        await client.ask("GET", "/", limit_bytes=1_000)


async def test_a_body_may_take_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "ANSWER_TIMEOUT_S", 1.0)

    def drip(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
        for _ in range(8):
            threading.Event().wait(0.3)
            connection.sendall(b"x")

    with answering(drip) as client:
        answer = await client.ask("GET", "/")
        await client.close()

    assert answer.body == b"x" * 8


async def test_silence_is_no_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "ANSWER_TIMEOUT_S", 0.3)

    def keep_silent(connection: socket.socket) -> None:
        while connection.recv(1_000):
            pass

    with answering(keep_silent) as client, pytest.raises(NotReached, match="in time"):
        await client.ask("GET", "/")


async def test_a_stream_may_be_as_silent_as_the_server_says(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    class Silent:
        async def next_event(self) -> object:
            """Nothing comes."""
            return await trio.sleep_forever()

    client = ServerClient("127.0.0.1:1", "t")
    for interval_s, expected_s in ((15.0, 60.0), (3_600.0, 10_800.0)):
        client.expect_comments(interval_s)
        begin = trio.current_time()
        events = node_client._events(Silent(), client._silence_limit_s)  # type: ignore[arg-type]
        with pytest.raises(NotReached):
            await anext(events)
        assert trio.current_time() - begin == pytest.approx(expected_s)
