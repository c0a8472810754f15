"""Snapshots as an operator takes them: of a real server under load, with the command, restored.

Each client does one thing after the other and writes down what was acknowledged. What a restored
server shows of it must be a prefix: everything that was acknowledged before the snapshot was asked
for, nothing that was begun after it was finished, and no gap in between.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.server import REPOSITORY, ServerProcess
from troth.cli.command import run

from .support import FAR_MS, Client

pytestmark = pytest.mark.slow

CLIENTS_COUNT: Final = 6
LOAD_S: Final = 2.5


def troth(
    *arguments: str | Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {name: text for name, text in os.environ.items() if "TROTH" not in name}
    return subprocess.run(
        [sys.executable, "-m", "troth", *map(str, arguments)],
        env={**environment, "PYTHONPATH": str(REPOSITORY / "src")},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=before,
    )


def refused(*arguments: str | Path, words: str) -> None:
    """The command ends with a status that is not 0 and one message with these words."""
    ended = troth(*arguments)
    assert ended.returncode == 1, ended
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


class Load(threading.Thread):
    """One client: creates a promise, resolves it, and so on; `steps` counts acknowledgments."""

    def __init__(self, server: ServerProcess, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.steps = 0
        self.problem: object = None
        self._server = server
        self._number = number
        self._stopping = stop

    def run(self) -> None:
        with Client(self._server.url) as client:
            while not self._stopping.is_set():
                name = f"c{self._number}-{self.steps // 2}"
                if self.steps % 2 == 0:
                    body: dict[str, Any] = {"id": name, "timeout": FAR_MS}
                    status = client.call("POST", "/promises", body)[0]
                else:
                    body = {"state": "RESOLVED", "value": {"data": "eA=="}}
                    status = client.call("PATCH", f"/promises/{name}", body)[0]
                if status not in (200, 201):
                    self.problem = (name, status)
                    return
                self.steps += 1


def steps_of(server: ServerProcess, number: int, limit_count: int) -> int:
    """How many steps of a client a server shows; there may be no gap."""
    steps = 0
    with Client(server.url) as client:
        for count in range(limit_count // 2 + 2):
            status, promise = client.call("GET", f"/promises/c{number}-{count}")
            shown = 0 if status == 404 else 1 + (promise["state"] == "RESOLVED")
            assert shown == 0 or steps == 2 * count, f"c{number}-{count} is behind a gap"
            steps += shown
    return steps


def test_a_snapshot_under_load_restores_to_a_prefix(tmp_path: Path) -> None:
    arguments = ("--segment-bytes", "65536", "--checkpoint-log-bytes", "65536")
    bounds: list[tuple[list[int], list[int]]] = []
    with ServerProcess(tmp_path / "one", *arguments) as server:
        stop = threading.Event()
        load = [Load(server, number, stop) for number in range(CLIENTS_COUNT)]
        for each in load:
            each.start()
        try:
            for number in range(2):
                time.sleep(LOAD_S / 2)
                before = [each.steps for each in load]
                file = tmp_path / f"{number}.snapshot"
                running = ("--server", server.url, "--data", server.data)
                ended = troth("snapshot", "create", file, *running)
                assert ended.returncode == 0, ended
                bounds.append((before, [each.steps for each in load]))
        finally:
            stop.set()
            for each in load:
                each.join()
        assert [each.problem for each in load] == [None] * CLIENTS_COUNT

    for number, (before, after) in enumerate(bounds):
        place = tmp_path / f"restored{number}"
        place.mkdir()
        restored = troth(
            "snapshot", "restore", tmp_path / f"{number}.snapshot", "--data", place / "data"
        )
        assert restored.returncode == 0, restored
        with ServerProcess(place) as server:
            for client in range(CLIENTS_COUNT):
                shown = steps_of(server, client, after[client])
                assert before[client] <= shown <= after[client] + 1
    assert min(bounds[1][0]) > 20, "there was some load"


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a stopped server's data and a snapshot of it."""
    place = tmp_path_factory.mktemp("taken")
    with ServerProcess(place) as server:
        for number in range(30):
            status, _ = server.request("POST", "/promises", {"id": f"p{number}", "timeout": FAR_MS})
            assert status == 201
        assert server.terminate() == 0
        server.start()
        assert server.terminate() == 0
        server.start()
    ended = troth("snapshot", "create", place / "a.snapshot", "--data", place / "data")
    assert ended.returncode == 0, ended
    return place


def test_a_file_is_described_listed_and_verified(taken: Path) -> None:
    described = json.loads(troth("snapshot", "inspect", taken / "a.snapshot", "--json").stdout)
    assert described["end"]["rows"]["live_promises"] + described["end"]["records_count"] >= 30
    assert "secret" not in json.dumps(described)
    verified = troth("snapshot", "verify", taken / "a.snapshot")
    assert verified.returncode == 0
    assert "sound" in verified.stdout
    (taken / "b.snapshot.partial").write_bytes((taken / "a.snapshot").read_bytes()[:500])
    listed = troth("snapshot", "list", taken).stdout.splitlines()
    assert ["a.snapshot" in line for line in listed].count(True) == 1
    assert ["UNUSABLE" in line for line in listed].count(True) == 1
    assert (taken / "a.snapshot").stat().st_mode & 0o777 == 0o600


def test_statistics_are_the_same_stopped_and_running(taken: Path, tmp_path: Path) -> None:
    shutil.copytree(taken / "data", tmp_path / "server" / "data")
    still = json.loads(troth("data", "stats", "--data", tmp_path / "server/data", "--json").stdout)
    assert still["promises_count"] == still["rows"]["live_promises"] == 30
    assert not still["in_use"]
    with ServerProcess(tmp_path / "server") as server:
        running = json.loads(
            troth("data", "stats", "--data", tmp_path / "server/data", "--json").stdout
        )
        assert server.request("GET", "/promises/p7")[0] == 200
    assert running["in_use"]
    assert running["rows"] == still["rows"]
    assert running["next_sequence"] == still["next_sequence"]
    assert "30 (30 pending)" in troth("data", "stats", "--data", tmp_path / "server/data").stdout


def test_what_cannot_be_done_is_refused_with_words(
    taken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str | Path, words: str) -> None:
        """As the other one, but without a process for each of the many."""
        assert run([str(argument) for argument in arguments]) == 1
        assert words in capsys.readouterr().err

    whole = (taken / "a.snapshot").read_bytes()
    cut, newer, text = tmp_path / "cut", tmp_path / "newer", tmp_path / "text"
    cut.write_bytes(whole[: len(whole) // 2])
    newer.write_bytes(whole[:8] + (9).to_bytes(4, "little") + whole[12:])
    text.write_text("Dear operator, " * 20)
    new = tmp_path / "new"
    commands: dict[str, tuple[str | Path, ...]] = {
        "verify": (),
        "restore": ("--data", new),
        "inspect": (),
    }
    for name, more in commands.items():
        refused("snapshot", name, cut, *more, words="was cut")
        refused("snapshot", name, newer, *more, words="this version of Troth knows 2")
        refused("snapshot", name, text, *more, words="is not a snapshot of Troth")
        refused("snapshot", name, tmp_path / "none", *more, words="cannot be read")
        refused("snapshot", name, tmp_path, *more, words="cannot be read")
    good = taken / "a.snapshot"
    refused("snapshot", "restore", good, "--data", taken / "data", words="is not empty")
    refused("snapshot", "create", good, "--data", taken / "data", words="exists already")
    refused("snapshot", "create", tmp_path / "x", "--data", tmp_path / "no", words="does not exist")
    refused("snapshot", "create", tmp_path / "x", "--data", tmp_path, words="not a data directory")
    refused("data", "stats", "--data", tmp_path, words="not a data directory")
    refused("snapshot", "list", tmp_path / "none", words="cannot be listed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "newer", "text"]


def test_a_full_disk_leaves_nothing(taken: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    made = troth("snapshot", "create", tmp_path / "x", "--data", taken / "data", before=small_files)
    assert made.returncode == 1
    assert "cannot be written" in made.stderr or "cannot be opened" in made.stderr
    restored = troth(
        "snapshot", "restore", taken / "a.snapshot", "--data", tmp_path / "y", before=small_files
    )
    assert restored.returncode == 1
    assert "cannot be made" in restored.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_administrators_take_snapshots(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "open", "--allow-anonymous") as server:
        assert server.request("POST", "/admin/snapshot")[0] == 401
        refused("snapshot", "create", tmp_path / "x", "--server", server.url, words="40100")
    with ServerProcess(tmp_path / "users", "--basic-auth", "ann=secret") as server:
        assert server.request("POST", "/admin/snapshot")[0] == 401
        login = ("--user", "ann", "--password", "secret", "--server", server.url)
        assert troth("snapshot", "create", tmp_path / "x.snapshot", *login).returncode == 0
    with ServerProcess(tmp_path / "plain") as server:
        file = tmp_path / "y.snapshot"
        running = ("--server", server.url, "--data", server.data)
        assert troth("snapshot", "create", file, *running).returncode == 0
        page = {"Origin": "http://127.0.0.1:1"}
        assert server.request("POST", "/admin/snapshot", headers=page)[0] == 403


def test_a_server_in_memory_says_that_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--in-memory") as server:
        target = tmp_path / "x"
        key = re.search(r"key=([0-9a-f]{64})", server.log())
        assert key is not None
        asked = ("snapshot", "create", target, "--server", server.url)
        refused(*asked, words="40100")
        refused(*asked, "--token", key[1], words="in memory")
        assert not target.exists()
