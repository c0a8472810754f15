"""Clients from generators that need Go and Java: `make clients`.

oapi-codegen's is built and used, openapi-generator's for Python is used; those for Go, Java and
TypeScript are generated. No endpoint may be missing in any. What is downloaded comes through the
Go module proxy and Maven, and stays in their caches. Not in the normal run: the first time takes
minutes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.server import ServerProcess

OAPI_CODEGEN = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.4.1"
OPENAPI_GENERATOR = "7.14.0"
JAR = (
    Path.home()
    / ".m2/repository/org/openapitools/openapi-generator-cli"
    / OPENAPI_GENERATOR
    / f"openapi-generator-cli-{OPENAPI_GENERATOR}.jar"
)
TIMEOUT_S = 900
HERE = Path(__file__).resolve().parent

PYTHON_PROGRAM = """
import sys
import troth_openapi as t
from troth_openapi.exceptions import ForbiddenException

far_ms = 4_102_444_800_000
with t.ApiClient(t.Configuration(host=sys.argv[1])) as client:
    promises, tasks = t.PromisesApi(client), t.TasksApi(client)
    for number in range(7):
        body = t.CreatePromiseBody(id=f"java/found {number}", timeout=far_ms)
        made = promises.create_promise(create_promise_body=body)
    read = promises.read_promise("java/found 0")
    assert (read.id, read.state) == ("java/found 0", "PENDING"), read
    found, given, pages = [], {"id": "java/found*", "limit": 3}, 0
    while given:
        page = promises.search_promises(**given)
        found += page.promises
        pages += 1
        given = {"cursor": page.cursor} if page.cursor else {}
    assert (len(found), pages) == (7, 3), (found, pages)
    tags = {"resonate:invoke": "poll://any@java/worker"}
    body = t.CreatePromiseBody(id="java/work", timeout=far_ms, tags=tags)
    promises.create_promise(create_promise_body=body)
    claim = t.ClaimTaskBody(id="__invoke:java/work", counter=1, processId="w", ttl=60_000)
    assert tasks.claim_task(claim_task_body=claim).type == "invoke"
    try:
        tasks.claim_task(claim_task_body=claim)
    except ForbiddenException as refusal:
        assert refusal.data.error.code == 40305, refusal
    else:
        raise AssertionError("a task is claimed once")
"""


def run(*command: str, directory: Path, path: Path | None = None) -> str:
    """Run a command. Return what it says; end with that if it fails."""
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def missing(operations: set[str], text: str) -> set[str]:
    """The operations that no word of a generated client names, however it spells them."""
    words = {word.replace("_", "").lower() for word in re.findall(r"\w+", text)}
    return {name for name in operations if name.lower() not in words}


def check_go(url: str, operations: set[str], directory: Path) -> None:
    """Generate a client with oapi-codegen, build a program with it and run that."""
    (directory / "client").mkdir(parents=True)
    shutil.copy(HERE / "generated_main.go", directory / "main.go")
    shutil.copy(directory.parent / "openapi.json", directory)
    arguments = ("-generate=types,client", "-package=client", "-o=client/client.gen.go")
    run("go", "run", OAPI_CODEGEN, *arguments, "openapi.json", directory=directory)
    left_out = missing(operations, (directory / "client/client.gen.go").read_text())
    assert not left_out, left_out
    run("go", "mod", "init", "example.com/generated", directory=directory)
    run("go", "mod", "tidy", directory=directory)
    run("go", "run", ".", url, directory=directory)


def check_java(url: str, operations: set[str], directory: Path) -> None:
    """Generate clients with openapi-generator, and use the one for Python."""
    directory.mkdir()
    if not JAR.exists():
        artifact = f"org.openapitools:openapi-generator-cli:{OPENAPI_GENERATOR}"
        get = ("dependency:get", f"-Dartifact={artifact}", "-Dtransitive=false")
        run("mvn", "-q", "-B", *get, directory=directory)
    for language in ("python", "go", "java", "typescript-fetch"):
        arguments = ["-g", language, "-i", "../openapi.json", "-o", language]
        if language == "python":
            arguments += ["--package-name", "troth_openapi"]
        run("java", "-jar", str(JAR), "generate", *arguments, directory=directory)
        files = [file for file in (directory / language).rglob("*") if file.is_file()]
        text = "\n".join(file.read_text(errors="replace") for file in files)
        left_out = missing(operations, text)
        assert not left_out, (language, left_out)
    program = directory / "program.py"
    program.write_text(PYTHON_PROGRAM)
    run(sys.executable, str(program), url, directory=directory, path=directory / "python")


def main() -> None:
    """Run what this machine has the tools for, and say what it was."""
    tools = {"go": check_go, "java": check_java}
    with tempfile.TemporaryDirectory() as name, ServerProcess(Path(name) / "server") as server:
        _, document = server.request("GET", "/openapi.json")
        (Path(name) / "openapi.json").write_text(json.dumps(document))
        paths = document["paths"].values()
        operations = {one["operationId"] for path in paths for one in path.values()}
        for tool, check in tools.items():
            if shutil.which(tool) is None:
                print(f"{tool}: not on this machine")
                continue
            check(server.url, operations, Path(name) / tool)
            print(f"{tool}: {len(operations)} operations, used")


if __name__ == "__main__":
    main()
