"""How soon the first test of a file runs, and the first line of help is there.

Whoever works on Troth does both all day. What counts is processor time, which others on the machine
hardly change; the best of some runs, since a busy machine's caches do.
"""

import os
import subprocess
import sys

import pytest

from tests.helpers.repository import IMPORT_ROOT, ROOT

PYTEST_LIMIT_S = 1.5
PYTEST_LIMIT_RATIO = 5.0
"""On a slower or busy machine: so many times what importing the libraries takes there."""
LIBRARIES = (
    "import pytest, trio, hypercorn, quart_trio, msgspec, lmdb, orjson, httpx, structlog, click"
)
HELP_LIMIT_S = 0.25
RUNS_COUNT = 4


def processor_time_s(limit_s: float, *arguments: str) -> float:
    """Run Python with arguments, in the root; return the processor time that it took, the least of
    some runs, or that of the first run within the limit.

    The very first run does not count: it may have to write bytecode.
    """
    environment = {**os.environ, "PYTHONPATH": str(IMPORT_ROOT)}
    command = [sys.executable, *arguments]
    best_s = float("inf")
    for number in range(1 + RUNS_COUNT):
        before = os.times()
        subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60
        )
        after = os.times()
        if number:
            used_s = after.children_user - before.children_user
            used_s += after.children_system - before.children_system
            best_s = min(best_s, used_s)
        if best_s <= limit_s:
            break
    return best_s


@pytest.mark.slow
@pytest.mark.own_core
@pytest.mark.parametrize("path", ["tests/core/test_patterns.py", "tests/http/test_serve.py"])
def test_the_first_test_of_a_file_runs_soon(path: str) -> None:
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", path)
    limit_s = PYTEST_LIMIT_RATIO * processor_time_s(
        PYTEST_LIMIT_S / PYTEST_LIMIT_RATIO, "-c", LIBRARIES
    )
    limit_s = max(PYTEST_LIMIT_S, limit_s)

    assert processor_time_s(limit_s, *command) <= limit_s


@pytest.mark.own_core
@pytest.mark.parametrize("command", [(), ("promises",), ("serve",)])
def test_help_comes_soon(command: tuple[str, ...]) -> None:
    used_s = processor_time_s(HELP_LIMIT_S, "-m", "troth", *command, "--help")

    assert used_s <= HELP_LIMIT_S


LATE = ("colorama", "croniter", "h2", "hypercorn", "prometheus_client", "pygments", "quart", "rich")
"""Libraries that no start of a server needs. Some are loaded a little later, others never."""
LOADED = """
import sys
from troth.cli.serve import LEFT_OUT, leaving_out
with leaving_out(*LEFT_OUT):
    import troth.http.serve
print(*[name for name in sys.argv[1:] if name in sys.modules])
import trio, rich
from troth.http.sockets import slow_side
trio.run(slow_side.load)
print(*[name for name in sys.argv[1:] if name in sys.modules])
"""


def test_a_server_starts_without_what_it_needs_later() -> None:
    """What is left out can be loaded afterwards, and what is needed later is."""
    environment = {**os.environ, "PYTHONPATH": str(IMPORT_ROOT)}
    command = [sys.executable, "-c", LOADED, *LATE]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
    )

    before, after = shown.stdout.split("\n")[:2]
    assert before == ""
    assert {"croniter", "h2", "hypercorn", "prometheus_client", "quart", "rich"} <= {*after.split()}
