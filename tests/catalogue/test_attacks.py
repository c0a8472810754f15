"""The catalogue's entries about what strangers, operators and other programs do to a server.

Real servers: what is tested is what the operating system does with them.
"""

import contextlib
import http.client
import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli import test_standard_streams as streams
from tests.helpers.server import SERVE, ServerProcess
from tests.helpers.tokens import Client, new_client
from tests.helpers.zips import plain_zip
from tests.proofs.stampede import ASKED, Asker, percentile_ms, shown
from troth.http.sockets.connection_room import SHED_IDLE_S
from troth.persistence.data_directory import LOG_NAME
from troth.persistence.wal.segmented_log import LINK_LOOK_INTERVAL_S

pytestmark = pytest.mark.slow

FAR_MS = 4_102_444_800_000
END_TIMEOUT_S = 90.0


def create(server: ServerProcess, name: str, size_bytes: int = 0) -> int | str:
    """Create a promise; the status, or how the connection ended."""
    body = {"id": name, "timeout": FAR_MS, "param": {"data": "eHh4" * (size_bytes // 4)}}
    try:
        return server.request("POST", "/promises", body)[0]
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def files(path: Path) -> dict[str, bytes]:
    """Everything in a directory."""
    found = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def last_line(server: ServerProcess) -> str:
    """What the server said at its end."""
    return server.log().rstrip("\n").rpartition("\n")[2]


@pytest.mark.parametrize("writes", [True, False])
def test_data_directory_deleted_under_a_running_server(server: ServerProcess, writes: bool) -> None:
    """ "data directory deleted or replaced under a running server": nothing is acknowledged."""
    assert create(server, "before") == 201
    shutil.rmtree(server.data)
    if writes:
        time.sleep(LINK_LOOK_INTERVAL_S)  # until the server looks again
        assert create(server, "after") != 201

    assert server.wait(END_TIMEOUT_S) == 1
    assert "was deleted, moved or replaced" in last_line(server)


def test_data_directory_replaced_under_a_running_server(server: ServerProcess) -> None:
    """ "data directory deleted or replaced under a running server": the copy stays as it is."""
    assert create(server, "before") == 201
    copy = server.directory / "copy"
    shutil.copytree(server.data, copy)
    before = files(copy)
    server.data.rename(server.directory / "old")
    copy.rename(server.data)

    assert server.wait(END_TIMEOUT_S) == 1
    assert "was deleted, moved or replaced" in last_line(server)
    assert files(server.data) == before


@contextlib.contextmanager
def asking(act: Callable[[], object], clients_count: int) -> Iterator[None]:
    """Have several clients do something again and again, whatever comes of it."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                act()

    clients = [threading.Thread(target=ask) for _ in range(clients_count)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        is_over.set()
        for client in clients:
            client.join()


@pytest.mark.parametrize("path", ["/ready", "/docs/errors"])
def test_the_reason_stays_when_health_checks_are_cut_off(tmp_path: Path, path: str) -> None:
    """ "the log fails while health checks are being answered": the one line says why."""
    for life in range(4):
        directory = tmp_path / str(life)
        with ServerProcess(directory, "--segment-bytes", "65536") as server:
            with asking(lambda: server.request("GET", path), 4):
                time.sleep(0.2)
                shutil.rmtree(server.data / LOG_NAME)
                (server.data / LOG_NAME).write_text("not a directory")
                create(server, "lost")
                assert server.wait(END_TIMEOUT_S) == 1
            text = server.log_path.read_text()

        assert "Traceback" not in text, f"life {life}: {text}"
        assert last_line(server).startswith("troth: ")
        assert str(os.fspath(server.data)) in last_line(server)


def test_sighup_and_closed_descriptors(server: ServerProcess, tmp_path: Path) -> None:
    """ "SIGHUP, and standard descriptors that are closed": neither is the server's end."""
    streams.test_sighup_stops_in_order(server)
    streams.test_closed_descriptors_become_dev_null("<&- >&- 2>&-", tmp_path)
    server.start()


IDLE_COUNT = 200
LIMITED = ("sh", "-c", 'ulimit -n "$0"; exec "$@"')


@contextlib.contextmanager
def idle(server: ServerProcess, count: int = IDLE_COUNT) -> Iterator[None]:
    """Hold connections open that say nothing; the server may close them."""
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection((host, port), timeout=10))
        time.sleep(SHED_IDLE_S + 0.2)
        yield


def test_idle_connections_use_up_all_descriptors(tmp_path: Path) -> None:
    """ "idle connections use up all descriptors": all that opens a file goes on meanwhile."""
    settings = ("--segment-bytes", "65536", "--checkpoint-interval-ms", "200")
    command = (*LIMITED, "64", *SERVE)
    with ServerProcess(tmp_path, *settings, command=command) as server:
        operator = Client(server, (server.data / "admin.key").read_text().strip())
        with idle(server):
            answers = [create(server, f"p{number}", 60_000) for number in range(20)]
            schedule = {
                "id": "s",
                "cron": "0 3 * * *",
                "promiseId": "s/{{.timestamp}}",
                "promiseTimeout": 1000,
            }
            planned = server.request("POST", "/schedules", schedule)[0]
            snapshot = operator.send("POST", "/admin/snapshot")[0]
            client = new_client(server, "a")  # two lines of the audit log
            function = {"name": "f", "type": "CODE", "lang": "PY"}
            function_id = client.json("POST", "/v1/function", function)["id"]
            code = plain_zip({"handler.py": "def handle(request):\n    return 1\n"})
            build = client.checked(client.build(function_id, code))  # by a process of its own
            audit = operator.json("GET", "/admin/audit")

        assert answers == [201] * 20
        assert (planned, snapshot) == (201, 200)
        assert build["status"] == "SUCCESS", str(build)
        assert audit
        assert server.terminate() == 0
        server.start()
        assert client.checked(build["id"]) == build


def test_a_limit_too_low_to_serve_is_refused(tmp_path: Path) -> None:
    """ "idle connections use up all descriptors": not with so few that there is no reserve."""
    command = [*LIMITED, "47", *SERVE, "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=60, check=False)

    assert ended.returncode == 1
    assert b"Cannot serve: this process may have only 47 files open" in ended.stderr
    assert ended.stderr.count(b"\n") == 1
    assert not (tmp_path / "data").exists()


def memory_bytes(server: ServerProcess) -> int:
    """What a server has in memory now."""
    status = Path(f"/proc/{server.process_id}/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )


@contextlib.contextmanager
def memory_growth(server: ServerProcess, limit_bytes: int) -> Iterator[None]:
    """Check that a server never takes more than so much in addition."""
    before_bytes = memory_bytes(server)
    most_bytes = before_bytes
    is_over = threading.Event()

    def watch() -> None:
        nonlocal most_bytes
        while not is_over.wait(0.01):
            most_bytes = max(most_bytes, memory_bytes(server))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
    assert most_bytes - before_bytes <= limit_bytes


@contextlib.contextmanager
def others_hardly_wait(server: ServerProcess, names: Sequence[str]) -> Iterator[None]:
    """Check that other clients are answered as before; limits that a busy machine keeps.

    On a quiet one 99 % have their answer within 50 ms; both times are printed.
    """
    askers = {name: Asker(server.url, ASKED[name]) for name in names}
    for asker in askers.values():
        asker.start()
    try:
        time.sleep(OTHERS_BEFORE_S)
        began = time.perf_counter()
        yield
    finally:
        for asker in askers.values():
            asker.is_over.set()
            asker.join()
    for name, asker in askers.items():
        assert asker.failure is None
        before_ms = [took_ms for at, took_ms in asker.times if at < began]
        during_ms = [took_ms for at, took_ms in asker.times if at >= began]
        print(f"{name}: {shown(before_ms)} ms, then {shown(during_ms)}")
        limit_ms = max(OTHERS_LIMIT_MS, 10 * percentile_ms(before_ms, 99))
        assert percentile_ms(during_ms, 99) < limit_ms


def connected(server: ServerProcess, receive_bytes: int | None = None) -> socket.socket:
    """A connection to a server's API."""
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(20)
    made.connect((urlsplit(server.url).hostname, urlsplit(server.url).port))
    return made


MIB = 1 << 20
OTHERS_BEFORE_S = 1.0
OTHERS_DURING_S = 3.0
OTHERS_LIMIT_MS = 1_000.0
BODY_HEAD = b"POST /promises HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4194304\r\n\r\n"


@pytest.mark.parametrize("is_open", [True, False])
def test_memory_by_count_of_unfinished_bodies(server: ServerProcess, is_open: bool) -> None:
    """ "memory by count, not by bytes": 60 unfinished bodies of 4 MiB, with and without a token."""
    if not is_open:
        new_client(server, "a")
    with (
        contextlib.ExitStack() as stack,
        memory_growth(server, 128 * MIB),
        others_hardly_wait(server, ["ready", "create"] if is_open else ["ready"]),
    ):
        clients = [stack.enter_context(connected(server)) for _ in range(60)]
        for client in clients:
            client.sendall(BODY_HEAD)
        for _ in range(63):
            for client in clients:
                with contextlib.suppress(OSError):  # it has been refused by now
                    client.sendall(bytes(65536))
        # The others' bodies may still come: there is no answer to them yet.
        assert any(select.select(clients, [], [], END_TIMEOUT_S))
        time.sleep(OTHERS_DURING_S)
        statuses = set()
        for client in select.select(clients, [], [], 0)[0]:
            with contextlib.suppress(OSError):
                statuses.add(client.recv(12))
    assert statuses <= {b"HTTP/1.1 401"} if not is_open else {b"HTTP/1.1 503"}
    assert statuses


def test_memory_by_count_of_streams_that_read_nothing(server: ServerProcess) -> None:
    """ "memory by count, not by bytes": 200 messages of 4 MB each, and nobody else waits."""
    with (
        contextlib.ExitStack() as stack,
        memory_growth(server, 128 * MIB),
        others_hardly_wait(server, ["ready", "create"]),
    ):
        for number in range(4):
            stream = stack.enter_context(connected(server, 4096))
            stream.sendall(b"GET /poll/g/w%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % number)
            assert stream.recv(12) == b"HTTP/1.1 200"
        assert create(server, "large") == 201
        for number in range(200):
            body = {"id": f"s{number}", "promiseId": "large", "timeout": FAR_MS}
            answer = server.request("POST", "/subscriptions", {**body, "recv": "poll://any@g"})
            assert answer[0] == 201
        value = {"state": "RESOLVED", "value": {"data": "eHh4" * 1_000_000}}
        assert server.request("PATCH", "/promises/large", value)[0] == 201
        started = time.monotonic()
        assert server.request("GET", "/ready")[0] == 200
        assert time.monotonic() - started < 1.0
        time.sleep(2)


LITTLE_MEMORY = ("sh", "-c", 'ulimit -v 400000; exec "$@"', "sh", *SERVE)


def test_memory_that_cannot_be_had_is_no_segmentation_fault(tmp_path: Path) -> None:
    """ "memory by count, not by bytes": with little address space, large bodies are refused."""
    with ServerProcess(tmp_path, command=LITTLE_MEMORY) as server:
        answers: list[int | str] = []

        def ask(number: int) -> None:
            answers.append(create(server, f"p{number}", 4_000_000))

        for group in range(6):
            clients = [threading.Thread(target=ask, args=(group * 8 + n,)) for n in range(8)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()

        assert 503 in answers
        assert set(answers) <= {201, 503}
        assert create(server, "small") == 201


def large_create(name: str) -> bytes:
    """A request that creates a promise of 4 MB."""
    body = json.dumps({"id": name, "timeout": FAR_MS, "param": {"data": "eHh4" * 1_000_000}})
    head = f"POST /promises HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize("clients_count", [8, 20])
def test_memory_that_all_bodies_need_at_the_same_time(tmp_path: Path, clients_count: int) -> None:
    """ "overload with little memory": bodies that arrive side by side; nothing is lost, no 500."""
    with ServerProcess(tmp_path, command=LITTLE_MEMORY) as server:
        statuses: Counter[bytes] = Counter()
        created = []
        for group in range(4):
            with contextlib.ExitStack() as stack:
                names = [f"p{group}-{number}" for number in range(clients_count)]
                left = {name: memoryview(large_create(name)) for name in names}
                clients = {name: stack.enter_context(connected(server)) for name in names}
                while left:
                    for name in list(left):
                        try:
                            sent_bytes = clients[name].send(left[name][:65536])
                        except OSError:  # it has been refused by now
                            del left[name]
                            continue
                        left[name] = left[name][sent_bytes:]
                        if not left[name]:
                            del left[name]
                for name, client in clients.items():
                    status = client.recv(12)[9:]
                    statuses[status] += 1
                    if status == b"201":
                        created.append(name)

        assert set(statuses) <= {b"201", b"503"}
        assert statuses[b"503"]
        assert created
        assert create(server, "small") == 201
        server.kill9()
        server.start()
        assert {server.request("GET", f"/promises/{name}")[0] for name in created} == {200}


def test_the_slow_way_starves_the_lane(server: ServerProcess) -> None:
    """ "the slow way starves the lane": 600 requests off it at once, and those on it go on."""
    pages = [connected(server) for _ in range(600)]
    with contextlib.ExitStack() as stack:
        for page in pages:
            stack.enter_context(page)
        connection = http.client.HTTPConnection(
            str(urlsplit(server.url).hostname), urlsplit(server.url).port, timeout=20
        )
        stack.callback(connection.close)
        connection.request("GET", "/ready")
        connection.getresponse().read()
        for page in pages:
            page.sendall(b"GET /docs/errors HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        asked_count = 0
        while not any(select.select(pages[-1:], [], [], 0)):
            connection.request("GET", "/promises/missing")
            assert connection.getresponse().read()
            asked_count += 1
        for page in pages:
            assert page.recv(12) == b"HTTP/1.1 200"

    # Before there was a gate, all pages were made in one turn: two or three had room in between.
    assert asked_count >= 20
