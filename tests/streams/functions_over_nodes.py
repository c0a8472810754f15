"""Function tasks over nodes that share groups: worker, clients and owner at different ones.

The function node (`troth node`) is connected to one Troth node, clients create tasks through
another, and the third, which owns group 0 and with it placement, is killed while they run. Each
task ends once, with its own result, and each node tells it, the one that was killed too.

    python -m tests.streams.functions_over_nodes --engine nats
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.helpers.server import ServerProcess
from tests.helpers.shared_nodes import ENGINES, SharedNodes, place_of, shared_nodes
from tests.helpers.tokens import Client
from tests.node.fake_server import python
from tests.node.test_with_server import Functions, functions_of

PATIENCE_S: Final = 120.0
TASKS_COUNT: Final = 9
"""Enough that each of three groups has some."""
_PAUSE_S: Final = 0.1
_TEXT: Final = """
import time
def handle(request):
    time.sleep(1.0)
    return request.Body + ' is done'
"""


def tasks_outlive_an_owner(
    three: SharedNodes, directory: Path, *, comes_back: bool = True
) -> float:
    """Run tasks over three nodes and kill the owner of group 0; return how long they took.

    `comes_back`: the node that was killed is started again, which takes up to 12 s.
    """
    ending = three.owners()[0]
    near, far = (node for name, node in three.nodes.items() if name != ending)
    gone = three.nodes[ending]
    functions = functions_of(near, directory)
    through_far = _through(far, functions)
    function_id = functions.function(python(_TEXT), timeout=60)
    with functions.node("0", "--slots", "3"):
        _until(lambda: len(functions.connected()) == 1)
        begun_s = time.monotonic()
        ids = [through_far.create(function_id, b"%d" % number) for number in range(TASKS_COUNT)]
        _until(lambda: any(through_far.task(one)["node"] for one in ids))
        gone.kill9()
        for number, one in enumerate(ids):
            assert _result(functions if number % 2 else through_far, one) == b"%d is done" % number
        took_s = time.monotonic() - begun_s
        _until(lambda: _create_and_run(through_far, functions, function_id))
    if not comes_back:
        return took_s
    gone.start()
    three.until_spread(*three.nodes)
    three.until_ready(*three.nodes)
    through_gone = _through(gone, functions)
    for number, one in enumerate(ids):
        assert _result(through_gone, one) == b"%d is done" % number
    return took_s


def _through(node: ServerProcess, functions: Functions) -> Functions:
    """Return the same account at another node."""
    return Functions(node, Client(node, functions.client.secret), functions.directory)


def _result(functions: Functions, task_id: str) -> bytes:
    """Wait for the result of a task, and ask again while its group has no owner."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        status, body = functions.result(task_id)
        if status != 503:
            assert status == 200, (status, body)
            return body
        assert time.monotonic() < ends_s, body
        time.sleep(_PAUSE_S)


def _create_and_run(creating: Functions, asking: Functions, function_id: str) -> bool:
    """Create a task at one node and return whether its result is there at the other."""
    return _result(asking, creating.create(function_id, b"last")) == b"last is done"


def _until(is_true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < ends_s, "it does not become true"
        time.sleep(_PAUSE_S)


def main() -> None:
    """Run it with real engines from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: both")
    for engine in parser.parse_args().engine or ENGINES:
        with (
            tempfile.TemporaryDirectory(prefix="troth-functions-") as name,
            place_of(engine) as place,
            shared_nodes(Path(name), place.url, "abc", 3, place.monitor) as three,
        ):
            took_s = tasks_outlive_an_owner(three, Path(name))
            print(f"{engine}: {TASKS_COUNT} tasks, an owner killed: each ended, in {took_s:.1f} s")


if __name__ == "__main__":
    main()
