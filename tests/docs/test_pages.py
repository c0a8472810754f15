"""What the documentation tells a reader to paste, pasted; what it shows, read.

Every `sh` block is run, in the order of its page, in one shell, and must succeed. One with the
title `refused` must fail, since the page says that the server refuses it. One with the title `not
run here` is not run: it installs, or needs root.
"""

import ast
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.helpers.pasting import (
    Block,
    adapted,
    blocks_of,
    make_command,
    python_sdk_at,
    run_script,
)
from tests.helpers.prometheus import CONFIGURATION
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.sdks import environments
from troth.http.settings.sources import load

DOCS: Final = ROOT / "docs"
REFUSED: Final = "refused"
NOT_RUN: Final = "not run here"
SHOWN: Final = frozenset({"text", "sql", "toml"})
"""Languages that are only shown; `toml` is read as settings."""

PYTHON_SDK: Final = "python3.12 -m venv tour && tour/bin/pip install -q resonate-sdk"
TYPESCRIPT_SDK: Final = "mkdir tour && npm install --silent --prefix tour @resonatehq/sdk@0.11.5"

EXPECTED: Final = {
    "start/curl.md": ('"state":"RESOLVED"', "40300", "__invoke:page-1"),
    "start/python.md": ("a train to Oslo booked, a room in Oslo booked", "trip-1"),
    "start/typescript.md": ("a train to Oslo booked, a room in Oslo booked", "trip-2"),
    "how-to/worker.md": ("HELLO",),
    "how-to/sleep-and-schedule.md": ("RESOLVED", "nightly"),
    "how-to/human-in-the-loop.md": ("refund-17:approve",),
    "how-to/saga.md": ("releases a van", "undone"),
    "how-to/fan-out.md": ("5\n", "3\n"),
    "how-to/locks.md": ("I alone, with token", "run-42"),
    "how-to/idempotency.md": ("invoice-1",),
    "how-to/batches.md": ('"status":404', "Created 2 new", "2 already present"),
    "how-to/functions.md": ("Hello, Ben",),
    "how-to/from-resonate.md": ("Imported",),
    "how-to/from-celery-or-cron.md": ("cleanup",),
    "operate/index.md": ("versions: Troth",),
    "operate/configure.md": ("SETTING",),
    "operate/accounts.md": ("invoice-1", "token.revoke"),
    "operate/backup.md": ("backup.snapshot: sound", "restored: sound", "ready", "order-1"),
    "operate/disk-full.md": ("would be deleted",),
    "operate/capacity.md": ("create",),
}
"""For each page with blocks that are run: what must be in the output."""

OWN_SERVER: Final = frozenset({"how-to/functions.md", "operate/accounts.md"})
"""Pages that create an account, which changes the server for all others."""


def pages() -> list[str]:
    """Return all pages by their path in `docs/`."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def page_blocks(page: str) -> list[Block]:
    """Return the blocks of a page."""
    return blocks_of((DOCS / page).read_text(encoding="utf-8"))


def is_run(block: Block) -> bool:
    """Return whether a block is for the shell, and is run here."""
    return block.language == "sh" and block.title != NOT_RUN


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all pages that leave it open."""
    with ServerProcess(tmp_path_factory.mktemp("documented")) as server:
        yield server


def script_of(blocks: list[Block]) -> str:
    """Return a script that stops at the first block that does not do what its page says."""
    lines = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, block in enumerate(blocks):
        if block.title == REFUSED:
            lines.append(
                f"if ({block.text}); then echo 'block {number} is not refused'; exit 1; fi"
            )
        elif block.language == "sh":
            lines.append(block.text)
        else:
            mark = f"END_OF_FILE_{number}"
            lines.append(f"cat > {block.title} <<'{mark}'\n{block.text}{mark}")
    return "\n".join([*lines, "echo 'the page is done'"]) + "\n"


def with_sdks(script: str) -> tuple[str, list[Path]]:
    """Replace what would be downloaded by what is at hand; return where programs are, too."""
    if PYTHON_SDK in script:
        return script.replace(PYTHON_SDK, python_sdk_at("tour")), []
    if TYPESCRIPT_SDK in script:
        node, typescript = environments.typescript()
        made = "mkdir -p tour/node_modules; ln -s "
        made += f"'{typescript}/node_modules/@resonatehq' tour/node_modules/"
        return script.replace(TYPESCRIPT_SDK, made), [Path(node).parent]
    return script, []


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if any(map(is_run, page_blocks(page)))])
def test_a_page_does_what_it_says(
    page: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = EXPECTED[page]
    server: ServerProcess = request.getfixturevalue(
        "server" if page in OWN_SERVER else "documented"
    )
    blocks = [block for block in page_blocks(page) if is_run(block) or _is_file(block)]
    script, programs = with_sdks(adapted(script_of(blocks), server))
    directory = tmp_path / "here"
    directory.mkdir()

    done = run_script(script, server, directory, [make_command(tmp_path / "bin"), *programs])

    said = done.stdout
    assert (done.returncode, said.splitlines()[-1:]) == (0, ["the page is done"]), said
    assert "Traceback" not in said, said
    for text in wanted:
        assert text in said, said
    assert [*directory.iterdir()] == [], "the page tidies up"


def _is_file(block: Block) -> bool:
    """Return whether a reader saves a block as a file."""
    return block.language in {"python", "ts"} and "." in block.title


def test_every_page_that_is_run_says_what_is_expected() -> None:
    assert set(EXPECTED) == {page for page in pages() if any(map(is_run, page_blocks(page)))}
    assert set(EXPECTED) >= OWN_SERVER


@pytest.mark.parametrize("page", pages())
def test_the_other_blocks_are_what_they_say(page: str) -> None:
    for block in page_blocks(page):
        assert block.language, f"{page}: a block has no language"
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml":
            settings = tomllib.loads(block.text)
            file = {f"TROTH_{name.upper()}": str(value) for name, value in settings.items()}
            load(None, file, {})
        elif block.language == "yaml":
            given, shipped = yaml.safe_load(block.text), yaml.safe_load(CONFIGURATION.read_text())
            assert given["alerting"] == shipped["alerting"], "it is Prometheus's, as it is shipped"
            labels = [one["global"]["external_labels"].keys() for one in (given, shipped)]
            assert labels[0] == labels[1]
        elif block.language not in {"sh", "ts", *SHOWN}:
            raise AssertionError(f"{page}: {block.language} is neither run nor known")


@pytest.mark.parametrize("page", pages())
def test_files_that_are_named_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:deploy|tests|core|http|bench|persistence)/[\w./-]+)`", text)

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", pages())
def test_links_to_elsewhere_are_encrypted(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")

    assert re.findall(r"\]\((http:[^)]+)\)", text) == []


def test_a_block_that_fails_stops_the_page(documented: ServerProcess, tmp_path: Path) -> None:
    bad = script_of([Block("sh", "", "troth promises get none-such\n"), Block("sh", "", "true\n")])
    refused = script_of([Block("sh", REFUSED, "true\n")])
    programs = [make_command(tmp_path / "bin")]

    for script in (bad, refused):
        assert run_script(script, documented, tmp_path, programs).returncode != 0
    assert shutil.which("bash")
