"""Completions in real shells, and the manual page, as mandoc reads it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest

from tests.helpers.repository import IMPORT_ROOT
from tests.helpers.tools import tool
from troth.cli import command as cli
from troth.cli.shell.completion import SHELLS
from troth.cli.shell.manual import manual
from troth.http.settings.sources import describe

TIMEOUT_S: Final = 120

ASKS: Final = {
    "bash": "COMP_WORDS=({words}); COMP_CWORD={last}; _troth_completion troth; "
    'echo "${{COMPREPLY[@]}}"',
    "fish": "complete --do-complete '{line}'",
}
"""What makes a shell say what it would complete, without a terminal."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which `troth` is a command of this code."""
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "troth"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m troth "$@"\n')
    program.chmod(0o755)
    kept = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
    return {
        **kept,
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(IMPORT_ROOT),
        "HOME": str(directory),
    }


def completed(shell: str, line: str, environment: dict[str, str]) -> str:
    """Return what a shell offers at the end of a line."""
    ask = ASKS[shell].format(words=line, last=len(line.split()) - 1, line=line)
    load = {
        "bash": 'eval "$(troth completion bash)"',
        "fish": "troth completion fish | source",
    }[shell]
    done = subprocess.run(
        [tool(shell, shell), "-c", f"{load}\n{ask}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("shell", list(ASKS))
def test_a_shell_completes_commands_and_options(shell: str, environment: dict[str, str]) -> None:
    assert {"promises", "schedules"} & set(completed(shell, "troth pro", environment).split())
    assert "resolve" in completed(shell, "troth promises res", environment)
    assert "--idempotency-key" in completed(shell, "troth promises create --idem", environment)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    program = tool(shell, shell)
    script = tmp_path / "script"
    command = [sys.executable, "-m", "troth", "completion", shell]
    script.write_bytes(subprocess.run(command, env=environment, check=True, stdout=-1).stdout)

    subprocess.run([program, "-n", str(script)], check=True, timeout=TIMEOUT_S)


def test_zsh_is_answered(environment: dict[str, str]) -> None:
    """The protocol itself, since zsh completes only at a terminal."""
    asked = {"COMP_WORDS": "troth tok", "COMP_CWORD": "1", "_TROTH_COMPLETE": "zsh_complete"}
    done = subprocess.run(
        [sys.executable, "-m", "troth"],
        env={**environment, **asked},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )

    assert done.stdout.splitlines()[:2] == ["plain", "token"]


def test_completing_a_command_imports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> click.Command:
        raise AssertionError("a command was imported")

    monkeypatch.setattr(cli.LazyGroup, "get_command", refuse)
    context = cli.troth.make_context("troth", ["version"], resilient_parsing=True)

    names = {item.value for item in cli.troth.shell_complete(context, "")}

    assert set(cli.COMMANDS) | {"version"} == names


def test_mandoc_finds_nothing(tmp_path: Path) -> None:
    page = tmp_path / "troth.1"
    page.write_text(manual())
    command = [tool("mandoc", "mandoc"), "-Tlint", "-W", "warning", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    # The page is of a version, not of a day.
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_the_manual_has_every_command_and_every_setting() -> None:
    text = manual()
    missing = []
    for name in cli.troth.list_commands(cli.troth.make_context("troth", ["version"])):
        missing += [] if f'.SH "TROTH {name.upper()}"' in text else [name]
    for row in describe():
        missing += [] if row.flag.replace("-", "\\-") in text else [row.flag]

    assert missing == []
