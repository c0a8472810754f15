"""Which pictures of the web UI there are: their names, what each shows, and where they lie."""

import re
from pathlib import Path
from typing import Final

from tests.helpers.repository import ROOT
from tests.ui.browser import SCHEMES, Scheme
from tests.ui.demo import ORDER

DIRECTORY: Final = ROOT / "docs" / "pictures"
LIMIT_BYTES: Final = 150_000
"""How large a picture may be; a README is slow with larger ones."""

FIRST: Final = "overview"
"""The name of the screen whose path is empty."""

FURTHER: Final = {"promise": f"promises/{ORDER}?call={ORDER}.2.1"}
"""Places that are not in the navigation: a workflow, with its failed call chosen."""

_QUERIES: Final = {"tasks": "?order=newest"}
"""What is asked of a screen: tasks that workers hold come first, then those that wait."""

_SCREENS: Final = ROOT / "http" / "ui" / "screens.js"
_PATH: Final = re.compile(r'^    path: "([a-z-]*)",$', re.MULTILINE)


def places() -> dict[str, str]:
    """Return the name of each picture, and the place of the UI that it shows."""
    paths = _PATH.findall(_SCREENS.read_text(encoding="utf-8"))
    screens = {path or FIRST: path + _QUERIES.get(path, "") for path in paths}
    return {**screens, **FURTHER}


def file_of(name: str, scheme: Scheme) -> Path:
    """Return where a picture lies."""
    return DIRECTORY / f"{name}-{scheme}.png"


def wanted() -> set[Path]:
    """Return where all pictures lie."""
    return {file_of(name, scheme) for name in places() for scheme in SCHEMES}
