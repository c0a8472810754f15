"""The spare process: when there is one, what it does to a group's return, and its own ends."""

import http.client
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.supervising.running import KILLED_SOON, LONG_S, Supervised, restart, until
from tests.cli.supervising.test_real_process import FAR_MS, call
from tests.cli.supervising.test_supervisor import is_alive, is_locked
from troth.cli.supervising.children import Child
from troth.cli.supervising.lives import DOWN_AFTER_S, FIRST_WORD_S, KILL_AFTER_S, STEADY_AFTER_S
from troth.cli.supervising.spare import AFTER_S, LATER_AFTER_S, Spare

pytestmark = pytest.mark.slow

SOON = {"SPARE_AFTER_S": "0.2"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Supervised]:
    """Three processes that serve, which have a spare one soon."""
    with Supervised(tmp_path, environment=SOON) as running:
        yield running.wait_ready()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Supervised]:
    """As `server`; one that says nothing is killed sooner."""
    with Supervised(tmp_path, environment={**SOON, **KILLED_SOON}) as running:
        yield running.wait_ready()


def pid_of(server: Supervised, process: int) -> Any:
    """Return the number of a process."""
    return server.processes()[process]["pid"]


@pytest.mark.newest
def test_it_takes_the_place_of_a_process_that_ends(server: Supervised) -> None:
    """And then there is another one."""
    spare = server.wait_spare()
    assert spare not in server.pids()
    os.kill(pid_of(server, 1), signal.SIGKILL)
    until(lambda: pid_of(server, 1) == spare and server.are_up(), "it has the seat")
    (line,) = server.logged("the spare process takes its place")
    assert (line["process"], line["pid"]) == (1, spare)
    shown = until(lambda: _shown(server, spare), "it answers")
    assert shown["process"] == 1
    assert shown["inheritable"] is False
    assert shown["ended"], "it knows who had the seat before"
    assert shown["peers"] == [0, 1, 2]
    following = server.wait_spare(other_than=spare)
    assert server.end() == 0
    assert not is_alive(following)


def _shown(server: Supervised, pid: int) -> dict[str, Any] | None:
    shown = server.ask()
    return shown if shown.get("pid") == pid else None


def test_it_owns_nothing(server: Supervised) -> None:
    """Neither the lock nor a port; nor is it one of the server's processes."""
    spare = server.wait_spare()
    opened = [os.readlink(path) for path in Path(f"/proc/{spare}/fd").iterdir()]
    assert str(server.data) not in opened
    assert len([name for name in opened if name.startswith("socket:")]) == 1, "to its supervisor"
    assert len(server.processes()) == 3
    assert len((server.data / "starts").read_text().splitlines()) == 3


def test_a_stop_while_it_loads_waits_for_no_one(tmp_path: Path) -> None:
    with Supervised(tmp_path, environment=SOON) as server:
        server.wait_ready()
        spare = until(server.spare, "one is started")
        assert server.end() == 0
        assert not is_alive(spare["pid"])
        assert not server.logged("the spare process has ended")


def test_a_supervisor_that_is_killed_takes_it_along(server: Supervised) -> None:
    spare = server.wait_spare()
    server.process.kill()
    server.process.wait()
    until(lambda: not is_alive(spare), "it has ended")
    until(lambda: not is_locked(server.data), "all have")


def test_one_that_ends_is_replaced(server: Supervised, tmp_path: Path) -> None:
    """Not immediately, and the processes are left alone."""
    spare, pids = server.wait_spare(), server.pids()
    server.no_load.touch()
    os.kill(spare, signal.SIGKILL)
    (line,) = until(lambda: server.logged("the spare process has ended"), "its end")
    assert line["signal"] == "SIGKILL"
    time.sleep(1.0)
    assert server.spare() is None
    # Without it a process is started as ever.
    server.no_load.unlink()
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: server.processes()[0]["starts"] == 2 and server.are_up(), "it is back")
    assert not server.logged("the spare process takes its place")
    assert server.pids()[1:] == pids[1:]


def test_one_that_hangs_gets_no_seat(impatient: Supervised) -> None:
    server = impatient
    spare, pids = server.wait_spare(), server.pids()
    os.kill(spare, signal.SIGSTOP)
    until(lambda: (found := server.spare()) and found["silent"], "its silence")
    os.kill(pids[2], signal.SIGKILL)
    until(lambda: server.processes()[2]["starts"] == 2 and server.are_up(), "it is back")
    assert pid_of(server, 2) != spare
    until(lambda: not is_alive(spare), "it is killed", LONG_S)
    assert server.logged("the spare process says nothing and is killed")
    assert server.wait_spare(other_than=spare)


def test_one_that_hangs_as_it_gets_its_seat_is_killed(impatient: Supervised) -> None:
    """As any process that says nothing; then another one has the seat."""
    server = impatient
    spare = server.wait_spare()
    os.kill(spare, signal.SIGSTOP)
    os.kill(pid_of(server, 2), signal.SIGKILL)
    until(lambda: pid_of(server, 2) == spare, "it has the seat")
    until(lambda: server.processes()[2]["starts"] == 3 and server.are_up(), "another one has it")
    assert not is_alive(spare)


def test_a_restart_has_new_programs(server: Supervised) -> None:
    """The spare one has loaded the files of before."""
    spare = server.wait_spare()
    assert restart(server)[-1] == {"done": True}
    assert not is_alive(spare)
    assert spare not in server.pids()
    assert not server.logged("the spare process takes its place")
    assert not server.logged("the spare process has ended"), "its end was wanted"
    assert server.wait_spare(other_than=spare) not in server.pids()


def test_there_is_none_while_a_process_is_away(server: Supervised) -> None:
    """It would only be in the way of that one."""
    server.wait_spare()
    (server.data / "no-start-1").touch()
    os.kill(pid_of(server, 1), signal.SIGKILL)
    until(lambda: server.logged("a process has ended")[2:], "it has ended again and again")
    assert len(server.logged("a spare process has loaded")) == 1
    (server.data / "no-start-1").unlink()
    until(server.are_up, "it is back")
    assert server.wait_spare()


def test_a_server_of_one_process_has_none(tmp_path: Path) -> None:
    with Supervised(tmp_path, 1, environment=SOON) as server:
        server.wait_ready()
        time.sleep(1.0)
        assert server.spare() is None


class World:
    """A spare process whose programs only sleep, and its time."""

    def __init__(self) -> None:
        self.started: list[Child] = []
        self.released: list[Child] = []
        self.spare = Spare(self.start, self.released.append)
        self.is_failing = False

    def start(self, process: int | None) -> Child:
        """Start one."""
        assert process is None
        if self.is_failing:
            raise OSError("too many processes")
        child = Child(None, [sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
        self.started.append(child)
        return child

    def load(self, now_s: float) -> None:
        """Hear that it has loaded."""
        self.started[-1].has_loaded = True
        self.spare.heard(now_s)

    def end(self, now_s: float) -> None:
        """Kill it, and see that."""
        self.started[-1].kill()
        until(lambda: self.started[-1].exit_status() is not None, "its end")
        self.spare.reap(now_s)

    def starts_at(self, begun_s: float) -> float:
        """Return when the next one is started, to half a second."""
        now_s, count = begun_s, len(self.started)
        while len(self.started) == count:
            self.spare.look(now_s, is_wanted=True)
            now_s += 0.5
            assert now_s < begun_s + 1000
        return now_s - 0.5


@pytest.fixture
def world() -> Iterator[World]:
    """Nothing is started yet."""
    made = World()
    yield made
    for child in made.started:
        child.kill()
        until(partial(_has_ended, child), "its end")
        child.close()


def _has_ended(child: Child) -> bool:
    return child.exit_status() is not None


def test_it_is_started_when_all_were_in_place_for_a_while(world: World) -> None:
    spare = world.spare
    spare.look(0.0, is_wanted=True)
    assert spare.due_s() == AFTER_S
    spare.look(AFTER_S - 0.1, is_wanted=False)
    spare.look(AFTER_S, is_wanted=True)
    assert not world.started, "one was away in the meantime"
    spare.look(2 * AFTER_S, is_wanted=True)
    assert len(world.started) == 1
    spare.look(3 * AFTER_S, is_wanted=False)
    assert spare.take(3 * AFTER_S) is world.started[0], "it is kept, though it still loads"
    assert spare.take(3 * AFTER_S) is None


def test_one_that_ends_again_and_again_is_started_less_and_less_often(world: World) -> None:
    now_s = world.starts_at(0.0)
    pauses_s = []
    for _ in range(6):
        world.load(now_s)
        world.end(now_s)
        begun_s, now_s = now_s, world.starts_at(now_s)
        pauses_s.append(now_s - begun_s)
    assert pauses_s == [*LATER_AFTER_S, LATER_AFTER_S[-1]]
    assert len(world.released) == 6
    world.load(now_s)
    world.end(now_s + STEADY_AFTER_S)
    assert world.starts_at(now_s) == now_s + LATER_AFTER_S[0], "it had been well for long"


def test_one_that_cannot_be_started_is_tried_again(world: World) -> None:
    world.is_failing = True
    for now_s in (0.0, AFTER_S):
        world.spare.look(now_s, is_wanted=True)
    world.is_failing = False
    assert world.starts_at(AFTER_S) == AFTER_S + LATER_AFTER_S[0]


def test_one_that_says_nothing_is_not_taken_and_then_killed(world: World) -> None:
    begun_s = world.starts_at(0.0)
    world.load(begun_s + 1)
    silent_s = begun_s + 1 + DOWN_AFTER_S
    world.spare.look(silent_s, is_wanted=True)
    assert world.spare.take(silent_s) is None
    world.spare.excuse(DOWN_AFTER_S)
    assert world.spare.shown == {
        "pid": world.started[0].process_id,
        "loaded": True,
        "silent": True,
    }
    world.spare.look(silent_s + KILL_AFTER_S, is_wanted=True)
    until(lambda: world.started[0].exit_status() is not None, "it is killed")
    world.spare.reap(silent_s + KILL_AFTER_S)
    assert world.spare.shown is None


def test_one_that_never_loads_is_killed(world: World) -> None:
    begun_s = world.starts_at(0.0)
    world.spare.look(begun_s + FIRST_WORD_S, is_wanted=True)
    assert world.spare.take(begun_s + FIRST_WORD_S) is None
    until(lambda: world.started[0].exit_status() == -signal.SIGKILL, "it is killed")


def test_one_that_is_discarded_is_not_taken(world: World) -> None:
    begun_s = world.starts_at(0.0)
    world.load(begun_s)
    world.spare.discard()
    assert world.spare.take(begun_s) is None
    assert world.spare.shown is None
    until(lambda: world.started[0].exit_status() is not None, "it has ended")
    world.spare.reap(begun_s)
    assert world.starts_at(begun_s) == begun_s + AFTER_S, "that was no fault of it"


SPARE_LIMIT_BYTES = 80e6


def test_a_group_of_a_real_server_is_taken_over(tmp_path: Path) -> None:
    """What was acknowledged is there, and `/metrics` knows of no more processes than serve."""
    data = str(tmp_path / "data")
    command = (
        *(sys.executable, "-m", "troth", "serve", "--data", data, "--poll-listen", "none"),
        *("--processes", "2", "--log-format", "json"),
    )
    with Supervised(tmp_path, 2, command=command, environment=SOON) as server:
        server.wait_ready()
        names = [f"order-{number}" for number in range(12)]
        for name in names:
            assert call(server, "POST", "/promises", {"id": name, "timeout": FAR_MS}) == 201
        for process in (1, 0):
            spare = server.wait_spare()
            # It has what other processes load when they are ready.
            until(lambda: b"markupsafe" in _maps(spare), "more is loaded")  # noqa: B023
            assert _resident_bytes(spare) <= SPARE_LIMIT_BYTES
            os.kill(pid_of(server, process), signal.SIGKILL)
            for name in names:
                until(lambda: call(server, "GET", f"/promises/{name}") == 200, name)  # noqa: B023
            assert pid_of(server, process) == spare
        until(server.are_up, "both are up")
        metrics = body(server, "/metrics")
        assert set(re.findall(rb'process="(\d+)"', metrics)) == {b"0", b"1"}
        assert server.end() == 0
        # Each line says which process wrote it, also of one that was a spare one.
        (line,) = [one for one in server.logged("this process is ready") if one["process"] == 1][1:]
        assert line["promises"] > 0


def _maps(pid: int) -> bytes:
    return Path(f"/proc/{pid}/maps").read_bytes()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def body(server: Supervised, path: str) -> bytes:
    """Return what a path answers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
    connection.request("GET", path)
    found = connection.getresponse().read()
    connection.close()
    return found
