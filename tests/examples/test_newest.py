"""The examples for the newest SDKs do what their first lines say, together too."""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from tests.sdks import environments

from .program import EXAMPLES, Program

pytestmark = pytest.mark.slow

NEWEST = EXAMPLES / "newest"


def python() -> tuple[str, str]:
    return str(environments.python("newest")), str(NEWEST / "checkout.py")


def typescript() -> tuple[str, str]:
    return environments.typescript_program(NEWEST / "checkout.mts")


def check_out(
    shared_server: ServerProcess, directory: Path, works: Sequence[str], starts: Sequence[str]
) -> None:
    """Have one program carry out what another one has started, as the first lines say."""
    text = (NEWEST / Path(works[1]).name).read_text(encoding="utf-8")
    path = text.split("curl -X PATCH http://127.0.0.1:8001")[1].split(" ")[0]
    order = f"order-{uuid.uuid4().hex[:8]}"
    path = path.replace("order-9", order)
    question = path.removeprefix("/promises/")
    answer = json.loads(text.split("-d '")[1].split("'\n")[0])
    with (
        Program(shared_server, directory, "worker", "worker", command=works) as worker,
        Program(
            shared_server, directory, "start", "start", order, "250", command=starts
        ) as waiting,
    ):
        worker.wait_for(f"worker: {question} is to be decided")
        # TypeScript knows the id before the server does.
        while (status := shared_server.request("PATCH", path, answer)[0]) == 404:
            assert worker.is_running, str(worker)
            time.sleep(0.02)
        assert status == 201

        assert waiting.result() == "shipped for 250: yes, says Ada"
        printed = [line for line in worker.lines() if line.startswith("worker: ")]
        assert printed.count("worker: reserves goods for 250") == 1
        assert printed[-1] == "worker: ships"


def test_a_checkout_in_python(shared_server: ServerProcess, tmp_path: Path) -> None:
    check_out(shared_server, tmp_path, works=python(), starts=python())


def test_a_checkout_in_typescript(shared_server: ServerProcess, tmp_path: Path) -> None:
    check_out(shared_server, tmp_path, works=typescript(), starts=typescript())


def test_a_checkout_in_python_that_typescript_starts(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    check_out(shared_server, tmp_path, works=python(), starts=typescript())


def test_a_checkout_in_typescript_that_python_starts(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    check_out(shared_server, tmp_path, works=typescript(), starts=python())
