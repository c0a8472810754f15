"""`troth bench` as its users call it, with a real server behind it; what goes wrong is said."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.helpers.server import ServerProcess
from troth.bench.comparison import compare
from troth.bench.reports.page import make_page
from troth.bench.reports.svg import Chart, Series, draw
from troth.bench.results import Report
from troth.bench.scenarios.table import MIXABLE, PUBLIC
from troth.cli import command as cli

from .test_comparison import report

SHORT = ("-d", "0.5", "--warm-up", "0.1", "-c", "4", "--keys", "20", "--holders", "10")


@pytest.mark.slow
def test_every_scenario_works_against_our_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "r.json", tmp_path / "r.html"
    outputs = ("--json", str(file), "--html", str(page))
    with ServerProcess(tmp_path / "server") as server:
        where = ("--url", server.url, "--poll-url", server.poll_url)
        options = (*SHORT, "--no-ceilings", "--no-pin", "--fan-out", "5", *where)
        process = str(server.process_id)

        assert cli.run(["bench", *PUBLIC, *options, "--pid", process, *outputs]) == 0

    found = Report.load(file)
    assert [one.scenario for one in found.scenarios] == list(PUBLIC)
    for one in found.scenarios:
        (run,) = one.runs
        assert run.errors == {}, one.title
        assert run.throughput > 0, one.title
        assert (run.server_memory_bytes or 0) > 10**6
    tasks, step, workflow = (
        next(one for one in found.scenarios if one.scenario == name).runs[0]
        for name in ("tasks", "step", "workflow")
    )
    assert set(tasks.steps_ms) == {"create", "claim", "complete", "delivery"}
    assert set(step.steps_ms) == {*tasks.steps_ms, "subscribe", "notify"}
    assert set(workflow.steps_ms) == {*step.steps_ms, "create step", "complete step"}
    shown = capsys.readouterr().out
    assert all(f"\n{name}, 4 conn." in shown for name in PUBLIC)
    assert "<svg" in page.read_text()


@pytest.mark.slow
def test_studies_and_a_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix, file = tmp_path / "mix.toml", tmp_path / "r.json"
    mix.write_text(
        "options = {duration = 0.5, warm-up = 0, connections = [1, 2], keys = 10, pin = false}\n"
        "mix = {read = 3, locks = 1}\n"
    )
    studies = ("memory", "recovery", "timers")
    sizes = ("--counts", "50,100", "--timers", "200", "--samples", "20", "--window", "1")
    options = ("--no-ceilings", "--load-rate", "50", "--json", str(file))

    assert cli.run(["bench", "mixed", *studies, "--file", str(mix), *sizes, *options]) == 0

    found = Report.load(file)
    assert [one.connections for one in found.scenarios] == [1, 2]
    assert set(found.scenarios[1].runs[0].steps_ms) == {
        *("read: read", "locks: acquire", "locks: release")
    }
    assert [row["promises stored"] for row in found.studies["recovery"]] == [50, 100]
    assert [row["pending promises"] for row in found.studies["memory"]] == [50, 100]
    (timers,) = found.studies["timers"]
    assert timers["samples"] == 20
    assert timers["lost"] == 0
    assert timers["server: timer p99 at most, ms"] is not None
    assert "after kill -9, s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nonsense"], 2, "no scenario 'nonsense'"),
        (["-c", "0"], 2, "must be above 0"),
        (["-c", "many"], 2, "not a number"),
        (["--fail-if-worse"], 2, "needs a --baseline"),
        (["memory", "--url", "http://127.0.0.1:1"], 2, "omit --url"),
        (["--url", "http://a", "--url", "http://b", "--pid", "1"], 2, "no --poll-url and no --pid"),
        (["--url", "http://127.0.0.1:1"], 3, "no server can be reached at http://127.0.0.1:1"),
        (["--url", "ftp://a"], 1, "is not an address like"),
    ],
)
def test_what_goes_wrong_is_said(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", *arguments]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[mix]\nfly = 1\n", "'fly' cannot be mixed; must be one of " + ", ".join(MIXABLE)),
        ("[mix]\nread = 0\n", "the weight of read must be above 0 (got 0)"),
        ("[options]\nspeed = 1\n", "'speed' is not an option"),
        ("[other]\n", "[other] is unknown"),
        ("= 1", "Invalid"),
    ],
)
def test_a_bad_mix_file_is_refused(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mix.toml"
    file.write_text(content)

    assert cli.run(["bench", "--file", str(file)]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_bad_baseline_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.json"
    file.write_text(json.dumps({"format": 99}))

    assert cli.run(["bench", "--baseline", str(file)]) == 1
    assert "has no results" in capsys.readouterr().err


def test_list_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*PUBLIC, "timers", "memory", "recovery", "envelope"]


def test_a_report_survives_its_file_and_becomes_a_page(tmp_path: Path) -> None:
    made = report([100.0, 90.0, 110.0])
    made.studies["recovery"] = [{"promises": 10, "time, s": 0.1}, {"promises": 20, "time, s": 0.2}]
    made.environment["system"] = "<script>"
    made.save(tmp_path / "r.json")
    loaded = Report.load(tmp_path / "r.json")

    page = make_page(loaded, compare(made, loaded))

    assert "<script>" not in page
    assert "too few runs to tell" in page
    for drawn in re.findall("<svg.*?</svg>", page):
        ElementTree.fromstring(drawn)
    assert page.count("<svg") == 4
    assert page.count("http") == 0


def test_a_chart_draws_what_it_can() -> None:
    empty = Chart("t", "x", "y", [Series("a", [(0.0, 0.0)])], logarithmic_y=True)
    single = Chart("t", "x", "y", [Series("a <b>", [(5.0, 5.0)])], marks=[(5.0, "here")])

    assert "nothing was measured" in draw(empty)
    assert "a &lt;b&gt;" in draw(single)
    assert draw(single).count("<circle") == 1
