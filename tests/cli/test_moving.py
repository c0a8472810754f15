"""Retention, export and import, by the command line against real servers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import ServerProcess
from troth.cli import command as cli
from troth.cli import import_promises
from troth.cli.import_promises import Numbered, Tally
from troth.cli.options import Session
from troth.persistence.files import RealFiles
from troth.persistence.inspection.log_tools import LogReader

FAR_MS = 4_102_444_800_000


class Troth:
    """Runs commands; `out` and `errors` are what the last one printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.errors = ""

    def __call__(self, server: ServerProcess, *arguments: str, status: int = 0) -> str:
        is_administration = arguments[0] == "import" or arguments[:2] == ("data", "retention")
        data = ("--data", str(server.data)) if is_administration else ()
        found = cli.run([*arguments, *data, "--server", server.url])
        captured = self._capsys.readouterr()
        self.out, self.errors = captured.out, captured.err
        assert found == status, self.errors
        return self.out


@pytest.fixture
def troth(capsys: pytest.CaptureFixture[str]) -> Troth:
    return Troth(capsys)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ServerProcess]:
    """A second server, that deletes soon what is resolved and has the tag x=1."""
    arguments = ("--retain", "resolved:0s:x=1", "--retention-interval-ms", "3600000")
    with ServerProcess(tmp_path / "target", *arguments, "--checkpoint-interval-ms", "100") as one:
        yield one


def fill(server: ServerProcess) -> None:
    """Promises in every state, more than two pages, and a schedule."""
    for number in range(230):
        body = {"id": f"p/{number}", "timeout": FAR_MS, "tags": {"n": str(number)}}
        key = {"idempotency-key": f"k{number}"} if number % 2 else {}
        assert server.request("POST", "/promises", body, key)[0] == 201
    for number, state in enumerate(["RESOLVED", "REJECTED", "REJECTED_CANCELED"]):
        body = {"state": state, "value": {"data": "aGk=", "headers": {"a": "ü"}}}
        key = {"idempotency-key": "done"}
        assert server.request("PATCH", f"/promises/p/{number}", body, key)[0] == 201
    server.request("POST", "/promises", {"id": "late", "timeout": 5})
    tags = {"resonate:invoke": "poll://any@nobody"}
    server.request("POST", "/promises", {"id": "worked", "timeout": FAR_MS, "tags": tags})
    server.request("PATCH", "/promises/worked", {"state": "RESOLVED"})
    body = {"id": "nightly", "cron": "0 3 * * *", "promiseId": "n.{{.timestamp}}"}
    assert server.request("POST", "/schedules", body, {"idempotency-key": "s"})[0] == 201
    assert server.request("POST", "/schedules/pause", {"id": "nightly"})[0] == 200


def everything(server: ServerProcess) -> list[Any]:
    """All promises, newest first."""
    found, query = [], "id=*&limit=100"
    while query:
        _, page = server.request("GET", f"/promises?{query}")
        found += page["promises"]
        query = f"cursor={page['cursor']}" if page["cursor"] else ""
    return found


@pytest.mark.slow
def test_what_is_exported_arrives_as_it_was(
    server: ServerProcess, target: ServerProcess, troth: Troth, tmp_path: Path
) -> None:
    """States, times, keys, order; twice; and completed work is not done again."""
    fill(server)
    file = tmp_path / "all.jsonl"
    troth(server, "export", str(file))
    troth(server, "export", str(file), status=1)
    assert "--overwrite" in troth.errors
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[-1] == {"end": {"promises": 232, "schedules": 1}}
    assert [row["promise"]["id"] for row in rows[2:-1]][:3] == ["p/0", "p/1", "p/2"]

    first = json.loads(troth(target, "import", str(file), "--json"))
    again = json.loads(troth(target, "import", str(file), "--json"))

    assert (first["created"], first["present"], first["failed"]) == (233, 0, 0)
    assert (again["created"], again["present"], again["failed"]) == (0, 233, 0)
    assert everything(target) == everything(server)
    assert "pausedOn" in target.request("GET", "/schedules/nightly")[1]
    assert target.request("GET", "/tasks/claim/__invoke:worked/1")[0] == 404
    target.kill9()
    target.start()
    assert everything(target) == everything(server)
    # Keys hold on: a client that repeats itself at the new server is recognised.
    body = {"id": "p/1", "timeout": FAR_MS}
    assert target.request("POST", "/promises", body, {"idempotency-key": "k1"})[0] == 200
    # What has gone on since is not thrown back.
    assert target.request("PATCH", "/promises/p/50", {"state": "RESOLVED"})[0] == 201
    assert json.loads(troth(target, "import", str(file), "--json"))["present"] == 233


@pytest.mark.slow
def test_an_interrupted_export_goes_on(
    server: ServerProcess, target: ServerProcess, troth: Troth, tmp_path: Path
) -> None:
    """From the last whole page; a page that was cut off is read again."""
    fill(server)
    whole, file = tmp_path / "whole.jsonl", tmp_path / "some.jsonl"
    troth(server, "export", str(whole))
    first = server.request("GET", "/promises?id=*&limit=100")[1]
    partial = tmp_path / "some.jsonl.partial"
    head = {"server": server.url, "createdOn": 1}
    page = {"kind": "promises", "cursor": first["cursor"], "rows": first["promises"]}
    partial.write_text(f"{json.dumps(head)}\n{json.dumps(page)}\n" + '{"kind": "promises", "cu')

    summary = json.loads(troth(server, "export", str(file), "--json"))

    assert summary["resumedAfter"] == 100
    assert file.read_text().splitlines()[1:] == whole.read_text().splitlines()[1:]
    assert not partial.exists()
    partial.write_text(f"{json.dumps(head)}\n")
    file.unlink()
    troth(target, "export", str(file), status=1)
    assert server.url in troth.errors
    assert not file.exists()


def export_of(path: Path, count: int) -> None:
    """Write what an export of so many pending promises would be."""
    value = {"headers": None, "data": None}
    rows: list[dict[str, Any]] = [{"export": {"version": 1, "server": "x", "createdOn": 1}}]
    for number in range(count):
        promise = {"id": f"q/{number}", "state": "PENDING", "timeout": FAR_MS, "createdOn": number}
        rows.append({"promise": {**promise, "param": value, "value": value, "tags": {}}})
    rows.append({"end": {"promises": count, "schedules": 0}})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.slow
def test_an_import_waits_for_the_disk_once_for_many_promises(
    server: ServerProcess, troth: Troth, tmp_path: Path
) -> None:
    """In the order of the file, with few batches of the log.

    A quiet machine makes fewer than one for a hundred promises; a busy one, whose passes are over
    sooner, makes more of each request's.
    """
    file = tmp_path / "many.jsonl"
    export_of(file, 3000)

    assert json.loads(troth(server, "import", str(file), "--json"))["created"] == 3000

    assert [promise["id"] for promise in everything(server)] == [
        f"q/{number}" for number in reversed(range(3000))
    ]
    server.kill9()
    batches = [
        batch
        for batch in LogReader(RealFiles(), server.data).batches()
        if any(b"promise-imported" in record.body for record in batch.records)
    ]
    assert sum(len(batch.records) for batch in batches) >= 3000
    assert len(batches) <= 100


@pytest.mark.slow
def test_an_interrupted_import_goes_on(
    server: ServerProcess, troth: Troth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "many.jsonl"
    export_of(file, 2600)
    sent: list[int] = []
    original = import_promises._send

    def interrupted(session: Session, batch: list[Numbered], tally: Tally) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(len(batch))
        original(session, batch, tally)

    monkeypatch.setattr(import_promises, "_send", interrupted)
    troth(server, "import", str(file), status=130)
    kept = tmp_path / "many.jsonl.importing"
    assert kept.exists()
    monkeypatch.setattr(import_promises, "_send", original)

    summary = json.loads(troth(server, "import", str(file), "--json"))

    assert "continues after line 1501" in troth.errors
    assert (summary["created"], summary["present"], summary["whole"]) == (2600, 0, True)
    assert len(everything(server)) == 2600
    assert not kept.exists()
    # Another file of the same name begins at its beginning.
    kept.write_text("{")
    export_of(file, 3)
    assert json.loads(troth(server, "import", str(file), "--json"))["present"] == 3


@pytest.mark.slow
def test_errors_of_an_import_name_their_lines(
    server: ServerProcess, troth: Troth, tmp_path: Path
) -> None:
    """A conflict, a wrong field, a line that is no JSON, an end that is missing; stop or go on."""
    file = tmp_path / "wrong.jsonl"
    server.request("POST", "/promises", {"id": "taken", "timeout": FAR_MS})

    def promise(identifier: str, **more: object) -> str:
        row = {"id": identifier, "state": "PENDING", "timeout": FAR_MS, "createdOn": 7, **more}
        return json.dumps({"promise": row})

    lines = [
        json.dumps({"export": {"version": 1, "server": "x", "createdOn": 1}}),
        promise("good1"),
        promise("taken"),
        promise("good2", state="RESOLVED", completedOn=9),
        promise("bad", createdOn=-1),
        "{",
        promise("good3"),
        json.dumps({"schedule": {"id": "s", "cron": "nonsense", "promiseId": "p"}}),
        json.dumps({"other": 1}),
    ]
    file.write_text("\n".join(lines) + "\n")

    troth(server, "import", str(file), status=1)
    assert "line 3" in troth.errors
    assert server.request("GET", "/promises/good3")[0] == 404

    summary = json.loads(
        troth(server, "import", str(file), "--on-error", "continue", "--json", status=1)
    )
    assert [error["line"] for error in summary["errors"]] == [3, 5, 6, 8, 9]
    assert summary["whole"] is False
    for name in ("good1", "good2", "good3"):
        assert server.request("GET", f"/promises/{name}")[0] == 200
    assert server.request("GET", "/promises/good2")[1]["completedOn"] == 9
    for content in (b"", b"{}\n", b"\xff\n", b'{"export":{"version":99}}\n'):
        file.write_bytes(content)
        troth(server, "import", str(file), status=1)
        assert "line 1" in troth.errors


@pytest.mark.slow
def test_retention_deletes_what_a_dry_run_counts(target: ServerProcess, troth: Troth) -> None:
    """Counted, deleted, gone for reads, search and callbacks; the id is free; metrics say so."""
    for number in range(120):
        tags = {"x": str(number % 2), "resonate:invoke": "poll://any@nobody"}
        body = {"id": f"p{number}", "timeout": FAR_MS, "tags": tags}
        target.request("POST", "/promises", body, {"idempotency-key": "k"})
        target.request("PATCH", f"/promises/p{number}", {"state": "RESOLVED"})
    counted = json.loads(troth(target, "data", "retention", "--dry-run", "--json"))
    assert counted["rules"] == [{"rule": "resolved:0s:x=1", "count": 60}]
    tried = json.loads(
        troth(target, "data", "retention", "--retain", "all:0s,resolved:0s", "--json")
    )
    assert [row["count"] for row in tried["rules"]] == [120, 0]
    assert tried["dryRun"] is True
    assert len(everything(target)) == 120

    deadline = time.monotonic() + 60
    deleted = 0
    while deleted < 60 and time.monotonic() < deadline:
        deleted += json.loads(troth(target, "data", "retention", "--json"))["rules"][0]["count"]
    assert deleted == 60
    assert len(everything(target)) == 60
    target.kill9()
    target.start()

    assert len(everything(target)) == 60
    callback = {"rootPromiseId": "p0", "timeout": FAR_MS, "recv": "poll://any@nobody"}
    assert target.request("POST", "/promises/callback/p1", callback)[0] == 404
    body = {"id": "p1", "timeout": FAR_MS}
    assert target.request("POST", "/promises", body, {"idempotency-key": "k"})[0] == 201
    assert "troth_retention_deleted_total" in target.request("GET", "/metrics")[1]
    assert "resolved:0s:x=1" in troth(target, "data", "retention", "--dry-run")


def test_promises_of_a_file_are_created_in_batches(
    troth: Troth, server: ServerProcess, tmp_path: Path
) -> None:
    lines = [json.dumps({"id": f"many/{number}", "tags": {"n": "é"}}) for number in range(1_203)]
    lines[7] = "nonsense"
    lines[9] = json.dumps({"id": "many/9", "timeout": "soon"})
    lines[11] = json.dumps({"id": "many/10"})  # the same as two lines before
    lines[12] = ""
    lines[600] = json.dumps({"id": "many/0", "idempotencyKey": "another"})
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(lines), "utf-8")

    command = ("promises", "create", "--from", str(file))
    said = troth(server, *command, "--timeout", "7d", status=1)
    assert said == "Created 1198 new, 1 already present\n"
    numbers = [line.partition(":")[0] for line in troth.errors.splitlines()]
    assert {"line 8", "line 10", "line 601"} < set(numbers)
    assert "3 lines were not created" in troth.errors
    found = server.request("GET", "/promises/many/1202")[1]
    assert 6 * 86_400_000 < found["timeout"] - found["createdOn"] <= 7 * 86_400_000

    again = json.loads(troth(server, *command, "--json", status=1))
    assert (again["created"], again["present"], again["failed"]) == (0, 1199, 3)
    assert [error["line"] for error in again["errors"]] == [8, 10, 601]
    troth(server, *command, "--data", "x", status=2)
    troth(server, "promises", "create", status=2)
