"""What a server of three processes says of itself as a whole, whichever process is asked."""

import http.client
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.server import ServerProcess
from troth.http.identity import operator_key
from troth.persistence.snapshots.restoring import Until, restore
from troth.persistence.snapshots.snapshots import verify

from .clients import FAR_MS, Client, ids_by_group

PROCESSES = {"0", "1", "2"}


@pytest.fixture
def clients(shared_processes: ServerProcess) -> Iterator[list[Client]]:
    found = [Client(shared_processes) for _ in range(12)]
    yield found
    for one in found:
        one.connection.close()


@contextmanager
def asked(server: ServerProcess, path: str) -> Iterator[http.client.HTTPResponse]:
    """Send a request on a connection of its own."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)) as connection:
        connection.request("GET", path)
        with closing(connection.getresponse()) as answer:
            yield answer


def test_any_process_shows_the_metrics_of_all(shared_processes: ServerProcess) -> None:
    for _ in range(4):
        with asked(shared_processes, "/metrics") as answer:
            text = answer.read().decode()
        heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(heads) == len(set(heads))
        series = {
            family.name: {sample.labels["process"] for sample in family.samples}
            for family in text_string_to_metric_families(text)
        }
        assert series["troth_process_up"] == PROCESSES
        assert series["troth_promises"] == PROCESSES
        assert series["process_resident_memory_bytes"] == PROCESSES


def test_counts_and_failures_are_of_all(clients: list[Client]) -> None:
    before = clients[0].ask("GET", "/statistics")[1]["counts"]["promises"]
    ids = [one for group in ids_by_group("failed", 2) for one in group]
    for number, name in enumerate(ids):
        client = clients[number]
        client.ask("POST", "/promises", {"id": name, "timeout": FAR_MS})
        assert client.ask("PATCH", f"/promises/{name}", {"state": "REJECTED"})[0] == 201
        time.sleep(0.002)
    for client in clients[:5]:
        status, found = client.ask("GET", "/failures?kind=promise&limit=4")
        assert status == 200
        assert [one["id"] for one in found["failures"]] == ids[:1:-1]
        rest = client.ask("GET", f"/failures?kind=promise&limit=2&before={found['before']}")[1]
        assert [one["id"] for one in rest["failures"]] == ids[1::-1]
        found = client.ask("GET", "/statistics")[1]
        counts = found["counts"]["promises"]
        assert [one["process"] for one in found["processes"]] == [0, 1, 2]
        assert sum(one["promises"] for one in found["processes"]) == sum(counts.values())
        assert counts["rejected"] == before["rejected"] + len(ids)


def test_the_feed_tells_changes_in_all_groups(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    ids = [group[0] for group in ids_by_group("watched")]
    query = "&".join(f"watch={one}" for one in ids)
    with asked(shared_processes, f"/events?topics=counters&{query}") as stream:
        assert stream.status == 200
        while not stream.readline().startswith(b"event: counters"):
            pass  # the other processes have been told by then what is watched
        for name in ids:
            assert clients[0].ask("POST", "/promises", {"id": name, "timeout": FAR_MS})[0] == 201
        missing = set(ids)
        while missing:
            line = stream.readline().decode()
            missing = {one for one in missing if f'"{one}"' not in line}


def test_retention_on_demand_is_tried_in_all_groups(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    key = operator_key.read(shared_processes.data)
    ids = [one for group in ids_by_group("old") for one in group]
    for name in ids:
        tags = {"for": ids[0]}
        body = {"id": name, "timeout": FAR_MS, "tags": tags}
        assert clients[0].ask("POST", "/promises", body)[0] == 201
        assert clients[0].ask("PATCH", f"/promises/{name}", {"state": "RESOLVED"})[0] == 201
    for client in clients[:3]:
        rule = f"resolved:0s:for={ids[0]}"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        sent = json.dumps({"retain": rule, "dryRun": True})
        client.connection.request("POST", "/admin/retention", sent, headers)
        answer = client.connection.getresponse()
        found = json.loads(answer.read())
        assert answer.status == 200, found
        assert (answer.status, [one["count"] for one in found["rules"]]) == (200, [3])


def test_settings_and_the_audit_log_are_one(
    shared_processes: ServerProcess, clients: list[Client]
) -> None:
    key = operator_key.read(shared_processes.data)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def ask(place: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = clients[place].connection
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None

    shown = [ask(place, "GET", "/settings") for place in range(6)]
    assert shown[0][0] == 200
    assert shown == [shown[0]] * 6
    locks = [f"audited-{secrets.token_hex(4)}" for _ in clients]
    for place, lock in enumerate(locks):
        held = {"resourceId": lock, "executionId": "e", "processId": "p", "ttl": 60_000}
        assert clients[0].ask("POST", "/locks/acquire", held)[0] in (200, 201)
        assert ask(place, "POST", "/locks/break", {"resourceId": lock})[0] == 204
    entries = ask(1, "GET", f"/admin/audit?limit={len(locks)}")[1]
    assert [one["resource"] for one in entries] == locks
    assert [one["time"] for one in entries] == sorted(one["time"] for one in entries)


def test_lists_and_causes_are_of_all_groups(clients: list[Client]) -> None:
    groups = ids_by_group("listed", 2)
    ids = [one for group in groups for one in group]
    target = f"poll://any@{groups[0][0]}"
    for name in ids:
        body = {"id": name, "timeout": FAR_MS, "tags": {"resonate:invoke": target}}
        assert clients[0].ask("POST", "/promises", body)[0] == 201
        time.sleep(0.002)
    for client in clients[:4]:
        found: list[str] = []
        path = f"/tasks?receiver={target}&limit=4"
        while path:
            status, page = client.ask("GET", path)
            assert status == 200, page
            found += [one["promiseId"] for one in page["tasks"]]
            path = f"/tasks?cursor={page['cursor']}" if page["cursor"] else ""
        assert found == ids
        for name in ids[::2]:
            status, why = client.ask("GET", f"/why/{name}")
            assert (status, why["cause"]["reason"]) == (200, "no-listener"), why
            assert client.ask("GET", f"/tree/{name}")[0] == 200
            assert client.ask("GET", f"/waiting/{name}")[0] == 200
        assert client.ask("GET", "/timers?limit=3")[0] == 200
        assert client.ask("GET", "/locks")[0] == 200


def test_a_snapshot_of_all_groups_is_restored(
    shared_processes: ServerProcess, clients: list[Client], tmp_path: Path
) -> None:
    """Taken while promises are made; what was there before it is in it."""
    ids = [one for group in ids_by_group("kept", 3) for one in group]
    for name in ids:
        assert clients[0].ask("POST", "/promises", {"id": name, "timeout": FAR_MS})[0] == 201
    key = operator_key.read(shared_processes.data)
    client = clients[4].connection
    client.request("POST", "/admin/snapshot", headers={"Authorization": f"Bearer {key}"})
    answer = client.getresponse()
    content = answer.read()
    assert answer.status == 200, content[:400]
    file = tmp_path / "all.snapshot"
    file.write_bytes(content)
    header = verify(file).header
    assert header is not None
    assert len(header.groups) == 3
    (tmp_path / "new").mkdir()
    restore(file, tmp_path / "new" / "data", until=Until())
    with ServerProcess(tmp_path / "new", "--processes", "3") as server:
        one = Client(server)
        found = [one.ask("GET", f"/promises/{name}")[0] for name in ids]
        one.connection.close()
    assert found == [200] * len(ids)
