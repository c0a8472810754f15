"""The supervisor with processes that stand for servers: ends, hangs, restarts, second servers."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.supervising.running import (
    HANGS_S,
    KILLED_SOON,
    LONG_S,
    PROGRAM,
    Supervised,
    until,
)
from tests.helpers.repository import ROOT
from troth.cli.supervising.restart import asked
from troth.persistence.data_directory import open_identity
from troth.persistence.errors import DataDirectoryLocked
from troth.persistence.files import RealFiles

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Supervised]:
    """Three processes that serve."""
    with Supervised(tmp_path) as running:
        yield running.wait_ready()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Supervised]:
    """As `server`; one that says nothing is killed sooner."""
    with Supervised(tmp_path, environment=KILLED_SOON) as running:
        yield running.wait_ready()


def is_alive(pid: int) -> bool:
    """Return whether there is a process that is not only waited for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_locked(data: Path) -> bool:
    """Return whether a second server would be refused."""
    try:
        RealFiles().lock(str(data)).close()
    except BlockingIOError:
        return True
    return False


@pytest.mark.newest
def test_connections_are_shared_and_all_end_in_good_order(server: Supervised) -> None:
    counts = Counter(server.ask()["process"] for _ in range(60))
    assert set(counts) == {0, 1, 2}
    assert max(counts.values()) < 45, counts
    run = server.data / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "control").stat().st_mode) & stat.S_IFSOCK == 0
    until(lambda: server.ask()["peers"] == [0, 1, 2], "each knows who is up")
    assert sorted(path.name for path in (server.data / "groups").iterdir()) == ["0", "1", "2"]
    pids = server.pids()
    assert server.end() == 0
    assert not any(map(is_alive, pids))
    assert list(run.iterdir()) == []
    assert not is_locked(server.data)


def test_a_process_inherits_what_is_its_own_and_no_more(server: Supervised) -> None:
    shown = server.ask()
    assert shown["inheritable"] is False, "nor do its own children get the lock"
    assert shown["environment"] == []
    # Standard streams, lock, control, one socket; the loop's own; the connection and this list.
    assert len(shown["descriptors"]) <= 14


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_in_flight_is_finished(server: Supervised, number: int) -> None:
    """While all groups still answer; then they end."""
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(server.ask("hold")))
    client.start()
    time.sleep(0.5)
    server.process.send_signal(number)
    until(lambda: server.logged("stopping"), "the stop")
    time.sleep(0.5)
    # Those that have nothing in flight wait for the one that has.
    assert len([pid for pid in server.pids() if is_alive(pid)]) == 3
    (server.data / "release").touch()
    assert server.process.wait(LONG_S) == 0
    client.join()
    assert answers[0]["process"] in {0, 1, 2}


def test_new_connections_are_refused_while_what_is_in_flight_is_finished(
    server: Supervised,
) -> None:
    """A client, or a load balancer, can go to another server then."""
    client = threading.Thread(target=server.ask, args=("hold",))
    client.start()
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.logged("stopping"), "the stop")

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    until(is_refused, "the port is shut")
    assert server.process.poll() is None
    (server.data / "release").touch()
    assert server.process.wait(LONG_S) == 0
    client.join()


def test_a_second_signal_ends_all_immediately(server: Supervised) -> None:
    client = threading.Thread(target=server.ask, args=("hold",))
    client.start()
    time.sleep(0.5)
    pids = server.pids()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.logged("stopping"), "the stop")
    assert server.end() == 1
    client.join()
    assert not any(map(is_alive, pids))


def test_nohup_stands_a_closed_terminal(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Supervised(tmp_path, 2, prepared=ignore) as server:
        server.wait_ready()
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.ask()
        assert server.end() == 0


@pytest.mark.newest
@pytest.mark.parametrize("how", ["exit 0", "exit 3", "kill"])
def test_a_process_that_ends_is_started_again(server: Supervised, how: str) -> None:
    """Its new connections wait in the meantime, and are answered."""
    before = {one["process"]: one for one in server.processes()}
    if how == "kill":
        victim = 1
        os.kill(before[1]["pid"], signal.SIGKILL)
    else:
        pids = {one["pid"] for one in before.values()}
        server.ask(how)
        gone = until(lambda: [pid for pid in pids if not is_alive(pid)], "one has ended")
        victim = next(k for k, one in before.items() if one["pid"] == gone[0])
    answers = [server.ask() for _ in range(40)]
    assert all(answers), "no connection is refused, and none is lost"
    after = until(
        lambda: (
            {one["process"]: one for one in server.processes()}
            if server.are_up() and server.processes()[victim]["starts"] == 2
            else None
        ),
        "it is back",
    )
    assert after[victim]["incarnation"] > before[victim]["incarnation"]
    for process in before.keys() - {victim}:
        assert after[process] == before[process]
    (line,) = server.logged("a process has ended")
    assert (line["process"], line["restarts_in_s"]) == (victim, 0.0)
    assert line["signal"] == "SIGKILL" if how == "kill" else line["status"] == int(how[-1])


def test_a_process_that_cannot_start_is_tried_less_and_less_often(server: Supervised) -> None:
    (server.data / "no-start-1").touch()
    os.kill(server.processes()[1]["pid"], signal.SIGKILL)
    until(lambda: server.logged("a process has ended")[3:], "four ends")
    ended = server.logged("a process has ended")
    assert [line["restarts_in_s"] for line in ended][:4] == [0.0, 0.5, 1.0, 2.0]
    assert {line["process"] for line in ended} == {1}
    until(lambda: _peers_of_others(server, 1) == [0, 2], "the others know")
    (server.data / "no-start-1").unlink()
    until(server.are_up, "it is back")
    assert server.end() == 0


def test_all_hear_that_no_process_owns_the_accounts_until_one_begins(server: Supervised) -> None:
    def unowned() -> float:
        """The latest time at which a process that is not the owner heard of none."""
        return float(until(lambda: _shown_by_another(server, 0), "another answers")["unowned"])

    until(server.are_up, "all serve")
    started_s = unowned()
    time.sleep(1.5)
    assert unowned() == started_s, "there is one"
    (server.data / "no-start-0").touch()
    killed_s = time.monotonic()
    os.kill(server.processes()[0]["pid"], signal.SIGKILL)
    until(lambda: unowned() > killed_s + 1.5, "it is said again and again")
    (server.data / "no-start-0").unlink()
    until(server.are_up, "it is back")
    begun_s = unowned()
    time.sleep(1.5)
    assert unowned() == begun_s < time.monotonic() - 1.5
    assert server.end() == 0


def test_a_process_that_hangs_is_down_and_then_killed(impatient: Supervised) -> None:
    """SIGSTOP: it neither ends nor says anything."""
    server = impatient
    victim = server.processes()[2]
    stopped_s = time.monotonic()
    os.kill(victim["pid"], signal.SIGSTOP)
    until(lambda: not server.processes()[2]["up"], "it is down")
    assert time.monotonic() - stopped_s >= 1.4
    assert is_alive(victim["pid"])
    until(lambda: _peers_of_others(server, 2) == [0, 1], "the others know")
    until(lambda: server.processes()[2]["starts"] == 2 and server.are_up(), "it is back")
    assert time.monotonic() - stopped_s >= HANGS_S - 1
    assert [line["process"] for line in server.logged("a process says nothing and is killed")] == [
        2
    ]
    assert [line["process"] for line in server.logged("a process is down")] == [2]


def _peers_of_others(server: Supervised, hanging: int) -> list[int]:
    """Return what a process that does not hang knows of the others."""
    shown = _shown_by_another(server, hanging)
    return [] if shown is None else list(shown["peers"])


def _shown_by_another(server: Supervised, away: int) -> dict[str, Any] | None:
    """Return what a process says; None if it is the one that is away, or that does not answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(0.3)  # the one that hangs gets a third of the connections
        connection.sendall(b"who\n")
        try:
            shown = dict(json.loads(connection.recv(65536)))
        except (TimeoutError, ValueError):
            return None
        return None if shown["process"] == away else shown


def test_a_supervisor_that_stood_still_kills_no_one(impatient: Supervised) -> None:
    """What the processes said in the meantime is read first; nor does it count as silence."""
    server = impatient
    pids = server.pids()
    os.kill(server.process.pid, signal.SIGSTOP)
    time.sleep(HANGS_S + 1)
    os.kill(server.process.pid, signal.SIGCONT)
    time.sleep(1)
    assert server.pids() == pids
    assert server.are_up()
    assert not server.logged("a process is down")


def test_the_supervisor_is_killed(server: Supervised, tmp_path: Path) -> None:
    """Its processes finish and stop; a second server is refused until the last has gone."""
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(server.ask("hold")))
    client.start()
    time.sleep(0.5)
    pids = server.pids()
    server.process.kill()
    server.process.wait()
    until(lambda: sum(map(is_alive, pids)) == 1, "two have stopped")
    with pytest.raises(DataDirectoryLocked):
        open_identity(server.data, RealFiles(), None, 3, created_at_ms=1)
    with Supervised(tmp_path) as second:
        assert second.process.wait(LONG_S) == 1
        (line,) = second.logged("the server has failed")
        assert "is in use by another process" in line["problem"]
    assert is_locked(server.data)
    (server.data / "release").touch()
    client.join()
    assert answers[0]["pid"] in pids, "what was in flight is finished"
    until(lambda: not is_locked(server.data), "the last has gone")
    assert not any(map(is_alive, pids))
    with Supervised(tmp_path) as third:
        third.wait_ready()
        assert third.end() == 0


@pytest.mark.newest
def test_kill_of_all_at_once(server: Supervised, tmp_path: Path) -> None:
    """Nothing that they leave is in the way."""
    pids = [server.process.pid, *server.pids()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: not is_locked(server.data), "they have gone")
    assert (server.data / "run" / "control").exists(), "a leftover"
    (server.data / "run" / "mesh-1").touch()
    with Supervised(tmp_path, port=server.port) as again:
        again.wait_ready()
        assert again.ask()
        assert not (server.data / "run" / "mesh-1").exists()
        assert again.end() == 0


def test_two_supervisors(server: Supervised, tmp_path: Path) -> None:
    """The second is refused in one line, by the port or by the directory, and changes nothing."""
    pids = server.pids()
    for port, words in ((0, "data is in use by another process"), (server.port, "in use by")):
        with Supervised(tmp_path, port=port) as second:
            assert second.process.wait(LONG_S) == 1
            (line,) = second.log()
            assert words in line["problem"]
    (tmp_path / "other").mkdir()
    with Supervised(tmp_path / "other", port=server.port) as third:
        assert third.process.wait(LONG_S) == 1
        assert f"port {server.port} is in use" in third.log()[0]["problem"]
        assert not third.data.exists()
    assert server.pids() == pids
    assert server.are_up()


def test_ports_taken_halfway_through_a_start(tmp_path: Path) -> None:
    """The second port is another program's: nothing is left of the first, nor of a directory."""
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        poll = f"127.0.0.1:{taken.getsockname()[1]}"
        with Supervised(tmp_path, port=port, poll_listen=poll) as server:
            assert server.process.wait(LONG_S) == 1
            (line,) = server.log()
            assert "Cannot serve the poll streams" in line["problem"]
            assert "choose another port with --poll-listen" in line["problem"]
            assert not server.data.exists()
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))


def test_another_number_of_groups_is_refused(server: Supervised, tmp_path: Path) -> None:
    assert server.end() == 0
    with Supervised(tmp_path, 2) as other:
        assert other.process.wait(LONG_S) == 1
        (line,) = other.log()
        assert f"`troth data convert {server.data} --groups 2`" in line["problem"]


def test_an_end_that_concerns_all_ends_all(server: Supervised) -> None:
    """As a failing disk does: with its message and its status."""
    pids = server.pids()
    server.ask("fatal the log cannot be written")
    assert server.process.wait(LONG_S) == 1
    (line,) = server.logged("the server has failed")
    assert line["problem"] == "the log cannot be written"
    assert not any(map(is_alive, pids))
    assert len((server.data / "starts").read_text().splitlines()) == 3, "none was started again"


def test_more_processes_than_cores_are_told(tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0)) + 1
    with Supervised(tmp_path, count) as server:
        server.wait_ready()
        (line,) = server.logged("there are more processes than cores")
        assert (line["processes"], line["cores"]) == (count, count - 1)
        assert server.end() == 0


def test_the_supervisor_itself_is_small(server: Supervised) -> None:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (size,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(size) < 60_000, "kB"
    assert "\nThreads:\t1\n" in status
    loaded = "import sys, troth.cli.supervising.start; print('trio' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "False\n", "it has not loaded what serves"


def test_a_directory_with_a_long_path(tmp_path: Path) -> None:
    """Longer than the path of a Unix socket may be."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with Supervised(deep, 2) as server:
        server.wait_ready()
        assert server.are_up()
        assert server.end() == 0


def test_a_service_manager_hears_of_all_together(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(LONG_S)
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        with Supervised(tmp_path, 2, environment=environment) as server:
            server.wait_ready()
            heard: list[str] = []
            while not any("READY=1" in one for one in heard):
                heard.append(manager.recv(4096).decode())
            assert f"serving at http://127.0.0.1:{server.port} with 2 processes" in heard[-1]
            assert "EXTEND_TIMEOUT_USEC=30000000" in heard
            assert manager.recv(4096) == b"WATCHDOG=1"
            server.process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in heard[-1]:
                heard.append(manager.recv(4096).decode())
            assert server.process.wait(LONG_S) == 0


def test_sockets_of_a_service_manager_go_to_the_first_process(tmp_path: Path) -> None:
    """And it says so."""
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        port = given.getsockname()[1]

        # LISTEN_PID is known only in the process itself, so a program before it fills it in.
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        server = Supervised.__new__(Supervised)
        server.data, server.log_path = tmp_path / "data", tmp_path / "log"
        flags = {"data": str(server.data), "poll_listen": "none", "log_format": "json"}
        with server.log_path.open("wb") as log:
            server.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", program, str(given.fileno()), str(PROGRAM)),
                    *(json.dumps(flags), "2"),
                ],
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                pass_fds=(given.fileno(),),
            )
        with server:
            server.wait_ready()
            assert server.port == port
            assert {server.ask()["process"] for _ in range(20)} == {0}
            (line,) = [line for line in server.log() if line["level"] == "warning"]
            assert "handed over go to process 0 only" in line["event"]
            assert server.end() == 0


def test_a_node_that_another_has_replaced_ends_as_a_whole(tmp_path: Path) -> None:
    """Groups are tried for while group 0 is this node's; its own earlier life is not another's."""

    def answers(process: int, line: str = "who") -> dict[str, Any]:
        """Ask until one of the processes answers, whichever the kernel chooses each time."""
        while True:
            found = running.ask(f"only {process} {line}")
            if found.get("process") == process:
                return found

    with Supervised(tmp_path, 2, log="postgresql://nowhere/d", cluster="c") as running:
        running.wait_ready()
        refusal = [*asked(running.data, {"ask": "restart"})]
        assert "stands by" in refusal[0]["refused"]
        assert not answers(1)["may_claim"]
        assert answers(0)["may_claim"], "which decides for all"
        answers(0, "follows 4")  # it has just been started
        answers(0, "leading 5")
        until(lambda: answers(1)["may_claim"], "it hears of it")
        first, incarnation = (answers(0)[name] for name in ("pid", "incarnation"))
        os.kill(first, signal.SIGKILL)
        until(lambda: not answers(1)["may_claim"], "process 0 is gone")
        until(lambda: answers(0)["pid"] != first, "it is back")
        assert answers(0)["ended"] == [incarnation]
        assert answers(1)["ended"] == []
        assert not answers(1)["unowned"], "another node may own the accounts"
        answers(0, "follows 5")
        answers(1, "follows 6")  # of which it knows nothing
        assert answers(0)
        with contextlib.suppress(OSError):
            answers(0, "follows 6")
        assert running.process.wait(LONG_S) == 1
        assert "has taken over the cluster c: b." in running.log_path.read_text()
