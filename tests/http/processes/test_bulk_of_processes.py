"""Bulk jobs of a server of three processes: whichever is asked, a job is about all groups."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.server import ServerProcess

from .clients import FAR_MS, Client, ids_by_group
from .test_gathered import asked

LONG_S = 60.0


@pytest.fixture
def clients(shared_processes: ServerProcess) -> Iterator[list[Client]]:
    """Connections, most likely to all processes."""
    found = [Client(shared_processes) for _ in range(12)]
    yield found
    for one in found:
        one.close()


def run(clients: list[Client], place: int, **body: object) -> Any:
    """Start a job at one process and look at it from others until it has ended."""
    status, made = clients[place].ask("POST", "/bulk", body)
    assert status == 201, made
    ends_s = time.monotonic() + LONG_S
    while True:
        place = (place + 1) % len(clients)
        status, shown = clients[place].ask("GET", f"/bulk/{made['id']}")
        assert status == 200, shown
        if shown["state"] != "running":
            return shown
        assert time.monotonic() < ends_s, shown
        time.sleep(0.05)


def test_promises_of_all_groups_are_deleted(clients: list[Client]) -> None:
    """But those that are pending, and those that a pending origin keeps, wherever it is."""
    done, kept, pending = ids_by_group("gone", 3), ids_by_group("kept"), ids_by_group("pending")
    label = {"for": done[0][0]}
    for place, group in enumerate(done):
        origin = pending[(place + 1) % 3][0]
        assert clients[0].ask("POST", "/promises", {"id": origin, "timeout": FAR_MS})[0] == 201
        tags = {**label, "resonate:origin": origin}
        body = {"id": kept[place][0], "timeout": FAR_MS, "tags": tags}
        assert clients[1].ask("POST", "/promises", body)[0] == 201
        for one in group:
            body = {"id": one, "timeout": FAR_MS, "tags": label}
            assert clients[2].ask("POST", "/promises", body)[0] == 201
        for one in (*group, kept[place][0]):
            assert clients[3].ask("PATCH", f"/promises/{one}", {"state": "RESOLVED"})[0] == 201
    job = {"action": "delete", "filter": {"id": "*", "tags[for]": done[0][0]}}
    dry = run(clients, 0, **job, dryRun=True)
    assert (dry["state"], dry["done"]) == ("finished", 9)
    shown = run(clients, 5, **job)
    assert (shown["done"], shown["skipped"]) == (9, {"originPending": 3})
    for place, group in enumerate(done):
        found = [clients[place].ask("GET", f"/promises/{one}")[0] for one in group]
        assert found == [404, 404, 404]
        assert clients[place].ask("GET", f"/promises/{kept[place][0]}")[0] == 200


def test_stalled_tasks_of_all_groups_are_sent_again(clients: list[Client]) -> None:
    """From the list, from one task's page, and by a job."""
    receiver = f"poll://any@nobody-{secrets.token_hex(4)}"
    ids = [one for group in ids_by_group("stalled", 3) for one in group]
    for one in ids:
        body = {"id": one, "timeout": FAR_MS, "tags": {"resonate:invoke": receiver}}
        assert clients[0].ask("POST", "/promises", body)[0] == 201
    path = f"/tasks?receiver={receiver}&states=stalled&limit=20"
    ends_s = time.monotonic() + LONG_S
    while len(clients[1].ask("GET", path)[1]["tasks"]) < len(ids):
        assert time.monotonic() < ends_s
        time.sleep(0.05)
    for place, one in enumerate(ids):
        status, body = clients[place].ask("POST", "/tasks/retry", {"id": f"__invoke:{one}"})
        assert status == 200, body
    filters = {"receiver": receiver, "states": "stalled"}
    shown = run(clients, 3, action="retry", filter=filters, dryRun=True)
    assert (shown["state"], shown["done"]) == ("finished", len(ids)), shown
    assert len(shown["examples"]) == len(ids)
    shown = run(clients, 4, action="retry", filter=filters)
    assert (shown["done"], shown["total"]) == (len(ids), len(ids)), shown


def test_any_process_tells_how_far_jobs_are(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    """Each by a stream of its own; and any stops one."""
    prefix = f"slow-{secrets.token_hex(4)}"
    for number in range(40):
        body = {"id": f"{prefix}-{number}x", "timeout": FAR_MS}
        assert clients[0].ask("POST", "/promises", body)[0] == 201
    job = {"action": "cancel", "filter": {"id": f"{prefix}*"}, "ratePerSecond": 2}
    status, made = clients[0].ask("POST", "/bulk", job)
    assert status == 201, made
    for _ in range(4):
        with asked(shared_processes, "/events?topics=bulk") as stream:
            while not stream.readline().startswith(b"event: bulk"):
                pass
            event = json.loads(stream.readline().removeprefix(b"data: "))
            (shown,) = [one for one in event["jobs"] if one["id"] == made["id"]]
            assert shown["state"] == "running"
    status, shown = clients[7].ask("DELETE", f"/bulk/{made['id']}")
    assert (status, shown["state"]) == (200, "stopped"), shown
    assert clients[2].ask("DELETE", f"/bulk/{made['id']}")[0] == 409
