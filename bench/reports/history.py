"""The history of one server's speed: a file to which every measurement adds a line.

A line is a JSON object: when, which version and commit, on which machine, and for each scenario the
medians of its runs. Machines differ, and one differs from hour to hour, so what is watched is no
time: it is the throughput as a share of the echo's, measured in the same run right before. A
scenario is *slower* if the last line's share is below `SLOWER_RATIO` of the median of those before,
which need to be `BEFORE_COUNT`; only the last `WINDOW_COUNT` count, so a change that was meant
becomes the new measure after some lines.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from troth import __version__
from troth.bench.client import BenchError
from troth.bench.results import Report, RunRecord

FORMAT: Final = 1
SLOWER_RATIO: Final = 0.85
"""Runs of one version differ by a tenth on a machine that others use."""
BEFORE_COUNT: Final = 4
"""With fewer nothing is known."""
WINDOW_COUNT: Final = 20
HISTORY_COLUMNS: Final = (*("ops/s", "CPU µs", "p99 ms", "of echo", "usually", "ratio", "verdict"),)
"""What is shown of a scenario's last line, besides its name."""


@dataclass(frozen=True)
class Measured:
    """One scenario of one line: medians of its runs."""

    throughput: float
    echo_share: float | None
    server_us: float | None
    """Processor time of the server for an operation."""
    p99_ms: float
    runs_count: int


@dataclass(frozen=True)
class HistoryLine:
    """A line."""

    at: str
    version: str
    commit: str
    machine: str
    scenarios: dict[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class Trend:
    """What a scenario's last line is, compared with those before."""

    title: str
    last: Measured
    usual_share: float | None
    """The median of the shares before; None if there are too few."""

    @property
    def ratio(self) -> float | None:
        """The last share over the usual one."""
        if self.usual_share is None or self.last.echo_share is None:
            return None
        return self.last.echo_share / self.usual_share

    @property
    def is_slower(self) -> bool:
        """Return whether it is less than it should be."""
        return self.ratio is not None and self.ratio < SLOWER_RATIO


def entry_of(report: Report, commit: str) -> HistoryLine:
    """Return the line for a report, without what had errors."""
    seen = report.environment
    return HistoryLine(
        str(seen["at"]),
        __version__,
        commit,
        f"{seen['system']}, {seen['cores']} cores, {seen['python']}",
        {
            one.title: _point(one.runs)
            for one in report.scenarios
            if one.runs and not any(run.errors for run in one.runs)
        },
    )


def _point(runs: Sequence[RunRecord]) -> Measured:
    shares = [run.echo_share for run in runs if run.echo_share is not None]
    costs = [run.processor_us for run in runs if run.processor_us is not None]
    return Measured(
        round(median([run.throughput for run in runs]), 1),
        round(median(shares), 5) if shares else None,
        round(median(costs), 2) if costs else None,
        round(median([run.latency_ms["p99"] for run in runs]), 3),
        len(runs),
    )


def commit_here() -> str:
    """Return the commit of the code that is running; an empty text if it is of no repository."""
    here = Path(__file__).resolve()
    known = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return _git(here.parent, "rev-parse", "--short=12", "HEAD") if known else ""


def _git(directory: Path, *arguments: str) -> str:
    """Return what git says; an empty text if it fails, or is not there."""
    try:
        found = subprocess.run(  # noqa: S603
            ("git", "-C", str(directory), *arguments),  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def append(path: Path, entry: HistoryLine) -> None:
    """Add a line to a history, after whole lines only. Raises BenchError."""
    line = json.dumps({"format": FORMAT, **asdict(entry)}, separators=(",", ":"))
    try:
        with path.open("ab+") as file:
            file.seek(0)
            whole_bytes = file.read().rfind(b"\n") + 1
            file.truncate(whole_bytes)  # the rest was being written when the machine stopped
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror})") from error


def read(path: Path) -> list[HistoryLine]:
    """Return the whole lines of a history. Raises BenchError."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_entry(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BenchError(f"{path}, line {number}, is not of a history: {error}") from error
    return found


def _entry(stored: dict[str, Any]) -> HistoryLine:
    if stored.pop("format") != FORMAT:
        raise ValueError(f"this program reads format {FORMAT}")
    scenarios = {title: Measured(**point) for title, point in stored.pop("scenarios").items()}
    return HistoryLine(scenarios=scenarios, **stored)


def trends(entries: Sequence[HistoryLine]) -> list[Trend]:
    """Return what became of each scenario of the last line."""
    if not entries:
        return []
    *before, last = entries
    found = []
    for title, point in last.scenarios.items():
        earlier = [one.scenarios[title].echo_share for one in before if title in one.scenarios]
        shares = [share for share in earlier if share is not None][-WINDOW_COUNT:]
        usual = median(shares) if len(shares) >= BEFORE_COUNT else None
        found.append(Trend(title, point, usual))
    return found
