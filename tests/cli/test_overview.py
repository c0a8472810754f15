"""`troth whoami`, `settings` and the like: what they ask, and what they show."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.fake_api import NOW_MS, FakeApi
from troth.cli import command as cli
from troth.cli import output as cli_output

SERVER = {
    "version": "0.1.0",
    "isOpen": False,
    "inMemory": True,
    "startedOn": NOW_MS - 90_000,
    "now": NOW_MS,
}
WHOAMI: dict[str, Any] = {
    "kind": "token",
    "name": "billing",
    "account": "a1",
    "token": "t1",
    "scopes": ["promises:read"],
    "idPrefix": "b/",
    "expiresOn": None,
    "server": SERVER,
}


class OverviewLine:
    """Runs commands against the fake server."""

    def __init__(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.api = api
        self.errors = ""
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert cli.run([*arguments, "--server", self.api.url]) == status
        captured = self._capsys.readouterr()
        self.errors = captured.err
        return captured.out

    @property
    def asked(self) -> str:
        """The last request."""
        last = self.api.heard[-1]
        query = "&".join(f"{name}={text}" for name, text in last.query)
        return f"{last.method} {last.path}" + (f"?{query}" if query else "")


@pytest.fixture
def troth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[OverviewLine]:
    for variable in list(os.environ):
        if variable.startswith("TROTH_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_output, "now_ms", lambda: NOW_MS)
    with monkeypatch.context() as patched, FakeApi() as api:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield OverviewLine(api, capsys)
    time.tzset()


def test_whoami_shows_the_token_and_the_server(troth: OverviewLine) -> None:
    troth.api.say(200, WHOAMI)

    shown = troth("whoami")

    assert troth.asked == "GET /whoami"
    assert shown == (
        "token billing\n"
        "  account   a1\n"
        "  token     t1\n"
        "  scopes    promises:read\n"
        "  only ids  b/…\n"
        "  expires   never\n"
        f"  server    {troth.api.url}, Troth 0.1.0\n"
        "  access    closed\n"
        "  data      memory only, lost when it stops\n"
        "  up for    1m 30s\n"
    )


def test_whoami_without_credentials(troth: OverviewLine) -> None:
    nothing = {"kind": "anonymous", "name": "", "account": None, "token": None, "idPrefix": ""}
    troth.api.say(200, {**WHOAMI, **nothing, "scopes": [], "server": {**SERVER, "isOpen": True}})

    shown = troth("whoami")

    assert shown.startswith("no credentials\n  scopes  none\n  server")
    assert "open: the promise API needs no credentials" in shown


def test_settings_show_what_differs_unless_all_are_wanted(troth: OverviewLine) -> None:
    rows = [
        {"name": "listen", "value": "a", "default": "a", "source": "default"},
        {"name": "shards", "value": "4", "default": "16", "source": "option --shards"},
    ]
    for _ in range(2):
        troth.api.say(200, {"settings": rows})

    shown = troth("settings")
    assert troth.asked == "GET /settings"
    assert shown == ("SETTING  VALUE  DEFAULT  FROM\nshards   4      16       option --shards\n")
    assert "1 more have their defaults" in troth.errors
    assert "listen" in troth("settings", "--all")
