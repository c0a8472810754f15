"""The history file: what a line keeps, when a scenario is slower, and what the command says."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.test_comparison import report
from troth.bench.client import BenchError
from troth.bench.machine import environment
from troth.bench.reports import history
from troth.bench.reports.history import BEFORE_COUNT, WINDOW_COUNT, HistoryLine, Measured, trends
from troth.bench.reports.page import make_history_page
from troth.bench.results import Report
from troth.cli import command as cli

TITLE = "create, 64 conn."


def line(share: float | None, version: str = "1", title: str = TITLE) -> HistoryLine:
    point = Measured(1000.0, share, 40.0, 3.0, 1)
    return HistoryLine("2026-11-30T10:00:00Z", version, "abc", "a machine", {title: point})


def shares(*found: float | None) -> list[HistoryLine]:
    return [line(share) for share in found]


@pytest.mark.parametrize(
    ("found", "is_slower"),
    [
        ([0.4] * BEFORE_COUNT + [0.33], True),
        ([0.4] * BEFORE_COUNT + [0.35], False),
        ([0.4] * (BEFORE_COUNT - 1) + [0.1], False),  # too few to tell
        ([0.4, 0.4, 0.1, 0.4, 0.4, 0.39], False),  # one busy hour changes no median
        ([None] * BEFORE_COUNT + [0.1], False),
        ([0.4] * BEFORE_COUNT + [None], False),
        ([0.4] * 50 + [0.3] * WINDOW_COUNT + [0.29], False),  # the measure has moved on
    ],
)
def test_a_scenario_is_slower_by_its_share_of_the_echo(
    found: list[float | None], is_slower: bool
) -> None:
    (trend,) = trends(shares(*found))

    assert trend.is_slower is is_slower


def test_only_the_same_scenario_with_the_same_connections_is_compared() -> None:
    entries = [*shares(0.4, 0.4, 0.4, 0.4), line(0.1, title="create, 16 conn.")]

    (trend,) = trends(entries)
    assert trend.ratio is None


def test_a_line_has_the_medians_of_the_runs_without_errors(tmp_path: Path) -> None:
    made = report([100.0, 300.0, 200.0])
    made.environment.update(environment())
    for run in made.scenarios[0].runs:
        run.echo_throughput, run.server_share, run.errors = 1000.0, 0.5, {}
    entry = history.entry_of(made, "abc")

    (point,) = entry.scenarios.values()
    assert (point.throughput, point.echo_share, point.runs_count) == (200.0, 0.2, 3)
    assert point.server_us == 2500.0
    file = tmp_path / "h.jsonl"
    history.append(file, entry)
    history.append(file, entry)
    assert history.read(file) == [entry, entry]
    made.scenarios[0].runs[1].errors = {"refused": 1}
    assert history.entry_of(made, "").scenarios == {}


def test_a_line_that_was_cut_short_is_not_there_and_goes(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    history.append(file, line(0.4))
    file.write_bytes(file.read_bytes() + b'{"format":1,"at":"20')

    assert history.read(file) == [line(0.4)]
    history.append(file, line(0.5))
    assert history.read(file) == [line(0.4), line(0.5)]


@pytest.mark.parametrize("content", ["nonsense\n", "[]\n", '{"format":2}\n', "{}\n", "\n"])
def test_another_file_is_refused_by_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    history.append(file, line(0.4))
    file.write_text(file.read_text() + content)

    with pytest.raises(BenchError, match="line 2"):
        history.read(file)


def test_the_command_shows_draws_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "h.jsonl", tmp_path / "h.html"
    for entry in [*shares(*[0.4] * BEFORE_COUNT), line(0.2, version="2")]:
        history.append(file, entry)
    command = ["bench", "history", "--history", str(file), "--html", str(page)]

    assert cli.run(command) == 0
    assert cli.run([*command, "--fail-if-worse"]) == 1
    shown = capsys.readouterr().out
    assert "slower" in shown
    assert "0.5" in shown
    drawn = page.read_text()
    ElementTree.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + len("</svg>")])
    assert cli.run(["bench", "history"]) == 2
    assert cli.run(["bench", "history", "create", "--history", str(file)]) == 2
    assert cli.run(["bench", "history", "--history", str(tmp_path / "none")]) == 1


def test_an_empty_history_is_drawn() -> None:
    assert "0 measurements" in make_history_page([])
    assert trends([]) == []


@pytest.mark.slow
def test_a_measurement_adds_a_line(tmp_path: Path) -> None:
    file, results = tmp_path / "h.jsonl", tmp_path / "r.json"
    command = ["bench", "create", "-c", "4", "-d", "0.5", "--warm-up", "0", "--no-pin"]

    assert cli.run([*command, "--history", str(file), "--json", str(results)]) == 0

    (entry,) = history.read(file)
    (found,) = Report.load(results).scenarios
    assert entry.scenarios[found.title].throughput == round(found.typical.throughput, 1)
    assert entry.scenarios[found.title].echo_share is not None
    assert json.loads(file.read_text())["commit"] == history.commit_here()
