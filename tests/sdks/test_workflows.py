"""Published SDKs of the envelope protocol run workflows of ours, as real processes.

Each SDK has its turn with every workflow, by name. Two workers of it serve all of them that let
their processes live; the others have their own.
"""

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.helpers.server import ServerProcess
from tests.sdks import environments
from tests.sdks.worker import TIMEOUT_S, Served, Worker

pytestmark = pytest.mark.slow

PYTHON: Final = environments.HERE / "python" / "workflows.py"
TYPESCRIPT: Final = environments.HERE / "typescript"


def python(pins: str) -> Callable[[], tuple[str, ...]]:
    """Return what makes the environment of a Python SDK and returns the command of the worker."""
    return lambda: (str(environments.python(pins)), str(PYTHON))


SDKS: Final[dict[str, Callable[[], tuple[str, ...]]]] = {
    "python-newest": python("newest"),
    "python-0.7.4": python("0.7.4"),
    "typescript-newest": lambda: environments.typescript_program(TYPESCRIPT / "workflows.ts"),
    "typescript-generators": lambda: environments.typescript_program(TYPESCRIPT / "generators.ts"),
    "rust-newest": lambda: (str(environments.rust()),),
}

# How long a task belongs to a worker that is going to be killed.
SHORT_TTL_MS: Final = 3000
DEFAULT_TTL_MS: Final = 60_000


class Sdk(NamedTuple):
    """An SDK under test: how its workers are started, and two that run."""

    name: str
    command: tuple[str, ...]
    server: Served
    shop: Worker
    warehouse: Worker

    def new(self, what: str) -> str:
        """Return an id, or the name of a group, that no other test has."""
        return f"{what}-{self.name}-{uuid.uuid4().hex[:8]}"


OVER_PROCESSES: Final = "-over-processes"
"""So ends the name of an SDK that has its turn with a server of several processes."""


def server_options(name: str) -> tuple[str, ...]:
    """Return the options of the server that an SDK has its turn with."""
    return ("--processes", "3") if name.endswith(OVER_PROCESSES) else ()


@pytest.fixture(
    scope="module",
    params=[*SDKS, *(f"{name}{OVER_PROCESSES}" for name in ("python-newest", "typescript-newest"))],
)
def sdk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """The SDK whose turn it is, and its workers; at the end they stop in good order."""
    name = request.param
    command = SDKS[name.removesuffix(OVER_PROCESSES)]()
    shared = "shared_processes" if server_options(name) else "shared_server"
    server = request.getfixturevalue(shared)
    directory = tmp_path_factory.mktemp(name)
    suffix = f"{name}-{uuid.uuid4().hex[:8]}"
    with (
        Worker(command, server, f"shop-{suffix}", directory / "shop.log") as shop,
        Worker(command, server, f"warehouse-{suffix}", directory / "house.log") as warehouse,
    ):
        yield Sdk(name, command, server, shop.ready(), warehouse.ready())
        shop.stop()
        warehouse.stop()


def settled(server: Served, promise_id: str) -> dict[str, Any]:
    """Wait through the REST API until a promise is completed, and return it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        status, promise = server.request("GET", f"/promises/{promise_id}")
        if status == 200 and promise["state"] != "PENDING":
            assert isinstance(promise, dict)
            return promise
        assert time.monotonic() < deadline, f"{promise_id} was not completed in time: {promise}"
        time.sleep(0.02)


def lines(journal: Path) -> list[str]:
    """Return what workers have noted so far."""
    return journal.read_text().splitlines() if journal.exists() else []


def test_hello(sdk: Sdk) -> None:
    name = sdk.new("hello")

    assert sdk.shop.run(name, "hello", "Ada") == "hello, Ada"
    # An id is the idempotency key: the same again, also asked for by somebody else.
    assert sdk.warehouse.run(name, "hello", "Ben") == "hello, Ada"


def test_a_call_over_two_workers(sdk: Sdk) -> None:
    answer = sdk.shop.run(sdk.new("order"), "order", "apples", 3, sdk.warehouse.group)

    assert answer == {
        "total": 18,
        "ordered_by": sdk.shop.process_id,
        "priced_by": sdk.warehouse.process_id,
    }


def test_a_fan_out_of_fifty(sdk: Sdk) -> None:
    doubled = sdk.shop.run(sdk.new("fan-out"), "fan_out", 50, sdk.warehouse.group)

    assert doubled == [2 * number for number in range(50)]


def test_a_sleep(sdk: Sdk) -> None:
    began = time.monotonic()

    assert sdk.shop.run(sdk.new("nap"), "nap", 1200, sdk.shop.group) == "awake"
    assert time.monotonic() - began >= 1.2


def test_a_saga_undoes_what_was_done(sdk: Sdk, tmp_path: Path) -> None:
    journal = tmp_path / "journal.txt"

    assert sdk.shop.run(sdk.new("trip"), "trip", str(journal)) == "cancelled: no car left"
    assert lines(journal) == [
        *("book flight", "book hotel", "book hotel", "book car"),
        *("cancel hotel", "cancel flight"),
    ]


def test_a_workflow_that_fails(sdk: Sdk) -> None:
    name = sdk.new("refused")
    sdk.shop.start(name, "refused", "out of apples")

    assert "out of apples" in sdk.shop.wait_for(id=name)["error"]
    assert settled(sdk.server, name)["state"] == "REJECTED"


def test_a_person_decides(sdk: Sdk) -> None:
    name = sdk.new("expense")
    sdk.shop.start(name, "expense", 250)
    deadline = time.monotonic() + TIMEOUT_S
    while not (asked := [e for e in sdk.shop.events() if e.get("id", "").startswith(name)]):
        assert time.monotonic() < deadline, f"nobody was asked by {sdk.shop}"
        time.sleep(0.02)

    question = asked[0]["id"]
    # The newest TypeScript SDK says the id of a promise before it has created it.
    while sdk.server.request("GET", f"/promises/{question}")[0] == 404:
        assert time.monotonic() < deadline, f"the question was never put by {sdk.shop}"
        time.sleep(0.02)

    # The question is answered through the other API, as curl would.
    value = base64.b64encode(json.dumps("approved by Ada").encode()).decode()
    status, _ = sdk.server.request(
        "PATCH", f"/promises/{question}", {"state": "RESOLVED", "value": {"data": value}}
    )

    assert status in (200, 201)
    assert sdk.shop.result(name) == "250: approved by Ada"


def test_a_recursion(sdk: Sdk) -> None:
    assert sdk.shop.run(sdk.new("fibonacci"), "fibonacci", 6, sdk.shop.group) == 8


def test_a_detached_workflow(sdk: Sdk, tmp_path: Path) -> None:
    journal = tmp_path / "journal.txt"

    detached = sdk.shop.run(sdk.new("shipment"), "shipment", str(journal), sdk.warehouse.group)

    assert settled(sdk.server, detached)["state"] == "RESOLVED"
    assert lines(journal) == ["mail sent"]


def test_a_schedule(sdk: Sdk, tmp_path: Path) -> None:
    journal = tmp_path / "journal.txt"
    name = sdk.new("ticks")
    every_second = "* * * * * *"
    sdk.shop.tell("schedule", name, cron=every_second, function="tick", arguments=[str(journal)])
    sdk.shop.result(name, "schedule")

    deadline = time.monotonic() + TIMEOUT_S
    while lines(journal) != ["tick", "tick"]:
        assert time.monotonic() < deadline, f"a schedule started nothing: {sdk.shop}"
        time.sleep(0.02)
    sdk.shop.tell("unschedule", name)
    sdk.shop.result(name, "unschedule")
    assert sdk.server.request("GET", f"/schedules/{name}")[0] == 404


def test_a_worker_is_killed_in_the_middle(sdk: Sdk, tmp_path: Path) -> None:
    name, group, gate = sdk.new("report"), sdk.new("printers"), tmp_path / "gate"

    def start(number: int) -> AbstractContextManager[Worker]:
        log_path = tmp_path / f"{number}.log"
        return Worker(sdk.command, sdk.server, group, log_path, SHORT_TTL_MS)

    with start(1) as doomed, start(2) as other:
        doomed.ready().start(name, "report", str(gate))
        doomed.wait_for(event="prints")
        doomed.kill9()
        other.wait_for(event="prints")
        gate.touch()
        other.tell("wait", name)

        assert other.result(name, "wait") == {
            "counted_by": doomed.process_id,
            "printed_by": other.process_id,
        }
        assert {"event": "counts"} not in other.events()


def test_the_server_is_killed_in_the_middle(sdk: Sdk, tmp_path: Path) -> None:
    name, group, journal = sdk.new("journey"), sdk.new("travelers"), tmp_path / "journal.txt"
    stages = 6
    # These SDKs do not repeat a request whose answer was lost: they go on after their lease.
    repeats_nothing = sdk.name.startswith(("typescript", "rust"))
    ttl_ms = SHORT_TTL_MS if repeats_nothing else DEFAULT_TTL_MS

    with (
        ServerProcess(tmp_path / "server", *server_options(sdk.name)) as server,
        Worker(sdk.command, server, group, tmp_path / "worker.log", ttl_ms) as worker,
    ):
        worker.ready().start(name, "journey", stages, str(journal), group)
        for kills in (1, 2):
            deadline = time.monotonic() + TIMEOUT_S
            while len(lines(journal)) < 2 * kills:
                assert time.monotonic() < deadline, f"no stage was reached by {worker}"
                time.sleep(0.01)
            server.restart()

        assert worker.result(name) == [2 * stage for stage in range(stages)]
        # A step whose end could not be reported runs again; none is left out.
        assert list(dict.fromkeys(lines(journal))) == [f"stage {n}" for n in range(stages)]
        worker.stop()
