"""The files of the web UI: others' are what its README says, and what a page loads is small."""

import gzip
import hashlib
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.repository import ROOT
from troth.http.web import ui_files
from troth.http.web.ui_files import served

UI: Final = ROOT / "http" / "ui"
SERVED: Final = frozenset({".css", ".html", ".js", ".svg"})
FILE_LIMIT_BYTES: Final = 20 << 10
PAGE_LIMIT_BYTES: Final = 60 << 10
"""What the first page that somebody opens may load of the UI, each file compressed alone."""
ALL_LIMIT_BYTES: Final = 112 << 10
MODULE_LIMIT_LINES: Final = 300
IMPORT: Final = re.compile(r"""(?:from|import\()\s*"(\.[^"]+)\"""")
LOADED_WITH: Final = re.compile(r"""(?:from|import)\s+"(\.[^"]+)\"""")
EVERY_PAGE: Final = ("index.html", "app.css", "theme.js", "icon.svg", "app.js", "feed.js")
PAGES: Final = sorted(
    path.name
    for path in (UI / "screens").glob("*.js")
    if "export function Screen(" in path.read_text(encoding="utf-8")
)


@cache
def size_of(path: Path) -> int:
    """Return the size of a file as it is sent, compressed, in bytes."""
    return len(gzip.compress(served(path), 9))


def sizes() -> dict[str, int]:
    """Return the compressed size of each file that the server serves, in bytes."""
    return {
        path.relative_to(UI).as_posix(): size_of(path)
        for path in sorted(UI.rglob("*"))
        if path.suffix in SERVED
    }


def loaded_with(files: Iterable[Path]) -> set[Path]:
    """Return the files, and the modules that a browser has to have before it can run them."""
    found: set[Path] = set()
    left = list(files)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            if path.suffix == ".js":
                names = LOADED_WITH.findall(path.read_text(encoding="utf-8"))
                left += [(path.parent / name).resolve() for name in names]
    return found


def test_assets_digest_and_vendor_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendored file is the one of its README; another file has assets at another address."""
    digest = hashlib.sha256((UI / "vendor" / "preact.js").read_bytes()).hexdigest()
    assert f"`{digest}`" in (UI / "vendor" / "README.md").read_text(encoding="utf-8")

    shutil.copytree(UI, tmp_path / "ui")
    monkeypatch.setattr(ui_files, "FOLDER", tmp_path / "ui")

    def folders() -> set[str]:
        ui_files._read.cache_clear()
        return {name.split("/")[1] for name in ui_files.read_ui("/").assets}

    try:
        before, again = folders(), folders()
        with (tmp_path / "ui" / "parts" / "time.js").open("a") as module:
            module.write("\nexport const more = 1;\n")
        after = folders()
        (tmp_path / "ui" / "README.md").unlink()
        assert folders() == after, "it is not served"
    finally:
        ui_files._read.cache_clear()
    assert before == again
    assert len(before | after) == 2


def test_the_readme_names_the_versions_that_are_bundled() -> None:
    package = (ROOT / "tests" / "ui" / "tools" / "package.json").read_text(encoding="utf-8")
    readme = (UI / "vendor" / "README.md").read_text(encoding="utf-8")

    for name in ("preact", "htm"):
        version = re.search(rf'"{name}": "([\d.]+)"', package)
        assert version is not None
        assert re.search(rf"\[{name}\].*\| {re.escape(version[1])} \|", readme)


def test_what_is_vendored_makes_no_code_of_text() -> None:
    text = (UI / "vendor" / "preact.js").read_text(encoding="utf-8")

    assert re.search(r"\beval\b|\bFunction\(", text) is None


def test_all_of_it_is_small() -> None:
    found = sizes()
    print({name: size for name, size in found.items() if size > 2_000}, sum(found.values()))

    assert max(found.values()) <= FILE_LIMIT_BYTES
    assert sum(found.values()) <= ALL_LIMIT_BYTES


@pytest.mark.parametrize("screen", PAGES)
def test_what_a_page_loads_is_small(screen: str) -> None:
    found = loaded_with([*(UI / name for name in EVERY_PAGE), UI / "screens" / screen])
    size = sum(map(size_of, found))
    print(f"{screen}: {len(found)} files, {size / 1024:.1f} KiB")

    assert UI / "vendor" / "preact.js" in found
    assert size <= PAGE_LIMIT_BYTES


def test_every_module_says_what_it_promises_and_is_short() -> None:
    faults = []
    for path in sorted(UI.rglob("*.js")):
        if path.parent.name == "vendor":
            continue
        text = path.read_text(encoding="utf-8")
        if not text.startswith("/**"):
            faults.append(f"{path.name}: does not begin by saying what it promises")
        if text.count("\n") > MODULE_LIMIT_LINES:
            faults.append(f"{path.name}: has more than {MODULE_LIMIT_LINES} lines")

    assert faults == []


def test_every_import_leads_to_a_file() -> None:
    faults = []
    for path in sorted(UI.rglob("*.js")):
        targets = IMPORT.findall(path.read_text(encoding="utf-8"))
        faults += [f"{path.name}: {t}" for t in targets if not (path.parent / t).is_file()]

    assert faults == []
