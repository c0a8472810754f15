"""The layers: who may import whom, what the core may not touch, and how the folders are mounted.

The rules come from the design: a folder may import the folders below it and nothing else of the
package; the core decides everything and does nothing, so it knows no clock, no files and no
concurrency.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Final

import pytest

from tests.helpers.repository import CODE_FOLDERS, LAYERS, ROOT, Module, modules

# Benchmarks measure the server from outside, by its public HTTP API. Two measure one part of it.
BENCH_MAY_IMPORT: Final = ("troth.persistence", "troth.shards.wheel")

CORE_MAY_NOT_IMPORT: Final = frozenset(
    {
        *("asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets"),
        *("select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys"),
        *("tempfile", "threading", "time", "trio", "uuid"),
    }
)
CLOCK_METHODS: Final = frozenset({"now", "utcnow", "today"})

# Parts of the standard library's package `http`, which shares its name with our folder.
STANDARD_HTTP: Final = frozenset({"client", "cookiejar", "cookies", "server"})


def imports(module: Module) -> Iterator[tuple[int, str, int]]:
    """Every import in a module: its level (0 is absolute), the full dotted name and the line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, ".".join(filter(None, (node.module, alias.name))), node.lineno


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or something in it."""
    return name == package or name.startswith(package + ".")


def allowed_packages(folder: str) -> tuple[str, ...]:
    """What a module in a folder may import of the package by its absolute name."""
    if folder == "bench":
        return BENCH_MAY_IMPORT
    return tuple(f"troth.{lower}" for lower in LAYERS[: LAYERS.index(folder)])


def layer_faults(module: Module) -> list[str]:
    """Imports that a module's place in the layers forbids."""
    faults = []
    depth = module.path.count("/")
    for level, name, line in imports(module):
        where = f"{module.path}:{line}"
        if level > depth:
            faults.append(f"{where}: a relative import may not leave its folder; write troth.…")
        elif level == 0 and is_within(name, f"troth.{module.folder}"):
            faults.append(f"{where}: import {name} relative, it is in the same folder")
        elif level == 0 and is_within(name, "troth"):
            # `from troth import __version__` is the package itself, which imports nothing.
            allowed = (*allowed_packages(module.folder), "troth.__version__")
            if not any(is_within(name, package) for package in allowed):
                faults.append(f"{where}: {module.folder} may not import {name}")
    return faults


def second_copy_faults(module: Module) -> list[str]:
    """Imports that name a root folder without `troth.` and so would load a second copy of it."""
    faults = []
    for level, name, line in imports(module):
        first, _, rest = name.partition(".")
        second = rest.partition(".")[0]
        is_standard = first == "http" and (
            second in STANDARD_HTTP or second[:1].isupper() or not second
        )
        if level == 0 and first in CODE_FOLDERS and not is_standard:
            faults.append(f"{module.path}:{line}: import troth.{name}, not {name}")
    return faults


def core_faults(module: Module) -> list[str]:
    """What ties a module of the core to the world: forbidden imports, asking for the time, I/O."""
    faults = [
        f"{module.path}:{line}: the core may not import {name}"
        for level, name, line in imports(module)
        if level == 0 and name.split(".")[0] in CORE_MAY_NOT_IMPORT
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in CLOCK_METHODS:
                faults.append(f"{module.path}:{node.lineno}: the core is told the time, never asks")
            if isinstance(called, ast.Name) and called.id in {"open", "print", "input"}:
                faults.append(f"{module.path}:{node.lineno}: the core does no input or output")
    return faults


def import_circle(given: list[Module]) -> list[str]:
    """One circle of modules that import each other, imports for types included; [] if none does."""
    by_name = {f"troth.{module.path[:-3].replace('/', '.')}": module for module in given}
    graph: dict[str, set[str]] = {}
    for name, module in by_name.items():
        graph[name] = set()
        for level, imported, _ in imports(module):
            place = name.split(".")[:-level] if level else []
            full = ".".join([*place, imported])
            # The name is a module, or something in one.
            graph[name].update({full, full.rpartition(".")[0]} & by_name.keys())
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_the_layers_are_kept() -> None:
    assert [fault for module in modules(*CODE_FOLDERS) for fault in layer_faults(module)] == []


def test_the_core_knows_nothing_of_the_world() -> None:
    assert [fault for module in modules("core") for fault in core_faults(module)] == []


def test_no_modules_of_the_core_import_each_other_in_a_circle() -> None:
    assert import_circle(list(modules("core"))) == []


def test_no_second_copy_of_a_folder_is_imported() -> None:
    everywhere = modules(*CODE_FOLDERS, "src", "tests")

    assert [fault for module in everywhere for fault in second_copy_faults(module)] == []


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_a_code_folder_is_mounted_and_described(folder: str) -> None:
    link = ROOT / "src" / "troth" / folder

    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../../{folder}"
    assert (ROOT / folder / "README.md").is_file(), f"{folder} needs a README.md: its design"
    # With one, a folder at the root named http would hide the standard library's.
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/a.py", "from troth.persistence.log import Log"),
        ("core/a.py", "import troth.http"),
        ("core/a.py", "from troth.core.limits import ID_LIMIT_BYTES"),
        ("core/a.py", "from ..shards import wheel"),
        ("persistence/a.py", "from troth.shards import wheel"),
        ("persistence/deep/a.py", "from ...core import limits"),
        ("shards/a.py", "def f():\n    from troth.http import settings"),
        ("http/a.py", "from troth import bench"),
        ("http/a.py", "import troth.http.settings"),
        ("bench/a.py", "from troth.core import limits"),
        ("bench/a.py", "from troth.shards import wheels"),
    ],
)
def test_a_break_of_the_layers_is_found(path: str, line: str) -> None:
    assert len(layer_faults(Module(path, line))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/a.py", "from .limits import ID_LIMIT_BYTES"),
        ("core/deep/a.py", "from ..limits import ID_LIMIT_BYTES"),
        ("persistence/a.py", "from troth.core import limits"),
        ("shards/a.py", "from troth.persistence.log import Log"),
        ("http/a.py", "from troth import __version__"),
        ("http/a.py", "import trothless"),
        ("bench/a.py", "from troth.shards import wheel"),
        ("bench/a.py", "from troth.persistence.log import Log"),
    ],
)
def test_what_the_layers_allow_is_allowed(path: str, line: str) -> None:
    assert layer_faults(Module(path, line)) == []


@pytest.mark.parametrize(
    "back",
    [
        "from . import a",
        "from .a import X",
        "from troth.core.a import X",
        "import troth.core.a",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .a import X",
        "def f():\n    from .a import X",
    ],
)
def test_a_circle_of_imports_is_found(back: str) -> None:
    there, apart = Module("core/a.py", "from .b import Y"), Module("core/c.py", "from . import a")

    assert import_circle([there, Module("core/b.py", back), apart]) != []
    assert import_circle([there, Module("core/b.py", "import re"), apart]) == []


@pytest.mark.parametrize(
    "line",
    [
        *("import time", "from os import path", "import os.path", "import trio"),
        *("datetime.now()", "date.today()", "open('x')"),
    ],
)
def test_a_core_that_touches_the_world_is_found(line: str) -> None:
    assert len(core_faults(Module("core/a.py", line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import core",
        "from core.limits import X",
        "import http.settings",
        "from http import settings",
    ],
)
def test_a_second_copy_is_found(line: str) -> None:
    assert len(second_copy_faults(Module("tests/a.py", line))) == 1


@pytest.mark.parametrize(
    "line",
    ["import http.client", "from http import HTTPStatus", "from .core import X", "import http"],
)
def test_the_standard_library_is_no_second_copy(line: str) -> None:
    assert second_copy_faults(Module("tests/a.py", line)) == []
