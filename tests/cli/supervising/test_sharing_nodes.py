"""The supervisor of a node that shares the groups of a cluster with others."""

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.supervising.running import Supervised, until
from tests.cli.supervising.test_supervisor import is_alive
from tests.helpers.shared_nodes import write_secret
from troth.cli.supervising.restart import asked
from troth.http.identity.operator_key import FILE_NAME, derived

pytestmark = pytest.mark.slow


def _settings(secret: Path) -> dict[str, Any]:
    return {
        "log": "postgresql://h/d",
        "cluster": "orders",
        "mesh_listen": "127.0.0.1:0",
        "cluster_secret_file": str(secret),
    }


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Supervised]:
    """Process 0 serves, the others stand by."""
    data = tmp_path / "data"
    data.mkdir(0o700)
    for process in (1, 2):
        (data / f"stands-by-{process}").touch()
    with Supervised(tmp_path, **_settings(write_secret(tmp_path))) as running:
        yield running.wait_ready()


@pytest.mark.newest
def test_those_that_serve_get_all_connections(node: Supervised) -> None:
    assert {node.ask()["process"] for _ in range(20)} == {0}
    shown = until(lambda: (one := node.ask())["is_node_serving"] and one, "it is told")
    host, port = shown["mesh"]
    assert (host, port > 0) == ("127.0.0.1", True)
    assert [one["stands_by"] for one in node.processes()] == [False, True, True]
    assert shown["may_claim"], "as process 0 always may; where groups are shared it has its turn"
    key = node.data / FILE_NAME
    secret = (node.data.parent / "cluster.secret").read_bytes()
    assert key.read_text().strip() == derived(secret, "orders")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert node.end() == 0
    assert (node.data / "left-0").exists(), "others wait for its groups"


def test_a_process_whose_group_goes_to_another_node_is_started_again(node: Supervised) -> None:
    first = node.ask("leaves")
    until((node.data / "left-0").exists, "its end")
    until(lambda: node.processes()[0]["starts"] == 2, "the next one")
    assert node.ask()["incarnation"] > first["incarnation"]
    assert not node.logged("a process has ended")
    assert len(node.logged("a group goes to another node")) == 1


def test_those_that_stand_by_leave_connections_to_the_next_process(node: Supervised) -> None:
    """If they took some as when none serves, requests of `POST /` would wait there for nothing."""
    list(asked(node.data, {"ask": "restart"}))
    told = (node.data / "serving-2").read_text().split()
    assert "False" not in told[told.index("True") :]


def test_a_restart_replaces_those_that_serve_and_those_that_stand_by(node: Supervised) -> None:
    before = node.processes()
    answered = list(asked(node.data, {"ask": "restart"}))
    assert answered == [{"restarted": 0}, {"restarted": 1}, {"restarted": 2}, {"done": True}]
    after = node.processes()
    assert [one["starts"] for one in after] == [2, 2, 2]
    assert {one["pid"] for one in before}.isdisjoint(one["pid"] for one in after)
    assert node.ask()["ended"] == [before[0]["incarnation"]]
    assert (node.data / "kept-0").exists(), "the next process has its group"
    assert not (node.data / "left-0").exists()
    assert not node.logged("a process has ended")


@contextlib.contextmanager
def _restarting(node: Supervised) -> Iterator[list[dict[str, Any]]]:
    """Restart processes during a block; give the list of answers, which is whole after it."""
    answered: list[dict[str, Any]] = []
    restarting = threading.Thread(
        target=lambda: answered.extend(asked(node.data, {"ask": "restart"}))
    )
    restarting.start()
    yield answered
    restarting.join()


def test_the_next_process_follows_its_group_before_the_old_one_is_drained(
    node: Supervised,
) -> None:
    before, lags_behind = node.processes(), node.data / "no-following"
    lags_behind.touch()
    with _restarting(node) as answered:
        until((node.data / "early-0").exists, "it has its seat early")
        time.sleep(0.5)
        assert node.processes() == before
        assert node.ask()["incarnation"] == before[0]["incarnation"]
        assert not (node.data / "kept-0").exists()
        lags_behind.unlink()
    assert answered[-1] == {"done": True}
    assert node.ask()["ended"] == [before[0]["incarnation"]]
    assert not (node.data / "stayed-0").exists()
    assert node.end() == 0


def test_a_next_process_that_dies_while_it_follows_leaves_the_old_one(node: Supervised) -> None:
    """It is told that it stays: it makes checkpoints again."""
    before = node.processes()
    (node.data / "no-following").touch()
    with _restarting(node) as answered:
        until((node.data / "early-0").exists, "it has its seat early")
        (successor,) = node.seatless()
        os.kill(successor, signal.SIGKILL)
    assert "the next program of process 0 has ended" in answered[-1]["failed"]
    until((node.data / "stayed-0").exists, "the old one is told that it stays", 30)
    assert node.processes() == before
    (node.data / "no-following").unlink()
    assert list(asked(node.data, {"ask": "restart"}))[-1] == {"done": True}


@pytest.mark.parametrize("what", ["not-covered", "large", "slow"])
def test_the_next_process_does_not_follow_where_it_cannot(tmp_path: Path, what: str) -> None:
    """There is no checkpoint that it could begin with, or too little memory for both of them.

    One that takes too long reads the rest when the old one has ended.
    """
    data = tmp_path / "data"
    data.mkdir(0o700)
    (data / what).write_text(str(1 << 60))
    (data / "no-following").touch()
    settings = _settings(write_secret(tmp_path))
    with Supervised(tmp_path, environment={"FOLLOW_LIMIT_S": "0.5"}, **settings) as node:
        node.wait_ready()
        with _restarting(node) as answered:
            until((data / "kept-0").exists, "the old one is not waited for any longer")
            (data / "no-following").unlink()
        assert answered[-1] == {"done": True}
        assert (data / "early-0").exists() is (what == "slow")
        assert node.end() == 0


def test_an_end_that_takes_long_is_not_waited_for(node: Supervised) -> None:
    """A process that has said that it is gone only gives its memory back to the system."""
    pid = node.processes()[0]["pid"]
    lingers = node.data / "lingers"
    lingers.touch()
    assert list(asked(node.data, {"ask": "restart"}))[-1] == {"done": True}
    assert is_alive(pid)
    assert node.are_up()
    lingers.unlink()
    until(lambda: not is_alive(pid), "its end")
    assert not node.logged("a process has ended")
    assert node.end() == 0


@contextlib.contextmanager
def _holding(node: Supervised) -> Iterator[None]:
    """Have something in flight, at process 0, until the end of the block."""

    def hold() -> None:
        while node.ask("only 0 hold")["process"] != 0:
            pass

    client = threading.Thread(target=hold)
    client.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        (node.data / "release").touch()
        client.join()


def test_a_restart_waits_for_a_group_that_goes_to_another_node(node: Supervised) -> None:
    results: list[dict[str, Any]] = []
    with _holding(node):
        node.ask("leaves")
        until(lambda: node.logged("a group goes to another node"), "it goes")
        restarting = threading.Thread(
            target=lambda: results.extend(asked(node.data, {"ask": "restart"}))
        )
        restarting.start()
        time.sleep(0.5)
        assert not results
        assert [one["starts"] for one in node.processes()] == [1, 1, 1]
    restarting.join()
    assert results[-1] == {"done": True}
    assert [one["starts"] for one in node.processes()] == [3, 2, 2]
    assert (node.data / "left-0").exists()


def test_no_group_goes_to_another_node_during_a_restart(node: Supervised) -> None:
    (node.data / "stands-by-1").unlink()
    os.kill(node.processes()[1]["pid"], signal.SIGKILL)
    until(lambda: node.ask()["process"] == 1, "process 1 serves, too")
    results: list[dict[str, Any]] = []
    with _holding(node):
        restarting = threading.Thread(
            target=lambda: results.extend(asked(node.data, {"ask": "restart"}))
        )
        restarting.start()
        until(lambda: node.logged("restarting one process after the other"), "the restart")
        for _ in range(2):
            while node.ask("only 1 leaves")["process"] != 1:
                pass
    restarting.join()
    assert results[-1] == {"done": True}
    assert not node.logged("a group goes to another node")
    assert {one.name for one in node.data.glob("left-*")} == set()


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o644, "x" * 40, "others than its owner can use it"),
        (0o600, "short", "a cluster's secret has 32"),
    ],
)
def test_a_secret_that_is_none_is_refused(
    tmp_path: Path, mode: int, text: str, reason: str
) -> None:
    secret = tmp_path / "cluster.secret"
    secret.write_text(text)
    secret.chmod(mode)
    with Supervised(tmp_path, **_settings(secret)) as running:
        assert running.process.wait(60) == 1
        assert reason in running.log_path.read_text()
        assert not running.data.exists(), "nothing was made"
