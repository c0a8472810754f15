"""The metrics of real servers, as Prometheus's own checker and an operator judge them."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.catalogue.test_trust import Caller
from tests.helpers.promtool import findings
from tests.helpers.server import ServerProcess
from troth.http.metrics.families import Group, MetricKind
from troth.http.metrics.requests import REQUESTS
from troth.http.monitoring.tables import GROUPS

SERIES_LIMIT_COUNT = 700
NAMES = [family.name for group in GROUPS for family in group.families]


def scrape(server: ServerProcess, accept: str = "text/plain") -> bytes:
    answer = Caller(server).send("GET", "/metrics", headers={"accept": accept})
    assert answer.status == 200
    return answer.body


def series(text: bytes) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.decode().splitlines() if line[:1] != "#"}


def load(server: ServerProcess, count: int = 30) -> None:
    """Make promises, tasks that nobody takes, others that fail, and refusals."""
    caller = Caller(server)
    for number in range(count):
        tags = {"resonate:invoke": f"poll://any@group{number}"} if number % 2 else {}
        caller.send("POST", "/promises", {"id": f"p{number}", "timeout": 1 << 60, "tags": tags})
        caller.send("PATCH", f"/promises/p{number - 3}", {"state": "REJECTED"})
    caller.send("GET", "/nothing")


@pytest.mark.parametrize("shards", ["16", "1024"])
def test_promtool_finds_nothing(tmp_path: Path, shards: str) -> None:
    with ServerProcess(tmp_path, "--shards", shards) as server:
        fresh = scrape(server)
        assert findings(fresh) == []
        load(server)
        loaded = scrape(server)
        assert findings(loaded) == []

    assert series(fresh) - series(loaded) == set(), "a series went away"
    without_endpoints = [one for one in series(loaded) if "endpoint=" not in one]
    assert len(without_endpoints) <= SERIES_LIMIT_COUNT
    assert not re.search(r'"p\d+"', loaded.decode()), "an id is in a label"
    shown = {
        sample.name
        for family in text_string_to_metric_families(loaded.decode())
        for sample in family.samples
    }
    missing = [
        name
        for name in NAMES
        if name not in shown
        and f"{name}_count" not in shown
        and not name.startswith(("troth_account_", "troth_retention_deleted"))
    ]
    assert missing == []


def test_counters_only_grow_and_numbers_are_right(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        load(server)
        before = numbers(scrape(server))
        load(server, 10)
        after = numbers(scrape(server))
    counters = {
        family.name
        for group in (*GROUPS, REQUESTS)
        for family in group.families
        if family.kind is MetricKind.COUNTER
    }
    for name, number in before.items():
        if name.partition("{")[0] in counters:
            assert after[name] >= number, name
    assert before['troth_promises{state="pending"}'] == 3
    assert before['troth_promises{state="rejected"}'] == 27
    assert before["troth_queue_waiting" + '{receiver="other"}'] >= 0
    assert before['troth_refused_total{reason="unauthorized"}'] == 0
    assert before["troth_log_failed"] == 0
    assert before["troth_ready"] == 1
    assert before["troth_data_free_bytes"] > 1_000_000


def numbers(text: bytes) -> dict[str, float]:
    return {
        name: float(number)
        for name, _, number in (
            line.rpartition(" ") for line in text.decode().splitlines() if line[:1] != "#"
        )
    }


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_what_operators_read_is_a_sentence(group: Group[object]) -> None:
    for family in group.families:
        assert re.fullmatch(r"troth_[a-z_]+", family.name), family.name
        assert family.help.endswith("."), family.name
        assert family.help[0].isupper() or family.help[0].isdigit(), family.name
        assert family.name.endswith("_total") is (family.kind is MetricKind.COUNTER), family.name
        assert not re.search(r"_(ms|count|secs|mb)(_|$)", family.name), family.name
        assert family.labels or family.kind is not MetricKind.INFO, family.name


def test_names_are_there_once() -> None:
    assert sorted(NAMES) == sorted(set(NAMES))
