"""`troth ui` and `troth dev`: the address with a one-time code, opened or printed."""

import json
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.repository import IMPORT_ROOT
from tests.helpers.server import ServerProcess, free_ports, http_json
from tests.http.fake_api import FakeApi
from troth.cli import command as cli
from troth.cli.overview.open_ui import opened

PATIENCE_S: Final = 60
UI: Final = {"X-Troth-UI": "1"}
CODE: Final[dict[str, Any]] = {"code": "abc_-1", "expiresIn": 60_000, "url": None}


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What a browser was told to open; nothing real is opened."""
    found: list[str] = []

    def open_it(address: str) -> bool:
        found.append(address)
        return True

    for variable in list(os.environ):
        if variable.startswith("TROTH_"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr(webbrowser, "open", open_it)
    monkeypatch.setenv("BROWSER", "any")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


def test_the_browser_is_sent_to_the_server(
    api: FakeApi, addresses: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    api.say(201, CODE)
    assert cli.run(["ui", "--server", api.url, "--token", "secret"]) == 0

    assert addresses == [f"{api.url}/ui/#code=abc_-1"]
    assert (api.heard[0].method, api.heard[0].path) == ("POST", "/admin/session-code")
    assert api.heard[0].headers["authorization"] == "Bearer secret"
    said = capsys.readouterr()
    assert "abc_-1" not in said.out + said.err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ops.example/troth/", "https://ops.example/troth/ui/#code=abc_-1"),
        (None, "{}/ui/#code=abc_-1"),
    ],
)
def test_the_address_is_printed_on_demand(
    api: FakeApi,
    addresses: list[str],
    capsys: pytest.CaptureFixture[str],
    url: str | None,
    expected: str,
) -> None:
    api.say(201, {**CODE, "url": url})
    assert cli.run(["ui", "--no-browser", "--server", api.url, "--token", "x"]) == 0

    assert addresses == []
    assert capsys.readouterr().out == expected.format(api.url) + "\n"
    api.say(201, CODE)
    assert cli.run(["ui", "--json", "--server", api.url, "--token", "x"]) == 0
    assert json.loads(capsys.readouterr().out) == CODE


def test_without_a_browser_the_address_is_printed(
    api: FakeApi,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    api.say(201, CODE)
    assert cli.run(["ui", "--server", api.url, "--token", "x"]) == 0

    assert capsys.readouterr().out == f"{api.url}/ui/#code=abc_-1\n"


@pytest.mark.parametrize(
    ("platform", "environment", "has_one"),
    [
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("linux", {"DISPLAY": "", "TERM": "xterm"}, False),
        ("darwin", {}, True),
    ],
)
def test_no_browser_of_a_terminal_is_started(
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    environment: dict[str, str],
    has_one: bool,
) -> None:
    monkeypatch.setattr(sys, "platform", platform)

    assert opened("http://x", environment) is has_one
    assert addresses == ["http://x"] * has_one


def test_an_answer_that_is_not_the_apis_is_no_address(api: FakeApi, addresses: list[str]) -> None:
    api.say(201, {"code": "x"})

    assert cli.run(["ui", "--server", api.url, "--token", "x"]) == 3
    assert addresses == []


def test_the_operators_key_is_read_from_the_directory(
    shared_server: ServerProcess, addresses: list[str]
) -> None:
    data = str(shared_server.data)
    assert cli.run(["ui", "--server", shared_server.url, "--data", data]) == 0

    code = addresses[0].removeprefix(f"{shared_server.url}/ui/#code=")
    status, told = shared_server.request("POST", "/session", {"code": code}, UI)
    assert (status, told["who"]["kind"]) == (201, "operator")


@pytest.mark.slow
def test_a_server_for_development_is_signed_in_at(tmp_path: Path) -> None:
    port, poll_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "troth", "dev", "--no-browser"),
            *("--listen", f"127.0.0.1:{port}", "--poll-listen", f"127.0.0.1:{poll_port}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # Settings of a server that was set up otherwise.
        env={"PYTHONPATH": str(IMPORT_ROOT), "PYTHONUNBUFFERED": "1", "TROTH_UI": "false"},
    )
    with process:
        try:
            assert process.stdout is not None
            told: dict[str, str] = {}
            for line in process.stdout:
                name, _, text = line.rstrip("\n").partition("  ")
                told[name] = text.strip()
                if line.startswith("Everything is lost"):
                    break
            assert told["API"] == url
            assert told["Web UI"] == f"{url}/ui/"
            code = told["sign in"].removeprefix(f"{url}/ui/#code=")
            status, session = http_json("POST", f"{url}/session", {"code": code}, UI)
            assert (status, session["who"]["kind"]) == (201, "operator")
            assert session["who"]["server"]["inMemory"]
            key = {"Authorization": f"Bearer {told['operator key']}"}
            assert http_json("GET", f"{url}/admin/accounts", None, key)[0] == 200
            assert http_json("GET", f"{url}/ui/")[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []
