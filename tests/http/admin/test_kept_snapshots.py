"""GET and POST /admin/snapshots: snapshots in the server's own directory."""

import json
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.http.admin.test_accounts import operator
from tests.http.client import running
from troth.cli import command as cli
from troth.core.codes import Code
from troth.persistence.snapshots.snapshots import verify


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
