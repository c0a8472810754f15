"""Fixtures for tests of the command line; see `command_line.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import CommandLine, standing_clock, without_settings
from tests.http.fake_api import FakeApi


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A server that says what it is told to."""
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def troth(
    api: FakeApi,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[CommandLine]:
    """Commands against that server, while the clock stands at `NOW_MS` and no data is at hand."""
    monkeypatch.chdir(tmp_path)
    with standing_clock(monkeypatch):
        yield CommandLine(api, capsys)
