"""The alert rules and the dashboard as files: sound, about metrics that exist, and explained."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.test_alerts import DASHBOARD, filled, panels
from tests.deploy.test_containers import parsed
from tests.helpers.prometheus import RULES
from tests.helpers.promtool import rules_problem
from tests.helpers.repository import ROOT
from troth.http.metrics.families import MetricKind
from troth.http.metrics.of_processes import PROCESSES
from troth.http.monitoring.stream_metrics import STREAM
from troth.http.monitoring.tables import GROUPS

UNITS: Final = sorted((RULES.parent / "tests").glob("*.yml"))
PAGES: Final = ROOT / "docs" / "operate" / "alerts"
PANELS_LIMIT_COUNT: Final = 24
BAD: Final = '{instance="bad"}'
OTHERS: Final = {
    *("up", "process_cpu_seconds_total", "process_resident_memory_bytes"),
}
"""Metrics that are not Troth's own."""


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def shown_names() -> Iterator[str]:
    """The names of all series that a server may show."""
    for group in (*GROUPS, STREAM, PROCESSES):
        for family in group.families:
            yield family.name
            if family.kind is MetricKind.HISTOGRAM:
                yield from (f"{family.name}_{end}" for end in ("bucket", "sum", "count"))


def asked_names(query: str) -> set[str]:
    """The metrics that a query asks for."""
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\([a-z, ]*\)", " ", query)
    words = set(re.findall(r"\b[a-z][a-z_]+\b", plain))
    return {word for word in words if word.startswith("troth_") or word in OTHERS}


def labels_asked(query: str) -> Iterator[tuple[str, str, list[str]]]:
    """The labels that a query names values of: metric, label, values."""
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", query):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            yield name, label, values.split("|")


def test_rules_check() -> None:
    assert rules_problem("check", "rules", RULES) == ""


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_rules_unit(path: Path) -> None:
    assert rules_problem("test", "rules", path) == ""


def test_every_alert_has_a_unit_test() -> None:
    """One that sees it fire, and not just before; a test that cannot fail is found."""
    tested = [test for path in UNITS for test in yaml.safe_load(path.read_text())["tests"]]
    assert sorted(test["name"] for test in tested) == sorted(rule["alert"] for rule in rules())
    for test in tested:
        steps = test["promql_expr_test"]
        assert all(f'alertname="{test["name"]}"' in step["expr"] for step in steps)
        fires = [BAD in [one["labels"] for one in step.get("exp_samples", [])] for step in steps]
        assert fires[:1] == [False], f"{test['name']} fires at once"
        assert True in fires, f"{test['name']} never fires"


def test_a_rule_that_waits_longer_fails_its_test(tmp_path: Path) -> None:
    late = RULES.read_text().replace("for: 1m", "for: 2m", 1)
    (tmp_path / "alerts.yml").write_text(late)
    (tmp_path / "tests").mkdir()
    unit = tmp_path / "tests" / "server.yml"
    unit.write_text((RULES.parent / "tests" / "server.yml").read_text())
    assert "TrothDown" in rules_problem("test", "rules", unit)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_explained(rule: dict[str, Any]) -> None:
    """It says what happened, with numbers, and has a page with commands that exist."""
    name = rule["alert"]
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "{{" in notes["description"]
    assert notes["runbook_url"].endswith(f"/operate/alerts/{name}/")
    page = (PAGES / f"{name}.md").read_text()
    severity = rule["labels"]["severity"].capitalize()
    assert page.startswith(f"# {name}\n\n**{severity}.** ")
    for heading in ("## What it means", "## How to look", "## What to do"):
        assert heading in page
    commands = re.findall(r"`troth ([^`]+)`", page)
    for command in commands:
        parsed(command.split())
    asked = set(re.findall(r"`(troth_\w+)`", page))
    assert asked <= set(shown_names())


def test_pages_are_listed() -> None:
    names = {rule["alert"] for rule in rules()}
    assert {path.stem for path in PAGES.glob("Troth*.md")} == names
    index = (PAGES / "index.md").read_text()
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert {name for name in names if f"]({name}.md)" not in index} == set()
    assert {name for name in names if f"operate/alerts/{name}.md" not in navigation} == set()


def test_queries_use_existing_metrics() -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [rule["expr"] for rule in rules()]
    known = {*shown_names(), *OTHERS}
    labels = {
        **{family.name: set(family.labels) for group in GROUPS for family in group.families},
    }
    for query in queries:
        names = asked_names(filled(query))
        assert names, query
        assert names <= known, query
        for name, label, _ in labels_asked(query):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            own = labels.get(name, labels.get(base, set()))
            assert label in {*own, "job", "instance"}, query


def test_panels_show_one_line_for_a_server_of_several_processes() -> None:
    """All series have a label `process` then; what is shown has none."""
    for panel in panels():
        for target in panel["targets"]:
            outermost = re.match(r"(sum|min|max|histogram_quantile)\b", target["expr"])
            assert outermost, (panel["title"], target["expr"])
            assert "process" not in re.sub(r"troth_process_up|process_\w+", "", target["expr"])


def test_dashboard_schema() -> None:
    document = json.loads(DASHBOARD.read_text())
    every = document["panels"]
    rows = [panel["title"] for panel in every if panel["type"] == "row"]
    assert rows == ["Is it well?", "Work", "Disk", "Machine"]
    assert len(panels()) <= PANELS_LIMIT_COUNT
    identifiers = [panel["id"] for panel in every]
    assert len(set(identifiers)) == len(identifiers)
    variables = {one["name"]: one["type"] for one in document["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query"}
    sources = set(re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text()))
    assert sources == {"${datasource}", document["uid"]}, "a data source is fixed"
    assert len({panel["title"] for panel in every}) == len(every)
    alerts = {rule["alert"] for rule in rules()}
    named: set[str] = set()
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        text, _, belonging = panel["description"].partition(" Alert: ")
        assert text.endswith((".", "?")), panel["title"]
        own = set(belonging.removesuffix(".").split(", "))
        assert own <= alerts, panel["title"]
        named |= own
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )
        for target in panel["targets"]:
            assert 'job=~"$job", instance=~"$instance"' in target["expr"]
            assert target["legendFormat"]
    assert named == alerts, "an alert has no panel"
    places = [tuple(panel["gridPos"].values()) for panel in every]
    assert len(set(places)) == len(places), "two panels are at one place"
