"""The house: who may import whom, where a module may lie, and how the folders are mounted.

The rules come from the design. A folder may import the folders below it and nothing else of the
package. Inside a folder the rooms stand in floors, and a room imports only what is below its own
floor. No imports run in a circle, those for types included. The core decides everything and does
nothing, so it knows no clock, no files and no concurrency.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

import pytest

from tests.helpers.repository import CODE_FOLDERS, LAYERS, ROOT, Module, modules

# Benchmarks measure the server from outside, by its public HTTP API. Two measure one part of it.
BENCH_MAY_IMPORT: Final = ("troth.persistence", "troth.shards.wheel")

REST: Final = "*"
"""Stands for the modules of a folder that lie in no room and are not named themselves."""

FLOORS: Final[Mapping[str, tuple[frozenset[str], ...]]] = {
    "core": (
        frozenset({REST}),
        frozenset({"grammar"}),
        frozenset({"seeds", "schedule_runs", "tables"}),
        frozenset({"state"}),
        frozenset({"deciding"}),
        frozenset({"decisions"}),
        frozenset({"machine"}),
    ),
    "persistence": (
        frozenset({REST}),
        frozenset({"wal"}),
        frozenset({"data_directory", "checkpoints", "streams"}),
        frozenset({"inspection", "apart"}),
        frozenset({"snapshots"}),
        frozenset({"conversion"}),
    ),
    "shards": (
        frozenset({"alarms"}),
        frozenset({"delivery", "placement"}),
        frozenset({REST}),
        frozenset({"upkeep", "surveys", "mesh"}),
        frozenset({"gathered", "streams", "guard"}),
        frozenset({"bulk"}),
    ),
    "http": (
        frozenset({"wire", "settings", "outgoing", "supervision", "metrics", "links"}),
        frozenset({"identity", "tracing"}),
        frozenset({"api"}),
        frozenset({"promises", "functions"}),
        frozenset({"envelope", "executions", "admin", "questions"}),
        frozenset({"nodes", "overview", "bulk"}),
        frozenset({"web"}),
        frozenset({"documents"}),
        frozenset({"sockets"}),
        frozenset({"monitoring", "processes"}),
        frozenset({REST}),
    ),
}
"""The rooms and modules of a folder, lowest floor first: one may import what is on lower floors,
and where it is `REST`, its own. `UPWARD` names the exceptions."""

UPWARD: Final = frozenset({("shards.shards", "shards.upkeep.checkpointer")})

MODULES_IN_A_ROOM: Final = 25
MODULES_OF_HTTP_ITSELF: Final = 5

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
    """Return what a module in a folder may import of the package outside its folder."""
    if folder == "bench":
        return BENCH_MAY_IMPORT
    if folder == "node":
        return ("troth.core",)
    if folder == "cli":
        return tuple(f"troth.{other}" for other in CODE_FOLDERS if other != "cli")
    return tuple(f"troth.{lower}" for lower in LAYERS[: LAYERS.index(folder)])


def layer_faults(module: Module) -> list[str]:
    """Return the imports that a module's folder forbids, and those written the wrong way."""
    room = "troth." + module.room.replace("/", ".")
    # `from troth import __version__` is the package itself, which imports nothing.
    allowed = (*allowed_packages(module.folder), f"troth.{module.folder}", "troth.__version__")
    faults = []
    for level, name, line in imports(module):
        where = f"{module.path}:{line}"
        if level > 1:
            faults.append(f"{where}: a relative import may not leave its room; write troth.…")
        elif level == 0 and is_within(name, "troth"):
            inside = name.removeprefix(room + ".")
            if inside != name and not is_in_a_room_below(inside, module):
                faults.append(f"{where}: import {name} relative, it is in the same room")
            elif not any(is_within(name, package) for package in allowed):
                faults.append(f"{where}: {module.folder} may not import {name}")
    return faults


def is_in_a_room_below(name: str, module: Module) -> bool:
    """Return whether a dotted name begins with a room inside the module's own."""
    return (ROOT / module.room / name.partition(".")[0]).is_dir()


def imported_modules(module: Module, known: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield each known module that a module imports (dotted, without `troth.`) and the line."""
    names = frozenset(known)
    for level, name, line in imports(module):
        if level == 1:
            full = f"{module.room.replace('/', '.')}.{name}"
        elif level == 0 and name.startswith("troth."):
            full = name.removeprefix("troth.")
        else:
            continue
        found = full if full in names else full.rpartition(".")[0]
        if found in names and found != module.name:
            yield found, line


def floor_of(name: str) -> int | None:
    """Return the floor of a module (dotted) in its folder; None where a folder has no floors."""
    folder, _, rest = name.partition(".")
    floors = FLOORS.get(folder)
    if floors is None:
        return None
    place = rest.partition(".")[0]
    for wanted in (place, REST):
        for number, floor in enumerate(floors):
            if wanted in floor:
                return number
    raise AssertionError(f"{name}: give the room a floor in FLOORS")


def is_in_a_room(name: str) -> bool:
    """Return whether a module (dotted) lies in a room of its folder."""
    return name.count(".") > 1


def floor_faults(module: Module, known: Iterable[str]) -> list[str]:
    """Return the imports that reach a room on the same floor or above."""
    faults = []
    here = floor_of(module.name)
    for name, line in imported_modules(module, known):
        if name.partition(".")[0] != module.folder or (module.name, name) in UPWARD:
            continue
        there = floor_of(name)
        if here is None or there is None or there < here:
            continue
        same_room = is_in_a_room(name) == is_in_a_room(module.name) and (
            not is_in_a_room(name) or name.rpartition(".")[0] == module.room.replace("/", ".")
        )
        if there > here or not same_room:
            faults.append(f"{module.path}:{line}: {name} is not below {module.room}")
    return faults


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one circle of imports, the first module again at its end; empty if there is none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def name_faults(module: Module) -> list[str]:
    """Return what is wrong with the names of a module and its rooms."""
    _, *places = module.name.split(".")
    faults = [
        f"{module.path}: {place} is a module of the standard library"
        for place in places
        if place in sys.stdlib_module_names
    ]
    if module.folder == "http" and places and places[0] in STANDARD_HTTP:
        faults.append(f"{module.path}: the standard library has http.{places[0]}")
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


def test_the_layers_are_kept() -> None:
    assert [fault for module in modules(*CODE_FOLDERS) for fault in layer_faults(module)] == []


@pytest.mark.slow
def test_the_floors_are_kept() -> None:
    found = list(modules(*CODE_FOLDERS))
    known = frozenset(module.name for module in found)

    assert [fault for module in found for fault in floor_faults(module, known)] == []


@pytest.mark.slow
def test_no_imports_run_in_a_circle() -> None:
    found = list(modules(*CODE_FOLDERS))
    known = frozenset(module.name for module in found)

    assert circle({m.name: [name for name, _ in imported_modules(m, known)] for m in found}) == []


def test_no_name_is_one_of_the_standard_library() -> None:
    assert [fault for module in modules(*CODE_FOLDERS) for fault in name_faults(module)] == []


def test_no_room_is_overfull() -> None:
    counts: dict[str, int] = {}
    for module in modules(*CODE_FOLDERS):
        counts[module.room] = counts.get(module.room, 0) + 1

    limits = {"http": MODULES_OF_HTTP_ITSELF}
    assert [
        f"{room} holds {count} modules: give a subject a room of its own"
        for room, count in counts.items()
        if count > limits.get(room, MODULES_IN_A_ROOM)
    ] == []


def test_the_core_knows_nothing_of_the_world() -> None:
    assert [fault for module in modules("core") for fault in core_faults(module)] == []


@pytest.mark.slow
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
        ("core/a.py", "from troth.persistence.files import Files"),
        ("core/a.py", "import troth.http"),
        ("core/a.py", "from troth.core.limits import ID_LIMIT_BYTES"),
        ("core/grammar/a.py", "from ..limits import ID_LIMIT_BYTES"),
        ("core/grammar/a.py", "from troth.core.grammar.cron import Cron"),
        ("core/a.py", "from ..shards import wheel"),
        ("persistence/a.py", "from troth.shards import wheel"),
        ("persistence/wal/a.py", "from ...core import limits"),
        ("shards/a.py", "def f():\n    from troth.http import settings"),
        ("http/a.py", "from troth import bench"),
        ("http/a.py", "import troth.cli.command"),
        ("http/wire/a.py", "from troth.node import agent"),
        ("node/a.py", "from troth.http.wire import errors"),
        ("node/a.py", "from troth.shards import wheel"),
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
        ("core/grammar/a.py", "from troth.core.limits import ID_LIMIT_BYTES"),
        ("core/machine.py", "from troth.core.decisions import promises"),
        ("persistence/a.py", "from troth.core import limits"),
        ("shards/a.py", "from troth.persistence.wal.log import Log"),
        ("http/a.py", "from troth import __version__"),
        ("http/a.py", "import trothless"),
        ("node/a.py", "from troth.core import limits"),
        ("cli/a.py", "from troth.bench.command import bench"),
        ("bench/a.py", "from troth.shards import wheel"),
        ("bench/a.py", "from troth.persistence.wal.log import Log"),
    ],
)
def test_what_the_layers_allow_is_allowed(path: str, line: str) -> None:
    assert layer_faults(Module(path, line)) == []


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("http/wire/a.py", "http.api.b"),
        ("http/promises/a.py", "http.functions.b"),
        ("http/documents/a.py", "http.b"),
        ("core/b.py", "core.grammar.b"),
        ("core/state/a.py", "core.deciding"),
        ("shards/b.py", "shards.upkeep.retention"),
        ("persistence/wal/a.py", "persistence.data_directory"),
    ],
)
def test_an_import_from_above_is_found(path: str, imported: str) -> None:
    package, _, name = imported.rpartition(".")
    module = Module(path, f"from troth.{package} import {name}")

    assert len(floor_faults(module, [imported])) == 1


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("http/promises/a.py", "http.wire.b"),
        ("http/b.py", "http.sockets.b"),
        ("core/seeds.py", "core.grammar.b"),
        ("core/grammar/a.py", "core.limits"),
        ("core/b.py", "core.limits"),
        ("shards/b.py", "shards.clock"),
        ("shards/shards.py", "shards.upkeep.checkpointer"),
    ],
)
def test_an_import_from_below_is_allowed(path: str, imported: str) -> None:
    package, _, name = imported.rpartition(".")
    module = Module(path, f"from troth.{package} import {name}")

    assert floor_faults(module, [imported]) == []


def test_a_circle_of_imports_is_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]})[:1] != []
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


@pytest.mark.parametrize("path", ["core/json.py", "http/client/a.py", "shards/queue/a.py"])
def test_a_name_of_the_standard_library_is_found(path: str) -> None:
    assert len(name_faults(Module(path, ""))) == 1


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
