"""An upgrade under load and back: the version before, this one, and the version before again.

The version before is the last release, or the commit before this one as long as there is none. Its
code is taken out of git and run as it was then, on the same data directory; clients go on in the
meantime, and each server is killed rather than stopped.
"""

import contextlib
import http.client
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerDiedError, ServerProcess, http_json
from troth.cli import command as cli

pytestmark = pytest.mark.slow

FAR: Final = 4102444800000
CLIENTS_COUNT: Final = 4
EACH_COUNT: Final = 60
FORMAT_REFUSED: Final = "format"
"""What an older version says of a directory whose format it does not know."""


def git(*arguments: str) -> bytes:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def version_before() -> str:
    """Return the commit of the last release, or the one before this commit."""
    tags = git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD").split()
    here = git("tag", "--points-at", "HEAD").split()
    earlier = [tag.decode() for tag in tags if tag not in here]
    return earlier[0] if earlier else "HEAD^1"


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version before, as a directory to import from."""
    directory = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(git("archive", version_before()))) as archive:
        archive.extractall(directory, filter="tar")
    source = directory / "src"
    command = [sys.executable, "-c", "import troth; print(troth.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    said = subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    assert said.stdout.decode().startswith(str(source)), "processes would run this checkout's code"
    return source


class SteadyLoad:
    """Clients that create and complete promises, and remember what was acknowledged."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self.created: set[str] = set()
        self.resolved: set[str] = set()
        self._lock = threading.Lock()
        self.enough = threading.Event()
        """Set when half of it is done: the moment to kill the server."""

        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS_COUNT)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every client has given up, or is through."""
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        # The server is killed under them: then they have no answer, and nothing was promised.
        with contextlib.suppress(OSError, http.client.HTTPException):
            for index in range(EACH_COUNT):
                identifier = f"{self._prefix}-{number}-{index}"
                body = {"id": identifier, "timeout": FAR, "tags": {"load": self._prefix}}
                if http_json("POST", f"{self._url}/promises", body)[0] == 201:
                    self._note(self.created, identifier)
                value = {"state": "RESOLVED", "value": {"data": "b2s="}}
                path = f"{self._url}/promises/{identifier}"
                if index % 2 == 0 and http_json("PATCH", path, value)[0] == 201:
                    self._note(self.resolved, identifier)
        self.enough.set()

    def _note(self, names: set[str], identifier: str) -> None:
        with self._lock:
            names.add(identifier)
            if len(self.created) >= CLIENTS_COUNT * EACH_COUNT // 2:
                self.enough.set()


def load_and_kill(server: ServerProcess, prefix: str) -> SteadyLoad:
    """Load a server and kill it in the middle; return what it had acknowledged."""
    load = SteadyLoad(server.url, prefix)
    load.start()
    load.enough.wait(120)
    server.kill9()
    load.join()
    return load


def lost(server: ServerProcess, *loads: SteadyLoad) -> list[str]:
    """Return what was acknowledged and is not there."""
    missing = []
    for load in loads:
        for identifier in load.created:
            status, promise = server.request("GET", f"/promises/{identifier}")
            is_there = status == 200 and (
                identifier not in load.resolved or promise["state"] == "RESOLVED"
            )
            missing += [] if is_there else [identifier]
    return missing


CONVERT: Final = "troth data convert"
"""What this version names where it does not read a format of the version before."""


def start_upgraded(server: ServerProcess) -> None:
    """Start this version on what another has left, converted if it asks for that."""
    try:
        server.start()
    except ServerDiedError:
        assert CONVERT in server.log(), server.log()
        assert cli.run(["data", "convert", str(server.data)]) == 0
        server.start()


def test_an_upgrade_under_load_and_back_loses_nothing(code_before: Path, tmp_path: Path) -> None:
    before = ServerProcess(tmp_path, environment={"PYTHONPATH": str(code_before)})
    after = ServerProcess(tmp_path)
    before.start()
    first = load_and_kill(before, "before")

    start_upgraded(after)
    try:
        lost_by_upgrade = lost(after, first)
        second = load_and_kill(after, "after")
        after.start()
        assert after.terminate() == 0
        after.start()
    finally:
        after.kill9()
    try:
        before.start()
    except ServerDiedError:
        # Not every format can be read by what was there before it. Then nothing may be changed.
        assert FORMAT_REFUSED in before.log(), before.log()
        lost_by_return: list[str] = []
    else:
        try:
            lost_by_return = lost(before, first, second)
        finally:
            before.kill9()
    with after:
        lost_in_the_end = lost(after, first, second)

    assert len(first.created) > EACH_COUNT
    assert first.resolved
    assert (lost_by_upgrade, lost_by_return, lost_in_the_end) == ([], [], [])


def test_snapshots_of_the_version_before_are_restored(
    code_before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ServerProcess(tmp_path / "old", environment={"PYTHONPATH": str(code_before)})
    with before:
        assert before.request("POST", "/promises", {"id": "kept", "timeout": FAR})[0] == 201
        key = (before.data / "admin.key").read_text().strip()
        snapshot = tmp_path / "snapshot"
        connection = http.client.HTTPConnection(before.url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            connection.request(
                "POST", "/admin/snapshot", headers={"Authorization": f"Bearer {key}"}
            )
            answer = connection.getresponse()
            snapshot.write_bytes(answer.read())
    new = tmp_path / "new"
    new.mkdir()
    command = ["snapshot", "restore", str(snapshot), "--data", str(new / "data")]

    assert answer.status == 200
    if cli.run(command) != 0:
        # Not every format can be read: then the version that made it restores it.
        assert CONVERT in capsys.readouterr().err
        subprocess.run(
            [sys.executable, "-m", "troth", *command],
            env={**os.environ, "PYTHONPATH": str(code_before)},
            check=True,
        )
    after = ServerProcess(new)
    start_upgraded(after)
    try:
        assert after.request("GET", "/promises/kept")[0] == 200
    finally:
        after.kill9()
