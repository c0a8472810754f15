"""Restarts of processes that stand for servers, one after the other."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.supervising.running import LONG_S, Supervised, restart, until
from troth.cli.supervising.restart import asked

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Supervised]:
    """Three processes that serve."""
    with Supervised(tmp_path) as running:
        yield running.wait_ready()


def test_a_restart_replaces_one_after_the_other(server: Supervised) -> None:
    """No connection is refused or lost, and what is in flight is finished."""
    before = server.processes()
    is_over = threading.Event()
    answers: list[dict[str, Any]] = []
    problems: list[BaseException] = []

    def connect() -> None:
        while not is_over.is_set():
            try:
                answers.append(server.ask("slow 0.05"))
            except OSError as error:
                problems.append(error)

    clients = [threading.Thread(target=connect) for _ in range(4)]
    for client in clients:
        client.start()
    answered = restart(server)
    is_over.set()
    for client in clients:
        client.join()
    assert answered == [{"restarted": 0}, {"restarted": 1}, {"restarted": 2}, {"done": True}]
    assert problems == []
    assert all(answers)
    after = server.processes()
    assert all(one["starts"] == 2 and one["up"] for one in after)
    assert {one["pid"] for one in before}.isdisjoint(one["pid"] for one in after)
    assert not server.logged("a process has ended")
    assert server.end() == 0


def test_a_restart_that_cannot_begin_touches_nothing(server: Supervised) -> None:
    """The next program is tried first: settings may have become wrong."""
    pids = server.pids()
    server.no_load.touch()
    (answered,) = restart(server)
    assert "the next program of process 0 has ended" in answered["failed"]
    time.sleep(1)
    assert server.pids() == pids
    assert server.are_up()
    server.no_load.unlink()
    assert restart(server)[-1] == {"done": True}


def test_a_restart_waits_until_the_next_process_has_prepared_itself(server: Supervised) -> None:
    pids = server.pids()
    server.no_load.with_name("no-prepare").touch()
    answered: list[dict[str, Any]] = []
    restarting = threading.Thread(target=lambda: answered.extend(restart(server)))
    restarting.start()
    until(server.no_load.with_name("preparing").exists, "the next process has loaded")
    time.sleep(0.5)
    assert {server.ask()["pid"] for _ in range(30)} == {*pids}
    server.no_load.with_name("no-prepare").unlink()
    restarting.join()
    assert answered[-1] == {"done": True}
    assert set(pids).isdisjoint(server.pids())


def test_a_process_makes_a_checkpoint_before_it_is_drained_in_a_restart(
    server: Supervised,
) -> None:
    """It takes connections until that is done, since a large one takes long."""
    (server.data / "no-checkpoint").touch()
    pids = server.pids()
    restarting = threading.Thread(target=restart, args=(server,))
    restarting.start()
    time.sleep(2)
    assert {server.ask()["pid"] for _ in range(30)} == {*pids}
    (server.data / "no-checkpoint").unlink()
    restarting.join()
    assert set(pids).isdisjoint(server.pids())


def test_a_restart_that_is_repeated_waits_for_a_checkpoint_of_its_own(server: Supervised) -> None:
    """The first one ends early when the old process is to make one, which it does all the same."""
    unmade, asked_for = server.data / "no-checkpoint", server.data / "checkpointing-0"
    unmade.touch()
    pids = server.pids()
    answered: list[dict[str, Any]] = []
    restarting = threading.Thread(target=lambda: answered.extend(restart(server)))
    restarting.start()
    until(asked_for.exists, "the old process is to make a checkpoint")
    (successor,) = server.seatless()
    os.kill(successor, signal.SIGKILL)
    restarting.join()
    assert "the next program of process 0 has ended" in answered[-1]["failed"]
    asked_for.unlink()
    unmade.unlink()
    time.sleep(1)  # it says that it has made the checkpoint
    assert server.pids() == pids

    unmade.touch()
    restarting = threading.Thread(target=lambda: answered.extend(restart(server)))
    restarting.start()
    until(asked_for.exists, "it is to make another one")
    time.sleep(1)
    assert {server.ask()["pid"] for _ in range(30)} == {*pids}
    unmade.unlink()
    restarting.join()
    assert answered[-1] == {"done": True}
    assert set(pids).isdisjoint(server.pids())


def test_a_restart_does_not_wait_for_a_process_that_never_says_that_it_is_prepared(
    tmp_path: Path,
) -> None:
    """One of an earlier version."""
    with Supervised(tmp_path, environment={"PREPARE_LIMIT_S": "0.5"}).wait_ready() as server:
        server.no_load.with_name("no-prepare").touch()
        assert restart(server)[-1] == {"done": True}
        assert server.end() == 0


def test_a_restart_whose_process_ends_stops_there(server: Supervised) -> None:
    """It is started again like any other, and the others are left alone."""
    pids = server.pids()
    (server.data / "no-start-0").touch()
    assert "process 0 has ended while it started" in restart(server)[-1]["failed"]
    (server.data / "no-start-0").unlink()
    until(server.are_up, "it is back")
    assert server.pids()[1:] == pids[1:]
    assert restart(server)[-1] == {"done": True}


def test_one_restart_at_a_time_and_none_while_it_stops(server: Supervised) -> None:
    client = threading.Thread(target=server.ask, args=("hold",))
    client.start()
    time.sleep(0.5)
    first = asked(server.data, {"ask": "restart"})
    results: list[list[dict[str, Any]]] = []
    waiting = threading.Thread(target=lambda: results.append(list(first)))
    waiting.start()
    time.sleep(0.3)
    assert restart(server) == [{"refused": "a restart is under way"}]
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.logged("stopping"), "the stop")
    assert restart(server) == [{"refused": "the server is stopping"}]
    (server.data / "release").touch()
    assert server.process.wait(LONG_S) == 0
    waiting.join()
    client.join()
    assert results[0][-1] == {"failed": "the server is stopping"}


def test_a_process_that_dies_during_its_restart_is_replaced(server: Supervised) -> None:
    client = threading.Thread(target=server.ask, args=("hold",))
    client.start()
    time.sleep(0.5)
    victims = server.pids()

    def kill() -> None:
        time.sleep(1.0)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    restart(server)
    killing.join()
    client.join()
    until(server.are_up, "all are back")
    assert set(victims).isdisjoint(server.pids())
    assert server.end() == 0
