"""GET and POST /admin/snapshots: snapshots in the server's own directory."""

import http.client
import itertools
import json
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.http.admin.test_accounts import operator
from tests.http.client import running
from troth.cli import command as cli
from troth.core.codes import Code
from troth.core.limits import CHECKPOINT_APART_COUNT
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshots import verify

WAIT_LIMIT_S = 120.0


async def test_a_server_in_memory_has_none() -> None:
    async with running() as world:
        for method in ("GET", "POST"):
            answer = await world.send(method, "/admin/snapshots", headers=await operator(world))
            assert (answer.code, answer.wrong_fields) == (Code.INVALID, ["server"])
            assert (await world.send(method, "/admin/snapshots")).code == Code.UNAUTHORIZED


@pytest.mark.slow
def test_a_snapshot_is_written_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    with ServerProcess(tmp_path, "--snapshot-directory", str(kept)) as server:
        admin = Client(server, (server.data / "admin.key").read_text().strip())
        assert admin.json("GET", "/admin/snapshots") == {"snapshots": []}
        made = admin.json("POST", "/admin/snapshots")
        body = {"id": "p", "timeout": 4_102_444_800_000}
        assert server.request("POST", "/promises", body)[0] == 201
        place = ("--server", server.url, "--data", str(server.data))
        assert cli.run(["snapshot", "now", *place]) == 0
        shown = capsys.readouterr().out
        (kept / "broken.snapshot").write_bytes(b"nothing")

        listed = admin.json("GET", "/admin/snapshots")["snapshots"]
        assert made in listed
        assert len(listed) == 3
        assert [one["problem"] is None for one in listed if one["name"] == "broken.snapshot"] == [
            False
        ]
        assert shown.endswith("bytes  written\n")
        assert verify(kept / made["name"]).problem is None

        # The command asks the server, or reads a directory.
        for where in (place, (str(kept),)):
            assert cli.run(["snapshot", "list", *where]) == 0
            lines = capsys.readouterr().out.splitlines()
            assert len(lines) == 3
            assert ["UNUSABLE" in one for one in lines if one.startswith("broken")] == [True]
            assert [one for one in lines if one.startswith(made["name"])]
        assert cli.run(["snapshot", "list", *place, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == listed


@pytest.mark.slow
def test_without_a_directory_nothing_is_written(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        admin = Client(server, (server.data / "admin.key").read_text().strip())
        for method in ("GET", "POST"):
            status, answer = admin.send(method, "/admin/snapshots")
            assert (status, b"snapshot_directory" in answer) == (400, True)


class Creating(threading.Thread):
    """A client that creates one promise after the other, `p0`, `p1` and so on."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._stops = threading.Event()
        self._has_more = threading.Condition()
        self.created_count = 0

    def run(self) -> None:
        while not self._stops.is_set():
            body = {"id": f"p{self.created_count}", "timeout": 4_102_444_800_000}
            headers = {"content-type": "application/json"}
            self._connection.request("POST", "/promises", json.dumps(body), headers)
            answer = self._connection.getresponse()
            answer.read()
            assert answer.status == 201
            with self._has_more:
                self.created_count += 1
                self._has_more.notify_all()

    def wait(self, count: int) -> int:
        """Return how many there are when there are so many at least."""
        with self._has_more:
            assert self._has_more.wait_for(lambda: self.created_count >= count, WAIT_LIMIT_S)
            return self.created_count

    def stop(self) -> None:
        """End, with the connection."""
        self._stops.set()
        self.join()
        self._connection.close()


@pytest.mark.slow
def test_snapshots_are_taken_beside_the_process_that_writes_checkpoints(tmp_path: Path) -> None:
    """Each makes a checkpoint first, while clients go on; it shows one moment."""
    kept = tmp_path / "kept"
    with ServerProcess(tmp_path, "--snapshot-directory", str(kept)) as server:
        admin = Client(server, (server.data / "admin.key").read_text().strip())
        creating = Creating(server.url)
        creating.start()
        seen = []
        try:
            for number in range(1, 3):
                before_count = creating.wait(number * CHECKPOINT_APART_COUNT * 5 // 4)
                made = admin.json("POST", "/admin/snapshots")
                seen.append((kept / made["name"], before_count, creating.created_count))
        finally:
            creating.stop()
        lines = server.request("GET", "/metrics")[1].splitlines()
        written = dict(line.rsplit(" ", 1) for line in lines if "checkpoint_writer" in line)
        assert float(written["troth_checkpoint_writer_checkpoints_total"]) >= 2
    for number, (file, before_count, after_count) in enumerate(seen):
        assert verify(file).problem is None
        place = tmp_path / f"restored-{number}"
        place.mkdir()
        restore(file, place / "data", until=Until())
        with ServerProcess(place) as restored:

            def has(name: int, restored: ServerProcess = restored) -> bool:
                return restored.request("GET", f"/promises/p{name}")[0] == 200

            first_absent = next(name for name in itertools.count(before_count - 1) if not has(name))
            assert before_count <= first_absent <= after_count + 1
            assert not any(map(has, range(first_absent, after_count + 2)))
            assert all(map(has, range(0, before_count, 50)))
