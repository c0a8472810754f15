"""The tour of function tasks in the README, run as it is written there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess

BEGIN, END = "\n## Function tasks\n", "\n## "


def tour() -> list[str]:
    """The commands of the section, block by block."""
    section = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    return [block.partition("\n```")[0] for block in section.split("```sh\n")[1:]]


@pytest.mark.slow
def test_the_readme_does_what_it_says(server: ServerProcess, tmp_path: Path) -> None:
    script = "set -euo pipefail\nshopt -s expand_aliases\n" + "\n".join(
        f"{block}\necho '{number} is done'" for number, block in enumerate(tour())
    )
    # Only what differs from a machine on which `make serve` runs: addresses and paths.
    script = script.replace("localhost:8001", server.url.removeprefix("http://"))
    script = script.replace("/tmp/troth-tour", str(server.data))
    script = script.replace(".venv/bin/troth", f"'{sys.executable} -m troth'")
    inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
    # Whoever reads on from the section before has exported a token of another server.
    own = {
        "TROTH_SERVER": server.url,
        "TROTH_TOKEN": "troth_of_the_section_before",
        "PYTHONPATH": str(ROOT / "src"),
    }

    done = subprocess.run(
        ["bash"],
        input=script,
        cwd=tmp_path,
        env={**inherited, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [*tmp_path.iterdir()] == [], "the tour tidies up"
    account, build, python, javascript = (
        part.strip().splitlines() for part in _parts(done.stdout, len(tour()))
    )
    assert len(account) == 1
    assert json.loads(build[-1])["status"] == "SUCCESS"
    assert json.loads(python[0])["finished"] in {"", "0"}
    head = "\n".join(python[1:-2])
    assert "HTTP/1.1 201" in head
    assert "x-shop: north" in head.lower()
    assert json.loads(python[-2]) == {"to": "Ann", "item": "apples"}
    assert [row["status"] for row in json.loads(python[-1])] == [201]
    assert javascript[-1] == "Hello, Ben!"


def _parts(text: str, count: int) -> list[str]:
    parts = []
    for number in range(count):
        part, _, text = text.partition(f"{number} is done\n")
        parts.append(part)
    return parts
