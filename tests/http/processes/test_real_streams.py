"""Messages to workers of a server of three processes: streams and pushes, whoever accepts them."""

import contextlib
import os
import queue
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.clients.listening import EventStream, PushTarget
from tests.helpers.server import ServerProcess
from troth.shards.mesh.homes import HomeFinder

from .clients import FAR_MS, Client, ids_by_group
from .test_real_processes import clients

__all__ = ["clients"]

PROCESSES_COUNT = 3
LIMIT_S = 60.0
ANSWER_LIMIT_S = 3.0
"""After so long another process is asked: one that was stopped says nothing."""


def group_at(home: int) -> str:
    """Return the name of a new group whose home a process is."""
    while True:
        group = f"workers-{secrets.token_hex(4)}"
        if HomeFinder(PROCESSES_COUNT).of_group(group) == home:
            return group


def path_of(group: str, name: str = "one") -> str:
    return f"/poll/{group}/{name}"


def make_rest(client: Client, promise_id: str, receiver: str) -> str:
    """Make a promise with an invoke task; return the task's id."""
    tags = {"resonate:invoke": receiver}
    body = {"id": promise_id, "timeout": FAR_MS, "tags": tags}
    assert client.ask("POST", "/promises", body)[0] == 201
    return f"__invoke:{promise_id}"


def make_workflow(client: Client, promise_id: str, target: str) -> None:
    tags = {"resonate:target": target}
    made = {"id": promise_id, "timeoutAt": FAR_MS, "param": {}, "tags": tags}
    assert client.envelope("promise.create", **made)[0] == 200


@pytest.mark.parametrize("home", range(PROCESSES_COUNT))
def test_a_worker_gets_the_messages_of_all_groups(
    shared_processes: ServerProcess, clients: list[Client], home: int
) -> None:
    group = group_at(home)
    with EventStream(shared_processes.url + path_of(group)) as worker:
        tasks = set()
        for number, identifier in enumerate(one for ids in ids_by_group("work", 2) for one in ids):
            client = clients[number % len(clients)]
            tasks.add(make_rest(client, identifier, f"poll://any@{group}"))
        got = {worker.next()["task"]["id"] for _ in tasks}
        assert got == tasks
        for number, task_id in enumerate(sorted(tasks)):
            claim = {"id": task_id, "counter": 1, "processId": "one", "ttl": 60_000}
            assert clients[number].ask("POST", "/tasks/claim", claim)[0] == 201
            done = {"id": task_id, "counter": 1}
            assert clients[-number].ask("POST", "/tasks/complete", done)[0] in (200, 201)
        assert worker.arrived() == []


def test_all_workers_of_a_group_are_in_one_place(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    """Least loaded first, and the newest of an id wins: as with one process."""
    group = group_at(1)
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(EventStream(shared_processes.url + path_of(group, f"w{number}")))
            for number in range(9)
        ]
        for ids in ids_by_group("share", 3):
            for identifier in ids:
                make_rest(clients[0], identifier, f"poll://any@{group}")
        for stream in streams:
            stream.next()  # one for each
        again = [
            stack.enter_context(EventStream(shared_processes.url + path_of(group, f"w{number}")))
            for number in range(9)
        ]
        for stream in streams:
            stream.wait_until_ended()
        assert all(not stream.arrived() for stream in again)


def test_streams_of_the_poll_port(shared_processes: ServerProcess, clients: list[Client]) -> None:
    for home in range(PROCESSES_COUNT):
        group = group_at(home)
        with EventStream(f"{shared_processes.poll_url}/{group}/one") as worker:
            for ids in ids_by_group("polled"):
                task_id = make_rest(clients[home], ids[0], f"poll://any@{group}")
                assert worker.next()["task"]["id"] == task_id


def test_lists_of_workers_and_queues_are_of_all(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    prefix = f"listed-{secrets.token_hex(4)}-"
    with contextlib.ExitStack() as stack:
        names = [f"{prefix}{number}" for number in range(6)]
        for name in names:
            stack.enter_context(EventStream(shared_processes.url + path_of(name, f"w-{name}")))
        (first, second, third) = (ids[0] for ids in ids_by_group("listed"))
        for number, one in enumerate((first, second, third)):
            task_id = make_rest(clients[number], one, f"poll://any@{names[0]}")
            claim = {"id": task_id, "counter": 1, "processId": f"w-{names[0]}", "ttl": 60_000}
            assert clients[number].ask("POST", "/tasks/claim", claim)[0] == 201
        for client in clients[:4]:
            found: list[tuple[str, int]] = []
            path = "/workers?limit=100"
            while path:
                _, page = client.ask("GET", path)
                found += [(one["group"], one["leases"]) for one in page["workers"]]
                path = f"/workers?cursor={page['cursor']}" if page.get("cursor") else ""
            mine = [one for one in found if one[0].startswith(prefix)]
            assert mine == [(name, 3 if name == names[0] else 0) for name in names]
    # With no worker, tasks of all groups wait for the same receiver.
    name = f"{prefix}away"
    for number, ids in enumerate(ids_by_group("listed")):
        make_rest(clients[number], ids[0], f"poll://any@{name}")
    until_s = time.monotonic() + LIMIT_S
    for client in clients[:4]:
        while True:
            assert time.monotonic() < until_s
            _, body = client.ask("GET", "/queues?limit=100")
            rows = [one for one in body["queues"] if one["receiver"] == f"poll://{name}"]
            if rows and rows[0]["stalled"] == 3:
                break
        assert rows[0]["oldestOn"] is not None
        assert rows[0]["health"] == "no-workers"
    answer = clients[0].ask("POST", "/queues/retry", {"receiver": f"poll://{name}"})
    assert answer == (200, {"receiver": f"poll://{name}", "retried": 3})


def relayed(server: ServerProcess, path: str) -> socket.socket:
    """Ask for a stream in a form that is not for the lane."""
    connected = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), LIMIT_S)
    connected.sendall(f"GET {server.url}{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connected


def read_until(connected: socket.socket, text: str) -> str:
    received = b""
    while text.encode() not in received:
        part = connected.recv(65536)
        assert part, received
        received += part
    return received.decode()


def test_streams_that_are_relayed(shared_processes: ServerProcess, clients: list[Client]) -> None:
    """Connections that cannot be passed on: one in three is accepted by the home itself."""
    for number in range(8):
        group = group_at(number % PROCESSES_COUNT)
        with relayed(shared_processes, path_of(group)) as worker:
            head = read_until(worker, ": connected")
            assert head.startswith("HTTP/1.1 200")
            assert head.lower().count("content-type: text/event-stream") == 1
            assert head.lower().count("request-id:") == 1
            (first, *_), *_ = ids_by_group("relayed")
            task_id = make_rest(clients[number], first, f"poll://any@{group}")
            assert task_id in read_until(worker, task_id)
        # It has gone, so its place is free: another worker is sent the next one.
        with EventStream(shared_processes.url + path_of(group, "two")) as other:
            time.sleep(0.1)
            (second, *_), *_ = ids_by_group("relayed")
            task_id = make_rest(clients[number], second, f"poll://any@{group}")
            assert other.next()["task"]["id"] == task_id


def test_pushes_and_listeners(clients: list[Client]) -> None:
    with PushTarget() as target:
        for number, ids in enumerate(ids_by_group("pushed")):
            make_workflow(clients[number], ids[0], target.url)
            assert target.next().message["data"]["task"]["id"] == ids[0]
            data = {"awaited": ids[0], "address": target.url}
            assert clients[number + 1].envelope("promise.register_listener", **data)[0] == 200
            client = clients[number + 2]
            status, _ = client.envelope("promise.settle", id=ids[0], state="resolved", value={})
            assert status == 200
            assert target.next().message["kind"] == "unblock"


def test_what_a_worker_speaks_is_known_everywhere(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    for home in range(PROCESSES_COUNT):
        group, name = group_at(home), secrets.token_hex(4)
        with EventStream(shared_processes.url + path_of(group, name)) as worker:
            (flow, *_), (rest, *_), *_ = ids_by_group("spoken")
            data: dict[str, object] = {
                "id": flow,
                "timeoutAt": FAR_MS,
                "param": {},
                "tags": {"resonate:target": f"poll://any@{group}"},
            }
            made: dict[str, object] = {
                "pid": name,
                "ttl": 60_000,
                "action": {
                    "kind": "promise.create",
                    "head": {"corrId": "a", "version": "2026-04-01"},
                    "data": data,
                },
            }
            assert clients[home].envelope("task.create", **made)[0] == 200
            make_rest(clients[home + 1], rest, f"poll://any@{group}")
            (second, *_), *_ = ids_by_group("spoken")
            make_workflow(clients[home + 2], second, f"poll://any@{group}")
            assert worker.next()["data"]["task"]["id"] == second, "not the REST task before it"


@pytest.fixture
def own_processes(tmp_path: Path) -> Iterator[ServerProcess]:
    """Three processes that a test may kill."""
    with ServerProcess(tmp_path, "--processes", "3", "--shards", "16") as server:
        yield server


def make_anyhow(server: ServerProcess, promise_id: str, receiver: str) -> str:
    """Do as `make_rest`, asking again while the process that is asked is not there."""
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        client = Client(server)
        client.connection.timeout = ANSWER_LIMIT_S
        with contextlib.closing(client.connection), contextlib.suppress(OSError, HTTPException):
            tags = {"resonate:invoke": receiver}
            body = {"id": promise_id, "timeout": FAR_MS, "tags": tags}
            status, _ = client.ask("POST", "/promises", body)
            if status < 500:  # or it is there from the time before
                return f"__invoke:{promise_id}"
        time.sleep(0.1)
    raise AssertionError("no process made it")


def first_task(server: ServerProcess, group: str) -> str:
    """Return the task of the first message to a worker, which connects until it gets one.

    A process that is killed refuses it, or ends its stream; what was sent there comes again later.
    """
    until_s = time.monotonic() + 2 * LIMIT_S
    while time.monotonic() < until_s:
        with (
            contextlib.suppress(OSError, HTTPException, queue.Empty),
            EventStream(server.url + path_of(group)) as worker,
        ):
            if worker.status == 200:
                return str(worker.next(LIMIT_S / 3)["task"]["id"])
        time.sleep(0.1)
    raise AssertionError("no message comes")


@pytest.mark.slow
def test_a_home_is_killed_with_messages_in_its_queue(own_processes: ServerProcess) -> None:
    """They come again from their groups, and a worker that asks in the meantime waits."""
    server = own_processes
    group, beside = group_at(0), group_at(1)
    home = server.serving_ids()[0]
    of_others = [one for ids in ids_by_group("lost", 3)[1:] for one in ids]
    tasks = {make_anyhow(server, one, f"poll://any@{group}") for one in of_others}
    with EventStream(f"{server.url}{path_of(beside)}") as other:
        os.kill(home, signal.SIGKILL)
        wanted = {
            make_anyhow(server, ids[0], f"poll://any@{beside}")
            for ids in ids_by_group("beside")[1:]
        }
        with EventStream(server.url + path_of(group)) as worker:
            assert worker.status == 200
            got: set[str] = set()
            while got != tasks:
                got.add(worker.next()["task"]["id"])
        assert {other.next()["task"]["id"] for _ in wanted} == wanted


@pytest.mark.slow
def test_a_home_hangs(own_processes: ServerProcess) -> None:
    """SIGSTOP: others go on; what is for it waits until it goes on itself."""
    server = own_processes
    group, beside = group_at(0), group_at(1)
    home = server.serving_ids()[0]
    _, (first, *_), (second, *_) = ids_by_group("hung")
    os.kill(home, signal.SIGSTOP)
    try:
        task_id = make_anyhow(server, first, f"poll://any@{group}")
        other_id = make_anyhow(server, second, f"poll://any@{beside}")
        time.sleep(3)  # the links have ended by now
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was killed for that, and started again
            os.kill(home, signal.SIGCONT)
    assert first_task(server, group) == task_id
    assert first_task(server, beside) == other_id
