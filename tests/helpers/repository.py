"""The repository's own files, for tests that read the code as text or as a syntax tree."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import troth

ROOT: Final = Path(__file__).resolve().parents[2]

IMPORT_ROOT: Final = Path(troth.__file__).resolve().parents[1]
"""Where `troth` is imported from: `src`, or the directory that the package is installed in. Other
processes find the same code if PYTHONPATH names it."""

LAYERS: Final = ("core", "persistence", "shards", "http")
"""The server's folders, lowest first: each may import those before it."""

CODE_FOLDERS: Final = (*LAYERS, "node", "cli", "bench")
"""The folders at the root that `src/troth` mounts as subpackages."""

_GENERATED: Final = frozenset({"__pycache__", "node_modules", "dist", "htmlcov", "troth-data"})


@dataclass(frozen=True)
class Module:
    """One Python file: its path within the repository, with slashes, and its text."""

    path: str
    text: str

    @property
    def folder(self) -> str:
        """The folder at the root that it lies in; empty for a file at the root itself."""
        return self.path.split("/")[0] if "/" in self.path else ""

    @property
    def room(self) -> str:
        """The folder it lies in, with slashes: `http/wire`, or `http` for what is in no room."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The dotted name within the package: `http.wire.errors`."""
        return self.path.removesuffix(".py").replace("/", ".")

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree, made once."""
        return ast.parse(self.text, self.path)


def modules(*folders: str) -> Iterator[Module]:
    """Yield the Python files in these folders at the root, in the order of their paths."""
    for folder in folders:
        place = _place(folder)
        for path in sorted(_walk(place)):
            if path.suffix == ".py":
                name = path.relative_to(place.parent).as_posix()
                yield Module(name, path.read_text(encoding="utf-8"))


def files(*folders: str) -> list[Path]:
    """Return all files in these folders at the root, except what tools made; follow no links."""
    return sorted(path for folder in folders for path in _walk(ROOT / folder))


def _place(folder: str) -> Path:
    """Return the directory that a folder is imported from: an installed package has its own."""
    if folder in CODE_FOLDERS and IMPORT_ROOT != ROOT / "src":
        return IMPORT_ROOT / "troth" / folder
    return ROOT / folder


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_symlink() or path.name.startswith(".") or path.name in _GENERATED:
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
