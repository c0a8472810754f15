"""The documentation is built strictly: no broken link, no page that nothing leads to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT
from troth.cli.command import COMMANDS
from troth.core.codes import EXPLANATIONS
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.sources import describe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_the_reference_is_complete(site: Path) -> None:
    def text(page: str) -> str:
        return (site / "reference" / f"{page}.html").read_text(encoding="utf-8")

    assert {f'id="{code.value}"' for code in EXPLANATIONS} <= set(
        re.findall(r'id="\d+"', text("errors"))
    )
    settings = text("settings")
    assert [row.flag for row in describe() if row.flag not in settings] == []
    commands = text("commands")
    assert [name for name in COMMANDS if f"troth {name}" not in commands] == []
    api = text("api")
    assert [one.path for one in API_ENDPOINTS if one.path.partition("{")[0] not in api] == []
    assert "troth_" in text("metrics")
    assert len(text("formats")) > 50_000


def test_the_pictures_are_drawn(site: Path) -> None:
    page = (site / "understand" / "life-cycles.html").read_text(encoding="utf-8")

    assert page.count('<svg viewBox="0 0 ') == 2
    for word in ("REJECTED_TIMEDOUT", "claimed", "lease ran out"):
        assert word in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    found = set()
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?:[^" >]+)', text))

    assert found == set()
