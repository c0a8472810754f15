"""The command line in this process, against a fake server: what the tests of commands share.

The fixtures are in `conftest.py`: `api` is the fake server, `troth` runs commands against it, with
the clock at `NOW_MS` and in UTC. No test here sees a setting or credentials of the environment.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.http.fake_api import NOW_MS, FakeApi
from troth.cli import command, log, options, output, promises, tree
from troth.cli.questions import timers

CLOCKED: Final = (log, options, output, promises, timers, tree)
"""The modules of commands that look at the clock."""

Query = list[tuple[str, str]]


class CommandLine:
    """Runs commands against the fake server, and keeps what the last one wrote to its errors."""

    def __init__(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        """Initialize; `api` answers what the tests have it say."""
        self.api = api
        self.errors = ""
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run one command, which ends with `status`, and return what it printed.

        It asks the fake server, unless it names another.
        """
        named = () if "--server" in arguments else ("--server", self.api.url)
        assert command.run([*arguments, *named]) == status
        captured = self._capsys.readouterr()
        self.errors = captured.err
        return captured.out

    def sent(self) -> tuple[str, str, Any]:
        """Return the last request: its method, decoded path and JSON body."""
        request = self.api.heard[-1]
        return request.method, request.path, request.body

    @property
    def last(self) -> str:
        """The last request, on one line."""
        request = self.api.heard[-1]
        query = "&".join(f"{name}={text}" for name, text in request.query)
        return f"{request.method} {request.path}" + (f"?{query}" if query else "")

    @property
    def asked(self) -> list[tuple[str, Query]]:
        """Every request so far: its decoded path and its query."""
        return [(request.path, request.query) for request in self.api.heard]


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all settings of Troth out of the environment."""
    for variable in list(os.environ):
        if variable.startswith("TROTH_"):
            monkeypatch.delenv(variable)


@contextlib.contextmanager
def standing_clock(monkeypatch: pytest.MonkeyPatch, now_ms: int = NOW_MS) -> Iterator[None]:
    """Stop the clock that commands look at, and put them into UTC."""
    with monkeypatch.context() as patched:
        for module in CLOCKED:
            patched.setattr(module, "now_ms", lambda: now_ms)
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()
