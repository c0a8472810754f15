"""The examples do what their first lines say, as real processes against a real server."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import ServerProcess

from .program import EXAMPLES, TIMEOUT_S, Program, environment

pytestmark = pytest.mark.slow


def wait_for_promise(server: ServerProcess, promise_id: str) -> dict[str, Any]:
    """Wait until a promise of this id exists, and return it."""
    deadline = time.monotonic() + TIMEOUT_S
    while (answer := server.request("GET", f"/promises/{promise_id}"))[0] != 200:
        assert time.monotonic() < deadline, f"there is no promise {promise_id}"
        time.sleep(0.02)
    promise: dict[str, Any] = answer[1]
    return promise


def test_an_order_is_carried_out_by_two_workers(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    def start(*arguments: str) -> Program:
        return Program(shared_server, tmp_path, "order_over_two_workers", *arguments)

    # The order is there before anyone who could do anything about it.
    with start("start", "order-1", "apples", "3") as first, start("shop") as shop:
        shop.wait_for("shop: ready")
        with start("warehouse") as warehouse:
            assert first.result() == "3 apples from shelf-a for 6"
            with start("start", "order-1", "apples", "3") as again:
                assert again.result() == "3 apples from shelf-a for 6"
            with start("start", "order-2", "pears", "1") as other:
                assert other.result() == "1 pears from shelf-p for 5"

            assert shop.lines()[1:] == ["shop: charges 3 apples", "shop: charges 1 pears"]
            assert warehouse.lines()[1:] == [
                "warehouse: reserves 3 apples",
                "warehouse: reserves 1 pears",
            ]


def test_a_sleep_outlasts_the_server_and_the_worker(server: ServerProcess, tmp_path: Path) -> None:
    def start(*arguments: str) -> Program:
        return Program(server, tmp_path, "durable_sleep", *arguments)

    sleep_s = 4
    with start("worker") as first_worker, start("start", "reminder-1", str(sleep_s)) as first:
        first_worker.wait_for("worker: falls asleep")
        sleeping = wait_for_promise(server, "reminder-1.2")
        server.restart()
        # The SDK ends it anyway, at some time. It must not be what finishes the work.
        first_worker.kill9()
        first.kill9()

        with start("worker") as worker, start("start", "reminder-1", str(sleep_s)) as again:
            before, after = again.result().split(", ")

    assert before == f"falls asleep in {first_worker.process_id}"
    assert after == f"wakes up in {worker.process_id}"
    assert [line for line in worker.lines() if line.startswith("worker: ")] == [
        "worker: ready",
        "worker: wakes up",
    ]
    # The deadline is the one of the first run: neither lost nor begun anew.
    slept = wait_for_promise(server, "reminder-1.2")
    woken = wait_for_promise(server, "reminder-1.3")
    assert slept["state"] == "RESOLVED"
    assert slept["completedOn"] == slept["timeout"] == sleeping["timeout"]
    assert slept["timeout"] - slept["createdOn"] <= sleep_s * 1000
    assert woken["createdOn"] >= slept["timeout"]


def test_workers_wait_for_a_server_that_is_stopped_and_started(
    server: ServerProcess, tmp_path: Path
) -> None:
    def start(*arguments: str) -> Program:
        return Program(server, tmp_path, "durable_sleep", *arguments)

    with start("worker") as worker, start("start", "reminder-1", "1") as waiting:
        worker.wait_for("worker: falls asleep")
        wait_for_promise(server, "reminder-1.2")
        # It ends the streams in good order, and the deadline passes while nobody serves.
        assert server.terminate() == 0
        time.sleep(1)
        server.start()

        process_id = worker.process_id
        assert waiting.result() == f"falls asleep in {process_id}, wakes up in {process_id}"


def test_a_person_decides(shared_server: ServerProcess, tmp_path: Path) -> None:
    def start(*arguments: str) -> Program:
        return Program(shared_server, tmp_path, "human_in_the_loop", *arguments)

    def troth(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "troth", *arguments],
            env=environment(shared_server),
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        ).stdout

    with start("worker") as worker:
        with start("start", "expense-1", "250") as waiting:
            worker.wait_for("worker: expense-1.approval is to be decided")
            with start("start", "expense-2", "20") as small:
                assert small.result() == "20 paid: needs no approval"
            assert "worker: pays 250" not in worker.lines()

            troth("promises", "resolve", "expense-1.approval", "--data", '"approved by Ada"')
            assert waiting.result() == "250 paid: approved by Ada"

        with start("start", "expense-3", "300") as waiting:
            worker.wait_for("worker: expense-3.approval is to be decided")
            # What curl sends in the example's description.
            text = (EXAMPLES / "human_in_the_loop.py").read_text(encoding="utf-8")
            body = json.loads(text.split("--json '")[1].split("'\n")[0])
            answer = shared_server.request("PATCH", "/promises/expense-3.approval", body)
            assert answer[0] == 201
            assert waiting.result() == "300 paid: approved by Ada"

        assert [line for line in worker.lines() if "pays" in line] == [
            "worker: pays 20",
            "worker: pays 250",
            "worker: pays 300",
        ]


def test_the_work_of_a_killed_worker_is_finished(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    def start(*arguments: str) -> Program:
        return Program(shared_server, tmp_path, "killed_worker", *arguments)

    with (
        start("worker") as doomed,
        start("start", "report-1", "0.5") as waiting,
    ):
        doomed.wait_for("worker: prints the report")
        doomed.kill9()

        with start("worker") as other:
            assert waiting.result() == (
                f"counted by {doomed.process_id}, printed by {other.process_id}"
            )
            assert other.lines()[1:] == ["worker: prints the report"]
            assert doomed.lines()[1:] == ["worker: counts", "worker: prints the report"]
