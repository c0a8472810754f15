"""Processes that die, hang and are replaced, under a real supervisor; clients see little of it.

The tests share one server, which each of them leaves whole.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.server import ServerDiedError, ServerProcess
from tests.proofs.rolling_restart import restart_under_load
from troth.cli.supervising.restart import asked
from troth.core.codes import Code

from .clients import FAR_MS, Client, ids_by_group

pytestmark = pytest.mark.slow

LONG_S = 60.0
PROCESSES_COUNT = 3
CONNECTIONS_LIMIT_COUNT = 60
REST_LIMIT_BYTES = 80_000_000
"""What a further process may take when nothing has been asked of it yet."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of three processes, which has a limit of connections."""
    directory = tmp_path_factory.mktemp("processes")
    limit = ("--connections-per-address-limit-count", str(CONNECTIONS_LIMIT_COUNT))
    with ServerProcess(directory, "--processes", str(PROCESSES_COUNT), *limit) as process:
        yield process


def until(is_true: Callable[[], object], what: str) -> None:
    """Wait until something is true."""
    ends_s = time.monotonic() + LONG_S
    while not is_true():
        assert time.monotonic() < ends_s, f"waited in vain: {what}"
        time.sleep(0.02)


def process_ids(server: ServerProcess) -> list[int]:
    """Return the ids of the processes, by their number."""
    (answer,) = asked(server.data, {"ask": "processes"})
    return [one["pid"] for one in answer["processes"]]


@pytest.fixture
def connect(server: ServerProcess) -> Iterator["Connect"]:
    """Makes connections, and ends them with the test."""
    made: list[Client] = []

    def to_another(than: int | None = None) -> Client:
        if than is None:
            made.append(Client(server))
            return made[-1]
        os.kill(than, signal.SIGSTOP)
        try:
            while True:
                client = Client(server, timeout_s=0.2)
                made.append(client)
                try:
                    status, *_ = client.ask("GET", "/ping")
                except OSError:
                    continue  # it waits for the one that sleeps
                if status == 503:  # those of the test before still count
                    time.sleep(0.05)
                    continue
                client.connection.sock.settimeout(LONG_S)
                return client
        finally:
            os.kill(than, signal.SIGCONT)

    yield to_another
    for client in made:
        client.close()


Connect = Callable[..., Client]
"""Makes a connection, which any process but one has accepted."""


def is_ready(server: ServerProcess) -> bool:
    """Return whether the server says that all of it serves."""
    return server.request("GET", "/ready")[0] == 200


def resident_bytes(process_id: int) -> int:
    """Return what a process has in memory."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_further_process_takes_little_memory(server: ServerProcess) -> None:
    sizes = [resident_bytes(one) for one in process_ids(server)]
    print("resident bytes at rest:", sizes)
    assert max(sizes) <= REST_LIMIT_BYTES


def test_an_address_has_its_limit_at_all_processes_together(
    server: ServerProcess, connect: Connect
) -> None:
    """Some more may be accepted before the processes have told each other."""
    statuses = []
    for _ in range(CONNECTIONS_LIMIT_COUNT + 20):
        statuses.append(connect().ask("GET", "/ping")[0])
        time.sleep(0.01)
    assert set(statuses) == {200, 503}
    assert abs(statuses.count(200) - CONNECTIONS_LIMIT_COUNT) <= 6, statuses.count(200)


def test_an_answer_waits_for_a_group_that_has_just_died(
    server: ServerProcess, connect: Connect
) -> None:
    """It says that it is unknown whether it was done; requests of workflows wait, and are done."""
    victim = process_ids(server)[1]
    client = connect(victim)
    patient = connect(victim)
    name, other, late, early = ids_by_group("just-died", 4)[1]
    for one in (client, patient):
        until(lambda: one.ask("GET", f"/promises/{early}")[0] == 404, "linked")  # noqa: B023
    answers: list[tuple[int, object]] = []
    os.kill(victim, signal.SIGSTOP)

    def wait() -> None:
        made = {"id": other, "timeoutAt": FAR_MS, "param": {}, "tags": {}}
        answers.append(patient.envelope("promise.create", **made))

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.send("POST", "/promises", {"id": name, "timeout": FAR_MS})
    time.sleep(0.2)  # both are on their way to a process that sleeps
    os.kill(victim, signal.SIGKILL)
    killed_s = time.monotonic()
    status, body = client.receive()
    assert (status, body["error"]["code"]) == (503, Code.LINK_BROKEN)
    assert client.headers["retry-after"] == "1"
    # What is asked now waits for the next process.
    assert client.ask("POST", "/promises", {"id": late, "timeout": FAR_MS})[0] in (201, 503)
    until(lambda: client.ask("GET", f"/promises/{late}")[0] in (200, 404), "its group is back")
    print("its group is back after", time.monotonic() - killed_s)
    waiting.join(LONG_S)
    assert [status for status, _ in answers] == [200]
    # Asking again settles it.
    assert client.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})[0] in (201, 409)
    until(lambda: is_ready(server), "all are ready")


def test_other_groups_are_served_while_the_first_process_is_away(
    server: ServerProcess, connect: Connect
) -> None:
    """Longer than copies of accounts are good without a word: it is killed as soon as it is up."""
    client = connect(process_ids(server)[0])
    ids = ids_by_group("away", 300)
    killed: set[int] = set()
    began_s = time.monotonic()
    asked_count = 0
    while time.monotonic() - began_s < 5:
        pid = process_ids(server)[0]
        if pid is not None and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        for group in (1, 2):
            name = ids[group][asked_count]
            status, body = client.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
            assert status == 201, (time.monotonic() - began_s, body)
        asked_count += 1
        time.sleep(0.05)
    assert len(killed) >= 2
    until(lambda: is_ready(server), "all are ready")
    assert client.ask("POST", "/promises", {"id": ids[0][0], "timeout": FAR_MS})[0] == 201


def test_a_process_that_hangs_counts_as_down_and_is_replaced(
    server: ServerProcess, connect: Connect
) -> None:
    before = process_ids(server)
    victim = before[2]
    client = connect(victim)
    (near, *_), _, (far, early) = ids_by_group("hangs", 2)
    until(lambda: client.ask("GET", f"/promises/{early}")[0] == 404, "linked")
    os.kill(victim, signal.SIGSTOP)
    client.send("POST", "/promises", {"id": far, "timeout": FAR_MS})
    status, body = client.receive()  # after two seconds without a word of it
    assert (status, body["error"]["code"]) == (503, Code.LINK_BROKEN)
    status, body = client.ask("GET", f"/promises/{far}")
    assert (status, body["error"]["code"]) == (503, Code.OUT_OF_REACH)
    assert client.headers["retry-after"] == "1"
    assert client.ask("POST", "/promises", {"id": near, "timeout": FAR_MS})[0] == 201
    assert client.ask("GET", "/ready")[0] == 503
    until(lambda: process_ids(server)[2] not in (victim, None), "it was replaced")
    until(lambda: client.ask("GET", "/ready")[0] == 200, "all are ready")
    assert process_ids(server)[:2] == before[:2]
    assert client.ask("GET", f"/promises/{far}")[0] in (200, 404)


def test_a_bulk_job_goes_on_when_processes_were_killed(
    server: ServerProcess, connect: Connect
) -> None:
    """Process 0 drives it, the others have parts of what it is about. Nothing counts twice."""
    client = connect(process_ids(server)[0])
    groups = ids_by_group("bulk-killed", 14)
    label = {"for": groups[0][0]}
    for name in (one for group in groups for one in group):
        body = {"id": name, "timeout": FAR_MS, "tags": label}
        assert client.ask("POST", "/promises", body)[0] == 201
        assert client.ask("PATCH", f"/promises/{name}", {"state": "RESOLVED"})[0] == 201
    filters = {"id": "*", "tags[for]": groups[0][0]}
    job = {"action": "delete", "filter": filters, "ratePerSecond": 14}
    status, made = client.ask("POST", "/bulk", job)
    assert status == 201, made
    until(lambda: client.ask("GET", f"/bulk/{made['id']}")[1]["done"] > 4, "it is in the middle")
    client.close()  # it may be connected to one of them
    for number in (0, 2):
        os.kill(process_ids(server)[number], signal.SIGKILL)
        until(lambda: is_ready(server), "all are ready")

    client = connect()

    def has_ended() -> bool:
        status, shown = client.ask("GET", f"/bulk/{made['id']}")
        return status == 200 and shown["state"] != "running"

    until(has_ended, "the job has ended")
    shown = client.ask("GET", f"/bulk/{made['id']}")[1]
    assert (shown["state"], shown["done"], shown["skipped"]) == ("finished", 42, {}), shown
    found = client.ask("GET", f"/promises?id=*&tags[for]={groups[0][0]}")[1]["promises"]
    assert found == []


@pytest.mark.newest
def test_all_are_killed_at_once(server: ServerProcess, connect: Connect) -> None:
    ids = [one for group in ids_by_group("killed", 3) for one in group]
    client = connect()
    for identifier in ids:
        assert client.ask("POST", "/promises", {"id": identifier, "timeout": FAR_MS})[0] == 201
    server.restart()
    client = connect()
    for identifier in ids:
        assert client.ask("GET", f"/promises/{identifier}")[0] == 200


def test_a_second_server_is_refused_until_the_last_process_has_gone(
    server: ServerProcess,
) -> None:
    """Also when its supervisor was killed: then the processes stop in good order."""
    second = ServerProcess(server.directory, "--processes", "3")
    with pytest.raises(ServerDiedError, match="is in use by another"):
        second.start()
    assert is_ready(server)
    processes = process_ids(server)
    os.kill(processes[0], signal.SIGSTOP)
    os.kill(server.process_id, signal.SIGKILL)
    with pytest.raises(ServerDiedError, match="is in use by another"):
        second.start()
    os.kill(processes[0], signal.SIGCONT)
    for one in processes:
        until(lambda: not Path(f"/proc/{one}").exists(), "it has stopped")  # noqa: B023
    server.restart()


def test_a_restart_under_load_refuses_no_request(server: ServerProcess) -> None:
    """Connections wait, and so does what the next process has to answer; see the proof."""
    before = process_ids(server)
    report = restart_under_load(server, "restart", clients_count=4, warm_up_s=0.5)
    print(report)
    assert len(report.seen) > 20
    assert report.problems(PROCESSES_COUNT) == []
    assert set(before).isdisjoint(process_ids(server))
