"""The metrics of real servers, as Prometheus's own checker and an operator judge them."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.catalogue.test_trust import Caller
from tests.docs.reference import metrics_page
from tests.helpers.promtool import findings
from tests.helpers.server import ServerProcess
from troth.http.metrics.families import Group, MetricKind
from troth.http.monitoring.tables import GROUPS

NAMES = [family.name for group in GROUPS for family in group.families]
COUNTERS = {
    family.name
    for group in GROUPS
    for family in group.families
    if family.kind is MetricKind.COUNTER
}
NODE = "5f0c1f6e-1111-4222-8333-0123456789ab"
SECRETS = ("secret-", "team", NODE)


class Scrape(NamedTuple):
    """What a server said at one moment of its life."""

    when: str
    text: bytes

    @property
    def numbers(self) -> dict[str, float]:
        """The series and their values."""
        return {
            name: float(number)
            for name, _, number in (
                line.rpartition(" ") for line in self.text.decode().splitlines() if line[:1] != "#"
            )
        }


def load(caller: Caller, count: int, key: dict[str, str] | None = None) -> None:
    """Make promises, tasks that no worker takes, others that fail, and refusals."""
    for number in range(count):
        name = f"secret-{number}"
        tags = {"resonate:invoke": f"poll://any@group{number}"} if number % 2 else {}
        caller.send("POST", "/promises", {"id": name, "timeout": 1 << 60, "tags": tags}, key)
        caller.send("PATCH", f"/promises/secret-{number - 3}", {"state": "REJECTED"}, key)
    caller.send("GET", "/nothing")


@pytest.fixture(scope="module", params=["16", "1024"])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Scrape]:
    """Scrapes through the life of a server: fresh, loaded, with an account and a node."""
    directory = tmp_path_factory.mktemp("life")
    scrapes = []
    with ServerProcess(directory, "--shards", request.param) as server:
        caller = Caller(server)
        admin: dict[str, str] = {}

        def scrape(when: str) -> None:
            answer = caller.send("GET", "/metrics", headers={**admin, "accept": "text/plain"})
            assert answer.status == 200
            scrapes.append(Scrape(when, answer.body))

        scrape("fresh")
        load(caller, 30)
        scrape("loaded")
        made = caller.send("POST", "/admin/accounts", {"name": "team"}, caller.key)
        assert made.status == 201
        node = {"languages": ["PY"], "tags": ["secret-tag"]}
        registered = caller.send("POST", f"/v1/node/{NODE}", node, caller.token("node"))
        assert registered.status < 300, registered.body
        admin = caller.token("admin", "metrics:read")
        assert caller.send("GET", "/promises/secret-1").status == 401
        load(caller, 10, caller.token("promises:read", "promises:write"))
        scrape("with accounts")
    return scrapes


def test_promtool_finds_nothing(life: list[Scrape]) -> None:
    assert {one.when: findings(one.text) for one in life} == {one.when: [] for one in life}


def test_series_do_not_go(life: list[Scrape]) -> None:
    for before, after in pairwise(life):
        assert before.numbers.keys() - after.numbers.keys() == set()


def test_counters_only_grow(life: list[Scrape]) -> None:
    for before, after in pairwise(life):
        for name, number in before.numbers.items():
            if name.partition("{")[0] in COUNTERS or "_bucket{" in name:
                assert after.numbers[name] >= number, name


def test_ids_do_not_leak(life: list[Scrape]) -> None:
    """No id, tag, token or account is in a label; the accounts are shown to administrators."""
    for one in life:
        for line in one.text.decode().splitlines():
            if not line.startswith(("#", "troth_account_")):
                assert not [secret for secret in SECRETS if secret in line], line


def test_numbers_are_right(life: list[Scrape]) -> None:
    numbers = life[1].numbers
    expected = {
        'troth_promises{state="pending"}': 3,
        'troth_promises{state="rejected"}': 27,
        'troth_promises_created_total{by="client"}': 30,
        'troth_promises_created_total{by="schedule"}': 0,
        'troth_promises_completed_total{by="client",state="rejected"}': 27,
        'troth_promises_completed_total{by="timeout",state="rejected"}': 0,
        'troth_promise_duration_seconds_count{state="rejected"}': 27,
        'troth_task_attempts_total{outcome="expired"}': 0,
        'troth_task_wait_seconds_count{receiver="other"}': 0,
        'troth_schedules{state="paused"}': 0,
        'troth_refused_total{reason="unauthorized"}': 0,
        'troth_http_streams{kind="events"}': 0,
        "troth_log_failed": 0,
        "troth_sessions": 0,
        "troth_ready": 1,
    }
    assert {name: numbers.get(name) for name in expected} == expected
    assert numbers["troth_data_free_bytes"] > 1_000_000
    assert life[2].numbers['troth_auth_failures_total{reason="wrong"}'] == 0
    assert life[2].numbers['troth_refused_total{reason="unauthorized"}'] == 1


def test_every_metric_documented(life: list[Scrape]) -> None:
    """All that is shown is in the table, and all of the table is shown and in the reference."""
    shown = {
        family.name + "_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(life[2].text.decode())
        if family.name.startswith("troth_")
    }
    page = metrics_page()
    assert [name for name in NAMES if f"`{name}`" not in page] == []
    infos = {family.name for group in GROUPS for family in group.families if family.labels}
    assert {name for name in NAMES if name not in shown} - infos == set()
    assert {name for name in shown if name not in NAMES} == set()


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


@pytest.fixture(scope="module")
def shards_listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """A scrape of a server that lists its shards."""
    with ServerProcess(tmp_path_factory.mktemp("shards"), "--metrics-per-shard") as server:
        caller = Caller(server)
        load(caller, 30)
        yield Scrape("loaded", caller.send("GET", "/metrics").body)


def test_shards_are_listed_if_an_operator_wants_it(shards_listed: Scrape) -> None:
    assert findings(shards_listed.text) == []
    pending = [
        number
        for name, number in shards_listed.numbers.items()
        if re.fullmatch(r'troth_promises\{shard="\d+",state="pending"\}', name)
    ]
    assert (len(pending), sum(pending)) == (16, 3)
