"""A node that is shared by the tests of what functions do to it: two slots, little memory."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.seeds import RUNS_ALL

from .fake_server import WAIT_S, Code, FakeServer, python, wait_until
from .node_process import MODES, NodeProcess

MEMORY_MB = 128
ONE_GROUND: Final = MODES if RUNS_ALL else MODES[:1]
"""For what is the same however functions are kept apart; `make seeds` has it in each way."""
GOOD = python("def handle(request):\n    return 'well'\n")


@dataclass(frozen=True)
class Ground:
    """A server and a node that belong together."""

    server: FakeServer
    node: NodeProcess

    def assert_well(self) -> None:
        """The node runs the next task, and nothing of the ones before is left."""
        assert self.server.run(GOOD).body == b"well"
        wait_until(lambda: not self.left_processes())
        wait_until(lambda: not self.left_files())
        assert not self.server.stop

    def left_processes(self) -> list[int]:
        """Processes of functions that are not the first one of a sandbox."""
        return [one for one in self.node.function_processes() if not self._is_first(one)]

    def _is_first(self, process_id: int) -> bool:
        try:
            status = Path(f"/proc/{process_id}/stat").read_text()
        except OSError:
            return True
        return int(status.rpartition(")")[2].split()[1]) == self.node.process_id

    def left_files(self) -> list[Path]:
        """Files of tasks, and directories of sandboxes that are no more."""
        sandboxes = [*(self.node.directory / "run").iterdir()]
        files: list[Path] = []
        for sandbox in sandboxes:
            with contextlib.suppress(FileNotFoundError):  # it is just being removed
                files += (sandbox / "work").iterdir()
        if len(sandboxes) > len(self.node.function_processes()):
            files += sandboxes
        return files


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests a ground of each mode, or of those that their module names in `GROUNDS`."""
    if "ground" in metafunc.fixturenames:
        modes = getattr(metafunc.module, "GROUNDS", MODES)
        metafunc.parametrize("ground", modes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """A node in each of the ways in which functions are kept apart."""
    directory = tmp_path_factory.mktemp("node") / "node"
    with (
        FakeServer() as server,
        NodeProcess(
            directory, server, "--slots", "2", "--memory", str(MEMORY_MB), mode=request.param
        ) as node,
    ):
        assert server.connected.wait(WAIT_S), node.log()
        yield Ground(server, node)


def source(*lines: str) -> Code:
    """A function of these lines."""
    body = "\n".join(f"    {line}" for line in lines)
    modules = "import json, os, signal, subprocess, sys, threading, time"
    return python(f"{modules}\n\ndef handle(request):\n{body}\n")


def error_of(ground: Ground, code: Code, **options: Any) -> tuple[int, str, str]:
    """Run a function that fails: status, type and message. The node is well afterwards."""
    task = ground.server.run(code, **options)
    error = task.json()["error"]
    assert task.error == f"{error['type']}: {error['message']}"
    assert task.headers == {"content-type": "application/json"}
    ground.assert_well()
    return task.status, error["type"], error["message"]
