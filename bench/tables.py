"""What the terminal shows: the progress of a run, tables of results, sentences of warning."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .comparison import Verdict
from .load import SLOT_S, Slot
from .reports.history import HISTORY_COLUMNS, HistoryLine, trends
from .results import Report, RunRecord, ScenarioRecord, median_of
from .scenarios.table import SCENARIOS

_BARS = " ▁▂▃▄▅▆▇█"
_BARS_SHOWN = 40
WIDE: Final = 110
"""Columns of a terminal that shows everything."""
WIDE_ONLY: Final = frozenset({"p99.9", "max", "of disk", "MB"})


class LoadProgress:
    """One line that follows a run: rate, p99, errors, and a little picture of the rate.

    If the output is not a terminal, one line says what begins.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._title = ""
        self._rates: list[float] = []
        self._failures = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, title: str) -> None:
        """Say what is going on now."""
        self._title, self._rates, self._failures = title, [], 0
        if self._live is None:
            self._console.print(title, style="dim", highlight=False)
        else:
            self._live.update(Text(f"{title} …"))

    def note(self, slot: Slot) -> None:
        """Show a quarter of a second."""
        self._rates.append(slot.latency.count / SLOT_S)
        self._failures += slot.failures
        if self._live is None:
            return
        highest = max(self._rates) or 1.0
        bars = "".join(
            _BARS[round(rate / highest * (len(_BARS) - 1))] for rate in self._rates[-_BARS_SHOWN:]
        )
        line = Text(f"{self._title}  ")
        line.append(bars, "cyan")
        line.append(f"  {self._rates[-1]:,.0f}/s", "bold")
        line.append(f"  p99 {slot.latency.percentile(99) / 1e6:.2f} ms")
        if slot.server is not None:
            line.append(f"  {slot.server.memory_bytes / 1e6:,.0f} MB", "dim")
        if self._failures:
            line.append(f"  {self._failures:,} errors", "bold red")
        if not slot.measured:
            line.append("  warming up", "dim")
        self._live.update(line)


def show_scenarios(console: Console, scenarios: Sequence[ScenarioRecord]) -> None:
    """Print the table of results, then what must be said about them."""
    if not scenarios:
        return
    columns = _columns(scenarios)
    if console.width < WIDE:
        columns = {name: cells for name, cells in columns.items() if name not in WIDE_ONLY}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, one in enumerate(scenarios):
        table.add_row(one.title, *(cells[index] for cells in columns.values()))
    console.print(table)
    show_steps(console, scenarios)
    for sentence in remarks(scenarios):
        console.print(sentence, style="yellow", highlight=False)


def _columns(scenarios: Sequence[ScenarioRecord]) -> dict[str, list[str | Text]]:
    """Return the table's columns by heading, one cell for each scenario."""
    columns: dict[str, list[str | Text]] = {}

    def add(heading: str, cells: Iterable[str | Text]) -> None:
        columns[heading] = list(cells)

    def middle(value: Callable[[RunRecord], float | None]) -> list[float | None]:
        return [median_of([value(run) for run in one.runs]) for one in scenarios]

    add("ops/s", (f"{value:,.0f}" for value in middle(lambda run: run.throughput)))
    for name in ("p50", "p99", "p99.9", "max"):
        values = middle(lambda run, name=name: run.latency_ms[name])  # type: ignore[misc]
        add("p50 ms" if name == "p50" else name, (f"{value:.2f}" for value in values))
    add("of echo", map(_percent, middle(lambda run: run.echo_share)))
    add("of disk", map(_percent, middle(lambda run: run.disk_share)))
    errors = [sum(sum(run.errors.values()) for run in one.runs) for one in scenarios]
    add("errors", (Text(f"{count:,}", "bold red" if count else "") for count in errors))
    add("CPU", map(_percent, middle(lambda run: run.server_share)))
    processor_us = middle(lambda run: run.processor_us)
    add("CPU µs", ("–" if value is None else f"{value:,.0f}" for value in processor_us))
    memory = middle(lambda run: run.server_memory_bytes)
    add("MB", ("–" if size is None else f"{size / 1e6:,.0f}" for size in memory))
    return columns


def show_steps(console: Console, scenarios: Sequence[ScenarioRecord]) -> None:
    """Print the latencies of single requests, where operations have several."""
    rows = [(one, name, ms) for one in scenarios for name, ms in one.typical.steps_ms.items()]
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("step", no_wrap=True)
    for heading in ("p50 ms", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one, name, ms in rows:
        shown = (f"{ms[column]:.2f}" for column in ("p50", "p99", "p99.9", "max"))
        table.add_row(f"{one.title}: {name}", *shown)
    console.print()
    console.print(table)


def remarks(scenarios: Sequence[ScenarioRecord]) -> list[str]:
    """Return sentences about what a reader must not overlook."""
    said = []
    for one in scenarios:
        if SCENARIOS[one.scenario].prepares:
            said.append(
                f"{one.title}: much is prepared between operations; ops/s and shares "
                "include that, latencies do not."
            )
        synced = median_of([run.sync_p50_ms for run in one.runs])
        if one.connections == 1 and synced is not None and not one.typical.steps_ms:
            over = (median_of([run.latency_ms["p50"] for run in one.runs]) or 0.0) - synced
            said.append(
                f"{one.title}: append + fdatasync alone take {synced:.2f} ms (p50), all the rest "
                f"{over:.2f} ms."
            )
        if any(run.generator_limits for run in one.runs):
            said.append(
                f"{one.title}: the load generator was the bottleneck; the server may be faster "
                "than this. Use more --processes, if there are cores for them."
            )
        unfinished = sum(run.unfinished for run in one.runs)
        if unfinished:
            said.append(
                f"{one.title}: the server did not keep up with the rate; {unfinished:,} operations "
                "had not ended when the run did. They count with the time they had waited."
            )
        if any(run.echo_generator_limits for run in one.runs):
            said.append(
                f"{one.title}: the generator limits the echo ceiling; the real one is "
                "higher, and the share of it lower."
            )
        for run in one.runs:
            said += [f"{one.title}: {count:,} × {text}" for text, count in run.errors.items()]
    return said


def show_study(console: Console, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a study's rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(rows[0]):
        table.add_column(heading if index else f"{name}: {heading}", justify="right")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def show_verdicts(console: Console, before: Report, verdicts: Sequence[Verdict]) -> None:
    """Print the comparison with a baseline."""
    console.print(f"\nCompared with the baseline of {before.environment.get('at')}:")
    if not verdicts:
        console.print("it has no scenario with the same connections and rate.", style="yellow")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario", no_wrap=True)
    for heading in ("quantity", "before", "now", "ratio", "95 % of", "p", "verdict"):
        table.add_column(heading, no_wrap=True)
    colors = {"better": "green", "worse": "bold red"}
    for one in verdicts:
        table.add_row(
            *(one.title, one.quantity, _cell(one.before), _cell(one.now), f"{one.ratio:.3f}"),
            f"{one.ratio_low:.2f}–{one.ratio_high:.2f}",
            f"{one.probability:.3f}",
            Text(one.text, colors.get(one.text, "")),
        )
    console.print(table)


def show_history(console: Console, entries: Sequence[HistoryLine]) -> None:
    """Print what became of each scenario of a history's last line."""
    console.print(f"\nThe last of {len(entries)} lines of the history:")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario", no_wrap=True)
    for heading in HISTORY_COLUMNS:
        table.add_column(heading, no_wrap=True, justify="right")
    for one in trends(entries):
        last = one.last
        table.add_row(
            *(one.title, _cell(last.throughput), _cell(last.server_us), _cell(last.p99_ms)),
            *(_percent(last.echo_share), _percent(one.usual_share), _cell(one.ratio)),
            Text("slower", "bold red") if one.is_slower else "",
        )
    console.print(table)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
