"""A server of three processes, as clients see it: any of them answers for all."""

import queue
import secrets
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.clients.listening import PushTarget
from tests.helpers.server import ServerProcess
from troth.http.processes.refused_settings import refused_setting
from troth.http.settings.settings import Settings

from .clients import FAR_MS, VERSION, Client, ids_by_group

pytestmark = pytest.mark.newest


@pytest.fixture
def clients(shared_processes: ServerProcess) -> Iterator[list[Client]]:
    """Connections, most likely to all processes."""
    found = [Client(shared_processes) for _ in range(12)]
    yield found
    for one in found:
        one.connection.close()


def test_what_one_has_made_all_can_read_and_complete(clients: list[Client]) -> None:
    ids = [one for group in ids_by_group("order", 4) for one in group]
    for number, identifier in enumerate(ids):
        client = clients[number % len(clients)]
        status, made = client.ask("POST", "/promises", {"id": identifier, "timeout": FAR_MS})
        assert (status, made["id"]) == (201, identifier)
    for client in clients:
        for identifier in ids:
            assert client.ask("GET", f"/promises/{identifier}")[0] == 200
    for number, identifier in enumerate(ids):
        client = clients[(number + 5) % len(clients)]
        status, made = client.ask("PATCH", f"/promises/{identifier}", {"state": "RESOLVED"})
        assert (status, made["state"]) == (201, "RESOLVED")
        assert clients[number % 7].ask("GET", f"/promises/{identifier}")[1] == made
    # Exactly one of them may have it.
    answers = [
        client.ask("POST", "/promises", {"id": ids[0], "timeout": FAR_MS, "strict": True})[0]
        for client in clients
    ]
    assert set(answers) == {409}


def test_a_search_finds_what_all_groups_have(clients: list[Client]) -> None:
    ids = ids_by_group("found", 3)
    prefix = ids[0][0].rpartition("-")[0]
    for identifier in (one for group in ids for one in group):
        assert clients[0].ask("POST", "/promises", {"id": identifier, "timeout": FAR_MS})[0] == 201
    for client in clients[:4]:
        found: list[str] = []
        path = f"/promises?id={prefix}*&limit=4"
        while path:
            _, page = client.ask("GET", path)
            found += [one["id"] for one in page["promises"]]
            path = f"/promises?cursor={page['cursor']}" if page.get("cursor") else ""
        assert sorted(found) == sorted(one for group in ids for one in group)


def test_a_task_waits_for_promises_of_other_groups(clients: list[Client]) -> None:
    """It is claimed, suspended and resumed, whoever is asked."""
    (root, *_), (left, *_), (right, *_) = ids_by_group("root")
    with PushTarget() as worker:
        tags = {"resonate:target": worker.url}
        made = {"id": root, "timeoutAt": FAR_MS, "param": {}, "tags": tags}
        assert clients[0].envelope("promise.create", **made)[0] == 200
        version = worker.next().message["data"]["task"]["version"]
        status, acquired = clients[1].envelope(
            "task.acquire", id=root, version=version, pid="worker", ttl=60_000
        )
        assert status == 200
        version = acquired["task"]["version"]
        for number, identifier in enumerate((left, right)):
            made = {"id": identifier, "timeoutAt": FAR_MS, "param": {}, "tags": {}}
            assert clients[2 + number].envelope("promise.create", **made)[0] == 200
        actions = [
            {
                "kind": "promise.register_callback",
                "head": {"corrId": one, "version": VERSION},
                "data": {"awaited": one, "awaiter": root},
            }
            for one in (left, right)
        ]
        status, said = clients[4].envelope(
            "task.suspend", id=root, version=version, actions=actions
        )
        assert (status, said) == (200, {})
        with pytest.raises(queue.Empty):
            worker.next(0.3)
        status, _ = clients[5].envelope("promise.settle", id=right, state="resolved", value={})
        assert status == 200
        assert worker.next().message["data"]["task"]["id"] == root


def test_an_import_keeps_its_order(shared_processes: ServerProcess, clients: list[Client]) -> None:
    groups = ids_by_group("imported", 4)
    ids = [one for together in zip(*groups, strict=True) for one in together]
    promises = [
        {"id": one, "state": "PENDING", "timeout": FAR_MS, "createdOn": 1, "param": {}}
        for one in ids
    ]
    key = (shared_processes.data / "admin.key").read_text().strip()
    status, said = shared_processes.request(
        "POST", "/admin/import", {"promises": promises}, {"Authorization": f"Bearer {key}"}
    )
    assert (status, {one["result"] for one in said["promises"]}) == (200, {"created"})
    prefix = ids[0].rpartition("-")[0]
    _, page = clients[0].ask("GET", f"/promises?id={prefix}*&limit=100")
    assert [one["id"] for one in page["promises"]] == ids[::-1]


def test_locks_and_schedules_are_one(clients: list[Client]) -> None:
    for number in range(6):
        lock = f"lock-{secrets.token_hex(4)}"
        held = {"resourceId": lock, "executionId": "a", "processId": "p", "ttl": 60_000}
        assert clients[number].ask("POST", "/locks/acquire", held)[0] in (200, 201)
        other = {**held, "executionId": "b"}
        assert clients[number + 1].ask("POST", "/locks/acquire", other)[0] == 403
        gone = {"resourceId": lock, "executionId": "a"}
        assert clients[number + 2].ask("POST", "/locks/release", gone)[0] == 204


def test_usual_settings_are_not_refused() -> None:
    assert refused_setting(Settings()) is None


def test_all_are_ready_or_none(shared_processes: ServerProcess) -> None:
    for _ in range(8):
        with closing(Client(shared_processes).connection) as connection:
            connection.request("GET", "/ready")
            assert connection.getresponse().status == 200
