"""The process helper itself, tried on a small stand-in for the server."""

import os
import signal
import sys
from pathlib import Path

import pytest

from .server import ServerDiedError, ServerProcess, http_json

STAND_IN = """
import argparse, http.server, json, os, pathlib, signal, sys

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--listen")
parser.add_argument("--poll-listen")
parser.add_argument("--die", action="store_true")
parser.add_argument("--deaf", action="store_true")
options = parser.parse_args()
if options.die:
    sys.exit("no such luck")
options.data.mkdir(exist_ok=True)
starts = options.data / "starts"
with starts.open("a") as file:
    file.write("x")
requests = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global requests
        requests += 1
        self.answer(200 if requests > 2 else 503, {
            "path": self.path, "starts": len(starts.read_text()), "cwd": os.getcwd(),
            "settings": sorted(key for key in os.environ if key.startswith("TROTH_")),
        })
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(201, {"body": body, "x": self.headers["X-Test"]})
    def do_DELETE(self):
        self.send_response(204)
        self.end_headers()
    def do_PUT(self):
        self.send_response(404)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"nothing here")
    def answer(self, status, value):
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

host, port = options.listen.split(":")
server = http.server.HTTPServer((host, int(port)), Handler)
signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: sys.exit(7))
print("serving", file=sys.stderr)
server.serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return (sys.executable, str(script))


def test_it_starts_waits_restarts_and_kills(tmp_path: Path, command: tuple[str, ...]) -> None:
    with ServerProcess(tmp_path / "one", command=command) as server:
        first = server.request("GET", "/some/path?and=query")
        process_id = server.process_id
        server.restart()
        second = server.request("GET", "/")

        assert first[0] == 200
        assert first[1]["path"] == "/some/path?and=query"
        assert first[1]["cwd"] == str(tmp_path / "one")
        assert (first[1]["starts"], second[1]["starts"]) == (1, 2)
        assert server.process_id != process_id
        assert server.poll_url != server.url
        process_id = server.process_id

    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_terminate_returns_the_exit_status(tmp_path: Path, command: tuple[str, ...]) -> None:
    with ServerProcess(tmp_path / "one", command=command) as server:
        assert server.terminate() == 7

    assert "serving" in server.log()


def test_a_server_that_does_not_stop_is_killed(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.helpers.server.TERMINATE_TIMEOUT_S", 0.1)
    with ServerProcess(tmp_path / "one", "--deaf", command=command) as server:
        process_id = server.process_id
        with pytest.raises(ServerDiedError, match="did not stop"):
            server.terminate()

    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_a_server_that_dies_is_reported_with_its_log(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    server = ServerProcess(tmp_path / "one", "--die", command=command)

    with pytest.raises(ServerDiedError, match="ended with status 1\nno such luck"):
        server.start()


def test_only_settings_given_here_reach_the_server(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROTH_IN_MEMORY", "true")
    settings = {"TROTH_LOG_LEVEL": "debug"}
    with ServerProcess(tmp_path / "one", command=command, environment=settings) as server:
        assert server.request("GET", "/")[1]["settings"] == ["TROTH_LOG_LEVEL"]


def test_requests_and_answers_of_every_kind(tmp_path: Path, command: tuple[str, ...]) -> None:
    with ServerProcess(tmp_path / "one", command=command) as server:
        as_json = server.request("POST", "/", {"a": [1, None]}, {"X-Test": "yes"})
        as_bytes = http_json("POST", server.url, b"{not json")

        assert as_json == (201, {"body": '{"a": [1, null]}', "x": "yes"})
        assert as_bytes == (201, {"body": "{not json", "x": None})
        assert server.request("DELETE", "/") == (204, None)
        assert server.request("PUT", "/") == (404, "nothing here")


def test_a_forked_server_is_told_apart_by_nothing_but_its_command_line(tmp_path: Path) -> None:
    """Its directory, session, outputs and arguments are its own, and so is how it ends."""
    with ServerProcess(tmp_path / "forked", "--log-format", "json") as server:
        process = Path(f"/proc/{server.process_id}")
        assert process.joinpath("cwd").resolve() == server.directory
        assert os.getsid(server.process_id) == server.process_id
        opened = {path.resolve() for path in process.joinpath("fd").iterdir()}
        assert server.log_path in opened
        assert server.terminate() == 0
        assert server.log().startswith("{")
        server.start()
        os.kill(server.process_id, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        server.start()
        assert server.request("GET", "/ready")[0] == 200


def test_a_forked_server_that_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServerDiedError, match=r"(?s)status 2.*--log-level"):
        ServerProcess(tmp_path / "forked", "--log-level", "loud").start()
