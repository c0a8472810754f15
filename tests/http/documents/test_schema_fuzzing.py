"""schemathesis reads `/openapi.json` and tries to find a request that contradicts it.

Streams are left out: they do not end. So is `POST /`, whose data depends on the kind: it has
vectors and clients of its own. So are requests that schemathesis derives from earlier answers: it
puts any id into the header Request-Id, which its own client cannot send.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.seeds import seeds_count
from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client, new_client
from tests.helpers.zips import plain_zip

HERE = Path(__file__).resolve().parent / "schemathesis"
SEED = 20261121
EXAMPLES_COUNT = seeds_count(4, 10)


@pytest.mark.slow
@pytest.mark.seeds
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    # Bulk jobs that it starts would cancel what other tests wait for.
    with ServerProcess(tmp_path / "server") as server:
        fuzz(server, tmp_path, "--exclude-path-regex=^/($|poll|events|v1)")


@pytest.mark.slow
@pytest.mark.seeds
def test_schemathesis_finds_nothing_about_functions(tmp_path: Path) -> None:
    # It tries wrong credentials too, more often than is good for one address.
    with ServerProcess(tmp_path / "server", "--failed-attempts-limit-count=0") as server:
        client = new_client(server, "fuzzer")
        ids = what_is_there(client)
        options = ("--exclude-path-regex=/work$", f"--header=Authorization:{client.secret}")
        fuzz(server, tmp_path, "--include-path-regex=^/v1/", *options, ids=ids)


def what_is_there(client: Client) -> dict[str, str]:
    """Make one of everything; the ids by the names of paths' parameters.

    The task is canceled: whoever waits for its result need not.
    """
    node_id = "1a061cfd-df01-4b02-a067-5122c5941e15"
    wanted = {"name": "f", "type": "CODE", "lang": "PY"}
    function_id = client.json("POST", "/v1/function", wanted)["id"]
    build_id = client.build(function_id, plain_zip({"handler.py": "def handle(a, b): pass\n"}))
    assert client.checked(build_id)["status"] == "SUCCESS"
    task_id = client.json("POST", f"/v1/task/{function_id}")["id"]
    for method, path, body in (
        ("DELETE", f"/v1/task/{task_id}", None),
        ("POST", f"/v1/node/{node_id}", {"languages": ["PY"]}),
    ):
        status, answer = client.send(method, path, body)
        assert status in {201, 204}, answer
    return {
        "functionId": function_id,
        "buildId": build_id,
        "tagId": client.json("POST", "/v1/tag", {"name": "t"})["id"],
        "id": task_id,
        "hash": node_id,
    }


def fuzz(
    server: ServerProcess, directory: Path, *options: str, ids: dict[str, str] | None = None
) -> None:
    """Let schemathesis look at a server. Fails with what it has found."""
    arguments = [
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        f"{server.url}/openapi.json",
        *options,
        "--phases=examples,coverage,fuzzing",
        f"--max-examples={EXAMPLES_COUNT}",
        f"--seed={SEED}",
        "--request-timeout=10",
        "--no-color",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONWARNINGS": "default",
        "TROTH_FUZZED_IDS": json.dumps(ids or {}),
    }
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-20_000:] + finished.stderr
