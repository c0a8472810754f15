"""`troth log` on real directories: what it shows, what it refuses, and what interruptions leave."""

import base64
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import standing_clock
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess, http_json
from troth.cli import command as cli
from troth.cli import log as cli_log
from troth.core import records
from troth.core.limits import INTEGER_MAX
from troth.core.model import Lock, PromiseState, Value
from troth.persistence.data_directory import LOG_NAME, DataDirectory
from troth.persistence.files import RealFiles
from troth.persistence.wal.log import LogRecord

NOW_MS = 1_770_000_000_000  # 2026-02-02T02:40:00Z
TEXT = "Straße " * 20
LONG = base64.b64encode(TEXT.encode()).decode()

RECORDS: list[records.Record] = [
    records.LockAcquired(Lock("a\x1b[31mlock", "run", "worker", 1000, 2000)),
    records.PromiseCreated(
        "order-7",
        1,
        INTEGER_MAX,
        NOW_MS - 7_200_000,
        Value({"a": "b"}, LONG),
        {"team": "x y"},
        None,
        None,
        records.TaskSeed("poll://any@workers"),
    ),
    records.TaskClaimed("__invoke:order-7", "worker", 1000, 2000),
    records.PromiseCompleted(
        "order-7", PromiseState.RESOLVED, Value(data="b2s="), None, NOW_MS - 60_000, NOW_MS
    ),
    records.PromiseCompleted(
        "other", PromiseState.REJECTED, Value(data="//8="), None, INTEGER_MAX, INTEGER_MAX
    ),
]


def write_log(path: Path, bodies: list[bytes], segment_bytes: int = 1 << 16) -> Path:
    """Append a batch for each body to a data directory, made if there is none."""
    directory = DataDirectory.open(
        path, RealFiles(), created_at_ms=NOW_MS, segment_bytes=segment_bytes
    )
    list(directory.recover())
    for body in bodies:
        sequence = directory.log.next_sequence
        directory.log.append([LogRecord(sequence % 3, sequence, body)], sequence)
    directory.close()
    return path


def damage(path: Path, position: float = 0.0) -> tuple[Path, int]:
    """Flip a bit in a batch of the last segment; where it was."""
    segment = sorted((path / LOG_NAME).glob("*.log"))[-1]
    content = bytearray(segment.read_bytes())
    offset = 64 + 45 + int((len(content) - 200) * position)
    content[offset] ^= 1
    segment.write_bytes(content)
    return segment, offset


def fingerprint(path: Path) -> dict[str, str]:
    """Every file below a directory with a hash of its content."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_log(tmp_path / "data", [records.encode(record) for record in RECORDS])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `troth log …`; returns standard output and standard error."""

    def call(*arguments: str | Path, status: int = 0, answer: str | None = None) -> tuple[str, str]:
        if answer is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert cli.run(["log", *map(str, arguments)]) == status
        captured = capsys.readouterr()
        return captured.out, captured.err

    with standing_clock(monkeypatch, NOW_MS):
        yield call


def sequences(output: str) -> list[int]:
    return [json.loads(line)["sequence"] for line in output.splitlines()]


# --- dump -----------------------------------------------------------------------------------------


def test_a_dump_for_people(run: Run, data: Path) -> None:
    before = fingerprint(data)

    shown, errors = run("dump", "--data", data)

    lines = shown.splitlines()
    assert len(lines) == len(RECORDS)
    assert errors == ""
    assert "\x1b" not in shown  # an id cannot steer the terminal
    assert lines[0].split()[:4] == ["1", "shard", "1", "-"]
    assert '"resource_id": "a\\u001b[31mlock"' in lines[0]
    assert "2  shard 2   2026-02-02 00:40:00.000  promise-created/1 " in lines[1]
    assert " id=order-7 " in lines[1]
    assert '"data": "Straße Straße Straße Straße Straße Stra…", "data_characters": 216' in lines[1]
    assert 'tags={"team": "x y"}' in lines[1]
    assert 'value={"data": "ok"}' in lines[3]
    assert f" {INTEGER_MAX} " in lines[4]  # no calendar has this time
    assert '"data": "base64://8="' in lines[4]
    assert fingerprint(data) == before


def test_a_dump_with_whole_values(run: Run, data: Path) -> None:
    shown, _ = run("dump", "--data", data, "--values")

    assert TEXT in shown
    assert "data_characters" not in shown


def test_a_dump_for_scripts(run: Run, data: Path) -> None:
    shown, _ = run("dump", "--data", data, "--json")

    lines = [json.loads(line) for line in shown.splitlines()]
    assert lines[1] == {
        "sequence": 2,
        "group": 0,
        "shard": 2,
        "shard_sequence": 2,
        "file": "00000000000000000001.log",
        "offset": lines[1]["offset"],
        "time_ms": NOW_MS - 7_200_000,
        "type": "promise-created/1",
        "record": {
            "id": "order-7",
            "serial": 1,
            "timeout": INTEGER_MAX,
            "created_on": NOW_MS - 7_200_000,
            "param": {"headers": {"a": "b"}, "data": LONG[:60], "data_characters": len(LONG)},
            "tags": {"team": "x y"},
            "task": {"receiver": "poll://any@workers", "ttl": 0, "expires_at": 0},
        },
    }
    assert lines[2]["time_ms"] is None
    whole, _ = run("dump", "--data", data, "--json", "--values")
    assert json.loads(whole.splitlines()[1])["record"]["param"]["data"] == LONG


def test_data_cut_in_the_middle_of_a_character_is_shown_up_to_it(run: Run, tmp_path: Path) -> None:
    shown: list[str] = []
    for content in ("x" * 44 + "ß" * 9, "x" * 45 + "ß" * 9, "x" * 43 + "€" * 9, "\xff" * 99):
        encoded = content.encode("latin-1" if content[0] == "\xff" else "utf-8")
        value = Value(data=base64.b64encode(encoded).decode())
        record = records.PromiseCompleted("p", PromiseState.RESOLVED, value, None, 1, 1)
        data = write_log(tmp_path / str(len(shown)), [records.encode(record)])
        shown.append(run("dump", "--data", data)[0].split('"data": "')[1].split('"')[0])

    assert shown[:3] == ["x" * 44 + "…", "x" * 45 + "…", "x" * 43 + "…"]
    assert shown[3].startswith("base64:////")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--id", "order-7"], [2, 3, 4]),
        (["--id", "__invoke:order-7", "--id", "other"], [2, 3, 5]),
        (["--shard", "2"], [2, 5]),
        (["--from", "3", "--to", "4"], [3, 4]),
        (["--since", "2026-02-02T02:40:00Z"], [4, 5]),
        (["--since", "2026-02-02T02:40:00"], [4, 5]),
        (["--since", "2026-02-02T03:40:00+01:00"], [4, 5]),
        (["--since", "2026-02-02"], [2, 3, 4, 5]),
        (["--since", "3h"], [2, 3, 4, 5]),
        (["--since", "1h30m"], [4, 5]),
        (["--until", "1h"], [1, 2, 3]),
        (["--until", str(NOW_MS - 7_200_000)], [1]),
        (["--since", "2026-02-02", "--until", "2026-02-02T02:00"], [2, 3]),
    ],
)
def test_a_dump_of_some_records(
    run: Run, data: Path, options: list[str], expected: list[int]
) -> None:
    assert sequences(run("dump", "--data", data, "--json", *options)[0]) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "'yesterday' is not a time, for example 2026-03-01"),
        (["--until", ""], "'' is not a time"),
        (["--from", "0"], "0 is not in the range"),
        (["--shard", "-1"], "-1 is not in the range"),
        (["--id", ""], "it must not be empty"),
    ],
)
def test_a_wrong_command_line(run: Run, data: Path, options: list[str], said: str) -> None:
    assert said in run("dump", "--data", data, *options, status=2)[1]


def test_a_record_of_no_known_type_is_shown_and_counted(run: Run, tmp_path: Path) -> None:
    data = write_log(tmp_path / "data", [b'["future/1"]\x1b', b"\xff" * 300])

    shown, errors = run("dump", "--data", data, status=1)
    as_json, _ = run("dump", "--data", data, "--json", status=1)

    assert '(unknown type)  ["future/1"]\\x1b' in shown
    assert "2 records are of a type unknown to this version of Troth" in errors
    assert base64.b64decode(json.loads(as_json.splitlines()[1])["body"]) == b"\xff" * 300
    # Verifying names them, and repairing is no remedy.
    assert run("verify", "--data", data, status=1)[0].count("is of a type unknown") == 2
    assert "start the version that wrote it" in run("repair", "--data", data, status=1)[1]


def test_a_dump_of_a_damaged_log_ends_with_status_1(run: Run, data: Path) -> None:
    damage(data, 0.4)

    shown, errors = run("dump", "--data", data, "--json", status=1)

    assert sequences(shown) == [1]
    assert "is damaged at byte" in errors
    assert "troth log verify" in errors


# --- verify ---------------------------------------------------------------------------------------


def test_a_sound_log(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(data)
    monkeypatch.setenv("TROTH_DATA", str(data))

    shown, errors = run("verify")
    report = json.loads(run("verify", "--json")[0])

    assert shown.splitlines()[0] == f"{data}: sound"
    assert "records    5 (1 to 5)" in shown
    assert errors == ""
    assert report["sound"] is True
    assert (report["segments"], report["batches"], report["records"]) == (1, 5, 5)
    assert report["bytes"] == sum(file.stat().st_size for file in (data / LOG_NAME).iterdir())
    assert (report["torn"], report["damages"]) == (None, [])
    assert fingerprint(data) == before


def test_a_new_directory_is_sound(run: Run, tmp_path: Path) -> None:
    shown, _ = run("verify", "--data", write_log(tmp_path / "data", []))

    assert "records   0" in shown


def test_a_damaged_log(run: Run, data: Path) -> None:
    segment, _ = damage(data, 0.4)
    before = fingerprint(data)

    shown, _ = run("verify", "--data", data, status=1)
    report = json.loads(run("verify", "--data", data, "--json", status=1)[0])

    assert shown.splitlines()[0] == f"{data}: DAMAGED"
    (found,) = report["damages"]
    assert found["file"] == str(segment)
    assert f"{segment} at byte {found['offset']}: a batch is invalid" in shown
    assert "readable behind  3, up to 5" in shown
    assert (report["later_records"], report["last_readable_sequence"]) == (3, 5)
    assert fingerprint(data) == before


def test_a_torn_end(run: Run, data: Path) -> None:
    segment = sorted((data / LOG_NAME).glob("*.log"))[-1]
    segment.write_bytes(segment.read_bytes()[:-45])  # the seal, and a part of the last batch

    shown, _ = run("verify", "--data", data)
    report = json.loads(run("verify", "--data", data, "--json")[0])

    assert "bytes are unfinished" in shown
    assert report["torn"]["bytes"] > 0
    assert report["torn"]["file"] == str(segment)
    assert report["records"] == 4


def test_many_damages_are_counted(run: Run, tmp_path: Path) -> None:
    data = write_log(tmp_path / "data", [b"x"] * 123)

    assert "and 23 more" in run("verify", "--data", data, status=1)[0]


@pytest.mark.parametrize("command", ["dump", "verify", "repair"])
def test_what_is_no_data_directory_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("hello")
    (tmp_path / "empty").mkdir()
    before = fingerprint(tmp_path)

    for name, said in (
        ("none", "does not exist"),
        ("file", "is not a directory"),
        ("empty", "holds no troth.json"),
    ):
        errors = run(command, "--data", tmp_path / name, status=1)[1]
        assert errors.startswith(f"Error: {tmp_path / name}: {said}")
        assert len(errors.splitlines()) == 1

    assert fingerprint(tmp_path) == before
    assert not (tmp_path / "none").exists()


# --- repair ---------------------------------------------------------------------------------------


def test_repair_says_what_is_lost_and_asks(run: Run, data: Path) -> None:
    segment, _ = damage(data, 0.4)
    before = fingerprint(data)

    for answer, status, said in (("n\n", 1, ""), ("\n", 1, ""), ("", 130, "--yes")):
        shown, errors = run("repair", "--data", data, status=status, answer=answer)
        assert "Cut the log?" in errors
        assert "Nothing was changed." in errors
        assert said in errors
        assert f"{segment} at byte" in shown
        assert "lost               record 2 and everything after it" in shown
        assert "of these readable  3 records, up to 5" in shown
        assert "If there is a backup, restore it instead." in shown
    assert fingerprint(data) == before

    shown, _ = run("repair", "--data", data, answer="y\n")

    dropped = data / "dropped-from-2.jsonl"
    assert f"they are in {dropped}" in shown
    assert "the log continues with record 2" in shown
    assert "3 readable records" in shown
    kinds = [json.loads(line)["kind"] for line in dropped.read_text().splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("record")) == ("dropped", "end", 3)
    assert sequences(run("dump", "--data", data, "--json")[0]) == [1]
    write_log(data, [records.encode(RECORDS[0])])  # it opens again
    assert run("repair", "--data", data)[0].endswith("the log is sound. Nothing was changed.\n")


def test_repair_that_keeps_nothing_says_so(run: Run, data: Path, tmp_path: Path) -> None:
    damage(data)
    target = tmp_path / "elsewhere.jsonl"

    shown, _ = run("repair", "--data", data, "--yes", "--dropped", target)

    assert "kept               nothing of the log" in shown
    assert "last time kept" not in shown
    assert target.exists()
    assert json.loads(run("verify", "--data", data, "--json")[0])["records"] == 0


def test_repair_does_not_overwrite_a_file(run: Run, data: Path) -> None:
    damage(data)
    before = fingerprint(data)

    errors = run("repair", "--data", data, "--yes", "--dropped", data / "troth.json", status=1)[1]

    assert "exists already" in errors
    assert fingerprint(data) == before


def test_repair_that_cannot_save_what_it_drops_cuts_nothing(run: Run, data: Path) -> None:
    damage(data)
    before = fingerprint(data)

    errors = run("repair", "--data", data, "--yes", "--dropped", "/proc/dropped", status=1)[1]

    assert "/proc/dropped cannot be written" in errors
    assert fingerprint(data) == before


def test_repair_of_what_checkpoints_cover_loses_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = records.encode(RECORDS[3])
    data = write_log(tmp_path / "data", [body] * 100, segment_bytes=1200)
    first = min((data / LOG_NAME).glob("*.log"))
    first.write_bytes(first.read_bytes()[:100])
    monkeypatch.setattr(cli_log, "covered_sequence", lambda *_: 50)

    shown, _ = run("repair", "--data", data, "--yes")

    assert "checkpoints     hold everything up to record 50" in shown
    assert "lost            nothing: what is damaged is in the checkpoints" in shown
    assert "backup" not in shown
    assert sequences(run("dump", "--data", data, "--json", "--from", "51")[0]) == [*range(51, 101)]


# --- with real processes --------------------------------------------------------------------------


def troth_log(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "troth", "log", *map(str, arguments)]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        troth_log(*arguments),
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@contextlib.contextmanager
def creating(server: ServerProcess) -> Iterator[list[str]]:
    """Create promises as fast as possible; the ids that were acknowledged so far."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def create() -> None:
        while not stop.is_set():
            body = {
                "id": f"p{len(acknowledged)}",
                "timeout": INTEGER_MAX,
                "param": {"data": "x" * 400},
            }
            assert http_json("POST", f"{server.url}/promises", body)[0] == 201
            acknowledged.append(str(body["id"]))

    thread = threading.Thread(target=create)
    thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_the_log_of_a_running_server(tmp_path: Path) -> None:
    """While it is written, the log is sound, every acknowledged write is in it, and it is left."""
    with ServerProcess(tmp_path, "--segment-bytes", "65536") as server:
        with creating(server) as acknowledged:
            for _ in range(3):
                before_count = len(acknowledged)
                dumped = call("dump", "--data", server.data, "--json")
                assert dumped.returncode == 0, dumped.stderr
                found = [json.loads(line) for line in dumped.stdout.splitlines()]
                created = {line["record"]["id"] for line in found}
                assert created >= set(acknowledged[:before_count])
                verified = call("verify", "--data", server.data)
                assert verified.returncode == 0, verified.stdout + verified.stderr
            refused = call("repair", "--data", server.data, "--yes")
        assert refused.returncode == 1
        assert "is in use by another process" in refused.stderr
        assert len(acknowledged) > 100
        assert server.terminate() == 0


@pytest.mark.slow
def test_the_log_of_a_server_that_makes_checkpoints_and_trims(tmp_path: Path) -> None:
    """What the checkpoints cover is missing in the log, and that is no damage."""
    options = ("--segment-bytes", "65536", "--checkpoint-interval-ms", "100")
    with ServerProcess(tmp_path, *options) as server:
        with creating(server):
            for _ in range(5):
                verified = call("verify", "--data", server.data, "--json")
                assert verified.returncode == 0, verified.stdout + verified.stderr
        assert server.terminate() == 0
        report = json.loads(call("verify", "--data", server.data, "--json").stdout)
        assert report["covered_sequence"] > 100
        assert report["next_sequence"] > report["covered_sequence"]
        assert report["first_sequence"] is None or report["first_sequence"] > 1
        repaired = call("repair", "--data", server.data, "--yes")
        assert "the log is sound. Nothing was changed." in repaired.stdout
        server.start()  # nothing that was looked at is in the way
        assert server.terminate() == 0


@pytest.mark.slow
def test_a_repair_that_is_killed_can_be_finished(tmp_path: Path) -> None:
    """SIGKILL at any moment: the log is as it was, or what is gone from it is in a whole file."""
    body = records.encode(
        records.PromiseCompleted("p", PromiseState.RESOLVED, Value(data="x" * 4000), None, 1, 1)
    )
    data = write_log(tmp_path / "data", [body] * 1000)
    first = min((data / LOG_NAME).glob("*.log"))
    content = bytearray(first.read_bytes())
    content[10_000] ^= 1
    first.write_bytes(content)
    before = fingerprint(data / LOG_NAME)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    killed_count = 0
    for attempt in range(40):
        command = troth_log("repair", "--data", data, "--yes")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(0.05 * 1.13**attempt) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed_count += 1
        whole = [json.loads(line) for line in _lines_of_dropped(data)]
        if fingerprint(data / LOG_NAME) != before:
            assert whole
            assert whole[-1]["kind"] == "end"
        if process.returncode == 0:
            break

    assert killed_count >= 1
    assert process.returncode == 0
    report: dict[str, Any] = json.loads(call("verify", "--data", data, "--json").stdout)
    assert report["sound"]
    assert report["next_sequence"] == 3
    saved = {json.loads(line)["sequence"] for line in _record_lines(data)}
    assert saved == set(range(4, 1001))  # all but the damaged one and those that are kept


def _lines_of_dropped(data: Path) -> list[str]:
    """All lines of the files that have their final name."""
    return [
        line
        for file in sorted(data.glob("dropped-*.jsonl"))
        for line in (file.read_text().splitlines()[0], file.read_text().splitlines()[-1])
    ]


def _record_lines(data: Path) -> Iterator[str]:
    for file in sorted(data.glob("dropped-*.jsonl")):
        for line in file.read_text().splitlines():
            if line.startswith('{"kind":"record"'):
                yield line
