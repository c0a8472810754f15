"""Operators' mistakes and broken disks: one clear line, a non-zero exit, and nothing touched.

Every refusal compares the directory before and after, byte for byte. The rest is about ending:
in order, in a hurry, and when the disk fails under a running server.
"""

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import ServerProcess, free_ports
from troth.persistence.data_directory import LOG_NAME

from .support import (
    FAR_MS,
    NO_ANSWER,
    Client,
    Ended,
    connect,
    fingerprint,
    grow_disk,
    limit_files,
    run_serve,
    search_all,
    small_disk,
)

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 64 * 1024
SHARD_COUNT = 4
PROMISES_COUNT = 600  # fill two segments and begin a third
STORE_FAILED = 50304  # the one refusal that leaves open whether it was done
ENDING_LIMIT_S = 30.0  # longest time a refusal may take, on a machine that does other things too
SHUTDOWN_LIMIT_S = 9.0  # a server that waits for what is in flight waits 10 s


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with several segments, of a server that was killed."""
    directory = tmp_path_factory.mktemp("filled")
    arguments = ("--segment-bytes", str(SEGMENT_BYTES), "--shards", str(SHARD_COUNT))
    with ServerProcess(directory, *arguments) as server, Client(server.url) as client:
        for number in range(PROMISES_COUNT):
            body = {"id": f"p{number}", "timeout": FAR_MS, "param": {"data": "QUJD" * 25}}
            assert client.call("POST", "/promises", body)[0] == 201
    assert len(segments_of(server.data)) >= 3
    return server.data


@pytest.fixture
def data(filled: Path, tmp_path: Path) -> Path:
    """A copy of that directory, for one test to damage."""
    return Path(shutil.copytree(filled, tmp_path / "data"))


def segments_of(data: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted((data / LOG_NAME).glob("*.log"))


def serve_on(data: Path, *arguments: str, file_limit_bytes: int | None = None) -> Ended:
    """Start a server that is expected to refuse."""
    ports = ("--listen", f"127.0.0.1:{free_ports(1)[0]}", "--poll-listen", "none")
    return run_serve("--data", str(data), *ports, *arguments, file_limit_bytes=file_limit_bytes)


def assert_refused(ended: Ended, *texts: str, status: int = 1) -> None:
    """One line that says it all, a status that says failure, and soon."""
    assert ended.status == status, ended
    lines = ended.errors.strip().splitlines()
    assert len(lines) == 1 or status == 2, ended.errors
    assert "Traceback" not in ended.errors
    for text in texts:
        assert text in ended.last_line, ended.errors
    assert ended.duration_s < ENDING_LIMIT_S


# --- refusals at the start ------------------------------------------------------------------------


def foreign_file(data: Path) -> tuple[str, ...]:
    """A file where a directory is expected."""
    shutil.rmtree(data)
    data.write_text("not a directory")
    return ("Not a directory", "Nothing was changed")


def foreign_directory(data: Path) -> tuple[str, ...]:
    """Somebody's directory, which is not Troth's."""
    shutil.rmtree(data)
    data.mkdir()
    (data / "photo.jpg").write_bytes(b"\xff\xd8")
    return ("photo.jpg", "troth.json", "Nothing was changed")


def identity_lost(data: Path) -> tuple[str, ...]:
    """The file that says what the directory is has been deleted."""
    (data / "troth.json").unlink()
    return ("troth.json", "backup", "Nothing was changed")


def identity_edited(data: Path) -> tuple[str, ...]:
    """Somebody has tried to change the number of shards by hand."""
    path = data / "troth.json"
    path.write_text(path.read_text().replace(f"    {SHARD_COUNT}\n", "    8\n"))
    return ("troth.json", "edited", "Nothing was changed")


def identity_unreadable(data: Path) -> tuple[str, ...]:
    """What should be a file is none: refused even for root, whom permissions do not stop."""
    (data / "troth.json").unlink()
    (data / "troth.json").mkdir()
    return (str(data), "Nothing was changed")


def future_format(data: Path) -> tuple[str, ...]:
    """A later version of Troth has written this."""
    path = data / "troth.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "format_version": 99}))
    return ("format version 99", "Nothing was changed")


def log_damaged(data: Path) -> tuple[str, ...]:
    """Bits have flipped in the middle of what was acknowledged."""
    path = segments_of(data)[0]
    content = bytearray(path.read_bytes())
    for offset in range(20_000, 20_004):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    return (path.name, "is damaged at byte", "Nothing was changed", "backup")


def segment_lost(data: Path) -> tuple[str, ...]:
    """A file of the log is missing from the middle."""
    segments_of(data)[1].unlink()
    return ("log", "Nothing was changed")


def segment_truncated(data: Path) -> tuple[str, ...]:
    """A file that later ones rest on has lost its end."""
    path = segments_of(data)[0]
    os.truncate(path, path.stat().st_size // 2)
    return (path.name, "Nothing was changed")


def log_lost(data: Path) -> tuple[str, ...]:
    """All of the log is gone, but the directory once had one."""
    shutil.rmtree(data / LOG_NAME)
    return ("log", "Nothing was changed")


MISTAKES = (
    foreign_file,
    foreign_directory,
    identity_lost,
    identity_edited,
    identity_unreadable,
    future_format,
    log_damaged,
    segment_lost,
    segment_truncated,
    log_lost,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_directory_that_cannot_be_used_is_refused_and_left_alone(
    mistake: Callable[[Path], tuple[str, ...]], data: Path
) -> None:
    texts = mistake(data)
    before = fingerprint(data)

    assert_refused(serve_on(data), *texts)

    assert fingerprint(data) == before


def test_another_shard_count_is_refused(data: Path) -> None:
    before = fingerprint(data)

    assert_refused(serve_on(data, "--shards", "5"), f"made with {SHARD_COUNT} shards", "5")

    assert fingerprint(data) == before


def test_a_full_disk_at_the_start_is_refused(data: Path) -> None:
    before = fingerprint(data)

    ended = serve_on(data, file_limit_bytes=SEGMENT_BYTES)  # a new segment is larger by default

    assert_refused(ended, "cannot be written", "Nothing acknowledged was changed")
    assert fingerprint(data) == before


def test_a_second_server_on_the_same_directory_is_refused(server: ServerProcess) -> None:
    before = fingerprint(server.data)

    assert_refused(serve_on(server.data), str(server.data), "in use by another process")

    assert fingerprint(server.data) == before
    assert server.request("GET", "/ready")[0] == 200


@pytest.mark.parametrize(("flag", "name"), [("--listen", "API"), ("--poll-listen", "poll streams")])
def test_a_taken_port_is_refused_before_anything_is_made(
    flag: str, name: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # The other port is free whatever it is; where a flag is repeated the last one counts.
        arguments = (
            *("--listen", f"127.0.0.1:{free_ports(1)[0]}", "--poll-listen", "none"),
            *(flag, f"127.0.0.1:{port}"),
        )
        ended = run_serve("--data", str(tmp_path / "data"), *arguments)

    assert_refused(ended, name, str(port), "in use by another process", f"port with {flag}.")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "texts"),
    [
        (("--shards", "frog"), {}, ("--shards", "'frog'", "must be")),
        (("--segment-bytes", "1"), {}, ("--segment-bytes", "'1'", "must be")),
        (("--listen", "0.0.0.0:0"), {}, ("allow_anonymous",)),
        (("--listen", "nonsense"), {}, ("nonsense",)),
        (("--no-such-option",), {}, ("--no-such-option",)),
        ((), {"TROTH_LOG_LEVLE": "debug"}, ("TROTH_LOG_LEVLE", "TROTH_LOG_LEVEL")),
        ((), {"TROTH_CONFIG": "/nonexistent/troth.toml"}, ("/nonexistent/troth.toml",)),
    ],
    ids=["word", "range", "open", "address", "option", "variable", "file"],
)
def test_a_bad_setting_is_refused(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    texts: tuple[str, ...],
    tmp_path: Path,
) -> None:
    ended = run_serve("--data", str(tmp_path / "data"), *arguments, environment=environment)

    assert_refused(ended, *texts, status=2)
    assert not (tmp_path / "data").exists()


# --- what a start says ----------------------------------------------------------------------------


def banner(server: ServerProcess) -> str:
    """The line that says that the server is ready; it is written a moment after it is."""
    until_s = time.monotonic() + 60
    while True:
        lines = [line for line in server.log().splitlines() if " ready " in line]
        if lines or time.monotonic() > until_s:
            return lines[-1]
        time.sleep(0.05)


def test_the_banner_says_what_was_found(data: Path, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:  # its data directory is the copy
        line = banner(server)

        assert f"directory={data}" in line
        assert f"promises={PROMISES_COUNT} " in line
        assert "recovery_ms=" in line
        assert f"api={server.url}" in line


def test_a_torn_tail_is_cut_and_reported(data: Path, tmp_path: Path) -> None:
    """What a crash left half-written was acknowledged to nobody."""
    path = segments_of(data)[-1]
    intact = path.read_bytes().rstrip(b"\0")
    path.write_bytes(intact[:-5])

    with ServerProcess(tmp_path) as server, Client(server.url) as client:
        assert "half-written" in server.log()
        assert "torn_bytes=" in server.log()
        assert path.name in server.log()
        assert len(search_all(client)) in {PROMISES_COUNT - 1, PROMISES_COUNT}
        assert client.call("POST", "/promises", {"id": "after", "timeout": FAR_MS})[0] == 201
        server.restart()
        assert server.request("GET", "/promises/after")[0] == 200


def test_a_server_without_a_disk_says_so(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--in-memory") as server:
        assert server.request("POST", "/promises", {"id": "p", "timeout": FAR_MS})[0] == 201
        assert "memory only; nothing is kept" in banner(server)
        assert server.terminate() == 0

    assert not server.data.exists()


# --- ending ---------------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients that create promises until nobody answers; what they were told."""

    url: str
    clients_count: int = 8
    acknowledged: set[str] = field(default_factory=set)
    refused: list[tuple[int, Any]] = field(default_factory=list)
    in_doubt: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the threads; `start` starts them."""
        self._numbers: Iterator[int] = count()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index,)) for index in range(self.clients_count)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """End after the request in flight, if the server has not ended first."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client got neither an answer nor an end"

    def _run(self, index: int) -> None:
        with Client(self.url) as client:
            while not self._stopping.is_set():
                name = f"load-{index}-{next(self._numbers)}"
                body = {"id": name, "timeout": FAR_MS, "param": {"data": "QUJD" * 50}}
                try:
                    status, answer = client.call("POST", "/promises", body)
                except NO_ANSWER:
                    self.in_doubt.add(name)
                    return
                if status == 201:
                    self.acknowledged.add(name)
                else:
                    self.refused.append((status, answer))
                    if answer["error"]["code"] == STORE_FAILED:
                        self.in_doubt.add(name)
                    return

    def assert_kept(self, server: ServerProcess) -> None:
        """Everything acknowledged is there, and of the rest only what is in doubt."""
        with Client(server.url) as client:
            found = {promise["id"] for promise in search_all(client, "load-*")}
        assert self.acknowledged <= found
        assert found <= self.acknowledged | self.in_doubt


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_stopping_answers_what_is_in_flight_and_ends_streams(server: ServerProcess) -> None:
    body = json.dumps({"id": "half", "timeout": FAR_MS}).encode()
    head = (
        "POST /promises HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    load = Load(server.url)
    with connect(server.url) as half, connect(server.poll_url) as stream:
        stream.sendall(b"GET /group/worker HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in stream.recv(65536)
        half.sendall(head + body[:5])
        load.start()
        wait_for(lambda: len(load.acknowledged) > 50)

        started = time.monotonic()
        os.kill(server.process_id, signal.SIGTERM)
        time.sleep(0.3)
        half.sendall(body[5:])

        status_line = half.recv(65536).split(b"\r\n")[0]
        ended = b"".join(iter(lambda: stream.recv(65536), b""))
        assert server.wait() == 0
        assert time.monotonic() - started < SHUTDOWN_LIMIT_S
    load.finish()
    assert status_line.split()[1] in {b"201", b"503"}
    assert ended.endswith(b"0\r\n\r\n"), "the stream ended as a stream ends"
    assert all(status == 503 for status, _ in load.refused)
    server.start()
    load.assert_kept(server)
    assert server.request("GET", "/promises/half")[0] == (
        200 if status_line.split()[1] == b"201" else 404
    )


def test_a_second_signal_ends_the_server_at_once(server: ServerProcess) -> None:
    with connect(server.url) as half:
        half.sendall(b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        wait_for(lambda: server.request("POST", "/promises", {"id": "p"})[0] in {201, 409})
        os.kill(server.process_id, signal.SIGTERM)
        wait_for(lambda: "stopping" in server.log())
        started = time.monotonic()
        os.kill(server.process_id, signal.SIGTERM)

        assert server.wait() == 1
        assert time.monotonic() - started < SHUTDOWN_LIMIT_S
    server.start()
    assert server.request("GET", "/promises/p")[0] == 200


# --- a disk that fails under a running server -----------------------------------------------------


def assert_failed_stop(server: ServerProcess, load: Load) -> None:
    """It ended by itself, with one clear line, and acknowledged nothing after the failure."""
    assert server.wait() == 1
    load.finish()
    lines = [line for line in server.log().splitlines() if line.startswith("troth: ")]
    assert len(lines) == 1, server.log()
    assert "stopped without acknowledging" in lines[0]
    assert "Traceback" not in server.log()
    assert all(status == 503 for status, _ in load.refused), load.refused
    assert load.acknowledged


def test_a_disk_that_fails_stops_the_server_and_loses_nothing(server: ServerProcess) -> None:
    load = Load(server.url)
    load.start()
    wait_for(lambda: len(load.acknowledged) > 100)

    limit_files(server.process_id, 4096)

    assert_failed_stop(server, load)
    server.start()
    load.assert_kept(server)


def test_a_disk_that_is_full_stops_the_server_and_loses_nothing(tmp_path: Path) -> None:
    """On a small file system where this user may mount one, else with a limit on files."""
    disk = tmp_path / "disk"
    disk_bytes = 5 * SEGMENT_BYTES
    server = ServerProcess(tmp_path, "--segment-bytes", str(SEGMENT_BYTES))
    server.data.symlink_to(disk)
    with small_disk(disk, disk_bytes) as mounted, server:
        load = Load(server.url)
        load.start()
        if not mounted:
            wait_for(lambda: len(load.acknowledged) > 100)
            limit_files(server.process_id, 4096)
        assert_failed_stop(server, load)

        if mounted:
            grow_disk(disk, 50 * disk_bytes)
        server.start()
        load.assert_kept(server)
