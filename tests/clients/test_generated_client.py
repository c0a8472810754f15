"""A client that openapi-python-client generates from `/openapi.json`, used as one would.

Every endpoint must be in it. It creates, reads, searches to the last page, claims and is refused.
`make clients` does the same with generators that need Go and Java.
"""

import contextlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.server import ServerProcess

PACKAGE: Final = "generated_troth_client"
FAR_MS: Final = 4_102_444_800_000
LEFT_OUT: Final[frozenset[str]] = frozenset()
"""Operations that the generator leaves out: none. Any other fails the test."""

# Bodies that are not JSON are bytes to a client, whatever is in them.
SETTINGS: Final = """\
content_type_overrides:
  "*/*": application/octet-stream
  application/zip: application/octet-stream
  text/event-stream: application/octet-stream
post_hooks: []
"""


class GeneratedClient:
    """The generated package, and its client of one server."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory / PACKAGE
        self._client = self._part("client", "Client")(base_url=url)

    def _part(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)

    def close(self) -> None:
        """Close its connections."""
        self._client.get_httpx_client().close()

    def body(self, name: str, content: dict[str, Any]) -> Any:
        """Make a body of a generated class."""
        return self._part("models", name).from_dict(content)

    def call(self, operation: str, *path: object, **given: object) -> tuple[int, Any]:
        """Call an operation, `group.name`; the status, and what the client makes of the answer."""
        function = self._part(f"api.{operation}", "sync_detailed")
        answer = function(*path, client=self._client, **given)
        return int(answer.status_code), answer.parsed


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)


@pytest.fixture(scope="module")
def document(shared_server: ServerProcess) -> dict[str, Any]:
    """The server's description."""
    status, described = shared_server.request("GET", "/openapi.json")
    assert status == 200
    found: dict[str, Any] = described
    return found


@pytest.fixture(scope="module")
def generated(
    shared_server: ServerProcess,
    document: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GeneratedClient]:
    """Generate the package and make it importable."""
    directory = tmp_path_factory.mktemp("generated")
    (directory / "settings.yml").write_text(SETTINGS)
    (directory / "openapi.json").write_text(json.dumps(document))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("openapi-python-client")),
            "generate",
            "--path=openapi.json",
            "--config=settings.yml",
            "--meta=none",
            f"--output-path={PACKAGE}",
            "--fail-on-warning",
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(directory))
    try:
        with contextlib.closing(GeneratedClient(directory, shared_server.url)) as client:
            yield client
    finally:
        sys.path.remove(str(directory))
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]


@pytest.mark.slow
def test_the_client_has_every_endpoint(
    generated: GeneratedClient, document: dict[str, Any]
) -> None:
    operations = {
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    }
    modules = {
        file.stem
        for file in (generated.directory / "api").glob("*/*.py")
        if file.stem != "__init__"
    }

    assert {_snake(name) for name in operations - LEFT_OUT} == modules
    assert operations >= LEFT_OUT


@pytest.mark.slow
def test_all_of_the_client_can_be_imported(generated: GeneratedClient) -> None:
    files = sorted((generated.directory / "api").glob("*/*.py"))
    for file in files:
        module = ".".join(file.with_suffix("").relative_to(generated.directory.parent).parts)
        importlib.import_module(module)

    assert len(files) > 60


@pytest.mark.slow
def test_a_promise_is_created_and_read(generated: GeneratedClient) -> None:
    tags = {"team": "generated"}
    param = {"headers": {"kind": "greeting"}, "data": "aGk="}
    wanted = {"id": "generated/made 1", "timeout": FAR_MS, "tags": tags, "param": param}
    body = generated.body("CreatePromiseBody", wanted)
    status, made = generated.call("promises.create_promise", body=body)
    again, read = generated.call("promises.read_promise", "generated/made 1")

    assert (status, again) == (201, 200)
    assert read.to_dict() == made.to_dict()
    assert read.to_dict() == {
        **wanted,
        "state": "PENDING",
        "value": {},
        "createdOn": read.created_on,
    }


@pytest.mark.slow
def test_a_search_is_followed_to_its_last_page(generated: GeneratedClient) -> None:
    wanted = [f"generated/found-{number}" for number in range(7)]
    for promise_id in wanted:
        body = generated.body("CreatePromiseBody", {"id": promise_id, "timeout": FAR_MS})
        assert generated.call("promises.create_promise", body=body)[0] == 201
    found: list[str] = []
    given: dict[str, Any] = {"id": "generated/found-*", "limit": 3}
    pages_count = 0
    while given:
        status, page = generated.call("promises.search_promises", **given)
        assert status == 200
        pages_count += 1
        found += [promise.id for promise in page.promises]
        given = {"cursor": page.cursor} if page.cursor else {}

    assert found == wanted[::-1]
    assert pages_count == 3
    assert page.cursor is None


@pytest.mark.slow
def test_a_task_is_claimed_once(generated: GeneratedClient) -> None:
    routed = {"resonate:invoke": "poll://any@generated/worker"}
    wanted = {"id": "generated/work", "timeout": FAR_MS, "tags": routed}
    body = generated.body("CreatePromiseBody", wanted)
    assert generated.call("promises.create_promise", body=body)[0] == 201
    claim = {"id": "__invoke:generated/work", "counter": 1, "processId": "w", "ttl": 60_000}
    body = generated.body("ClaimTaskBody", claim)
    status, claimed = generated.call("tasks.claim_task", body=body)
    refused, refusal = generated.call("tasks.claim_task", body=body)

    assert status == 201
    assert claimed.type_.value == "invoke"
    assert claimed.promises.root.data.id == "generated/work"
    assert refused == 403
    assert refusal.error.code == 40305
    assert refusal.error.details[0].domain.value == "request"


@pytest.mark.slow
def test_what_is_wrong_is_refused_field_by_field(generated: GeneratedClient) -> None:
    body = generated.body("CreatePromiseBody", {"id": "", "param": {"data": "?"}})
    status, refusal = generated.call("promises.create_promise", body=body)

    assert status == 400
    assert refusal.error.code == 40000
    fields = [detail.metadata.field for detail in refusal.error.details]
    assert fields == ["id", "param.data"]
