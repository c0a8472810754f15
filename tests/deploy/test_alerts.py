"""Alerts and the dashboard, with a real Prometheus that watches a real server: they fire, and end.

The server's disk is small, its receiver is killed, its worker hangs. Grafana is not at hand where
the tests run: what its panels ask is asked of Prometheus.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.catalogue.test_trust import Caller, Receiver
from tests.helpers.prometheus import RULES, Prometheus
from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.helpers.tools import root_needed
from tests.proofs.support import small_disk

pytestmark = pytest.mark.slow

DASHBOARD: Final = ROOT / "deploy" / "grafana" / "troth.json"
DISK_BYTES: Final = 64 * 2**20
LEFT_BYTES: Final = 2 * 2**20
FAR_MS: Final = 1 << 60
EXPECTED: Final = {
    *("TrothDiskFull", "TrothReceiverFailing", "TrothLeasesRunOut", "TrothNoWorkers"),
}


class Watched(NamedTuple):
    """A server on a small disk, and who watches it."""

    caller: Caller
    place: Path
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root_needed("mount a small disk")
    directory = tmp_path_factory.mktemp("watched")
    place = directory / "server"
    settings = ("--segment-bytes", "262144", "--task-retry-first-ms", "100")
    with small_disk(place, DISK_BYTES) as is_mounted:
        assert is_mounted, "root may mount a disk"
        with (
            ServerProcess(place, *settings, "--task-retry-limit-ms", "5000") as server,
            Prometheus(directory / "prometheus", int(server.url.rpartition(":")[2])) as prometheus,
        ):
            prometheus.wait_scraped()
            yield Watched(Caller(server), place, prometheus)


class KilledReceiver:
    """A receiver of pushes that can be killed and brought back on the same port."""

    def __init__(self) -> None:
        self._port = 0
        self._running: tuple[Receiver, threading.Thread] | None = None

    def start(self) -> str:
        """Let it take messages; return its URL."""
        made = Receiver(self._port)
        self._port = made.server_port
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        self._running = made, thread
        return made.url

    def kill(self) -> None:
        """Let it refuse connections."""
        assert self._running is not None
        made, thread = self._running
        made.shutdown()
        made.server_close()
        thread.join()
        self._running = None


def create(caller: Caller, promise_id: str, receiver: str | None = None) -> None:
    tags = {} if receiver is None else {"resonate:invoke": receiver}
    body = {"id": promise_id, "timeout": FAR_MS, "tags": tags}
    assert caller.send("POST", "/promises", body).status == 201


def complete(caller: Caller, promise_id: str) -> None:
    assert caller.send("PATCH", f"/promises/{promise_id}", {"state": "RESOLVED"}).status == 201


def claim(caller: Caller, promise_id: str, ttl_ms: int) -> None:
    body = {"id": f"__invoke:{promise_id}", "counter": 1, "processId": "w", "ttl": ttl_ms}
    claimed = caller.send("POST", "/tasks/claim", body)
    assert claimed.status == 201, claimed.body


def test_alerts_on_a_real_server(watched: Watched) -> None:
    caller, place, prometheus = watched
    receiver = KilledReceiver()
    url = receiver.start()
    try:
        create(caller, "pushed", url)
        prometheus.wait_resolved()

        receiver.kill()
        create(caller, "not-pushed", url)
        create(caller, "hanging", "poll://any@hung")
        claim(caller, "hanging", 1_000)
        filler = place / "filler"
        filler.write_bytes(bytes(DISK_BYTES - LEFT_BYTES - used_bytes(place)))
        seen = prometheus.wait_firing(EXPECTED)
        for name in EXPECTED:
            texts = json.dumps(seen[name])
            assert "<error" not in texts, texts
            assert "<no value>" not in texts, texts
        assert "poll://hung" in seen["TrothNoWorkers"]["summary"]
        assert "http://127.0.0.1" in seen["TrothReceiverFailing"]["summary"]

        filler.unlink()
        receiver.start()
        complete(caller, "hanging")
        for number in range(40):  # so that one lost lease is few among many attempts
            create(caller, f"done-{number}", "poll://any@hung")
            claim(caller, f"done-{number}", 60_000)
            complete(caller, f"done-{number}")
        prometheus.wait_resolved()
    finally:
        if receiver._running is not None:
            receiver.kill()


def used_bytes(place: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


def panels() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def test_every_panel_has_data(watched: Watched) -> None:
    """Each query of the dashboard gives a series, of a server that has done something."""
    create(watched.caller, "one-more")
    watched.prometheus.wait_scraped()
    queries = [
        (panel["title"], filled(target["expr"]))
        for panel in panels()
        for target in panel["targets"]
    ]
    assert len(queries) >= len(panels())
    assert [query for query in queries if not watched.prometheus.series(query[1])] == []


def test_rules_are_judged_without_errors(watched: Watched) -> None:
    groups = watched.prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULES.read_text().count("- alert: ")
    assert {rule["name"]: rule["health"] for rule in rules} == {
        rule["name"]: "ok" for rule in rules
    }


def filled(query: str) -> str:
    """A query as Grafana asks it, with all jobs and instances chosen."""
    for name, value in (("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m")):
        query = query.replace(name, value)
    assert "$" not in query, query
    return query
