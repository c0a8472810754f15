"""Blocks of Markdown, run as a reader would paste them into a shell.

Only what differs from a reader's machine is replaced: the server's address, the command `troth`,
the data directory, and what would have to be downloaded.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.sdks import environments

TIMEOUT_S: Final = 360
_BLOCK: Final = re.compile(
    r"^```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its title (a file's name, or how it is meant), its text."""

    language: str
    title: str
    text: str


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall(text)]


def section_blocks(heading: str) -> list[str]:
    """Return what is to be pasted under a heading of the README, block by block."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2]
    section = section.partition("\n## ")[0]
    return [block.text.removesuffix("\n") for block in blocks_of(section) if block.language == "sh"]


def adapted(text: str, server: ServerProcess) -> str:
    """Return a text with this server's address and directory."""
    text = text.replace("localhost:8001", server.url.removeprefix("http://"))
    return text.replace("troth-data", str(server.data))


def run_script(
    script: str, server: ServerProcess, directory: Path, more_path: Iterable[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script in bash with the variables that a reader's shell would have."""
    inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
    own: Mapping[str, str] = {
        "TROTH_SERVER": server.url,
        "RESONATE_URL": server.url,
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": os.pathsep.join([*map(str, more_path), os.environ["PATH"]]),
    }
    return subprocess.run(
        ["bash"],
        input=script,
        cwd=directory,
        env={**inherited, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def make_command(directory: Path) -> Path:
    """Make a directory with the command `troth`, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "troth"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m troth "$@"\n')
    program.chmod(0o755)
    return directory


def python_sdk_at(environment: str) -> str:
    """Return what makes an environment of a page, with the newest SDK, of what is at hand."""
    python = environments.python("newest")
    return (
        f"mkdir -p {environment}/bin; "
        f"""printf '#!/bin/sh\\nexec "{python}" "$@"\\n' > {environment}/bin/python; """
        f"chmod +x {environment}/bin/python"
    )
