"""The repository's own files, for tests that read the code as text or as a syntax tree."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

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

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, self.path)


def modules(*folders: str) -> Iterator[Module]:
    """The Python files in these folders at the root, in the order of their paths."""
    for path in files(*folders):
        if path.suffix == ".py":
            yield Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def files(*folders: str) -> list[Path]:
    """All files in these folders at the root, none that a tool has made; links are not followed."""
    return sorted(path for folder in folders for path in _walk(ROOT / folder))


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_symlink() or path.name.startswith(".") or path.name in _GENERATED:
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
