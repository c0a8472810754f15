"""The report as one HTML file: tables and charts, nothing loaded from anywhere."""

import html
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from troth.bench.comparison import Verdict
from troth.bench.results import Report, ScenarioRecord, median_of

from .history import HISTORY_COLUMNS, HistoryLine, trends
from .svg import Chart, Series, draw, number

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2430;--dim:#6b7484;--line:#d9dee6;--back:#fff;
--c0:#2563eb;--c1:#dc2626;--c2:#059669;--c3:#9333ea;--c4:#d97706;--c5:#0891b2;--c6:#db2777;
--c7:#65a30d}
@media(prefers-color-scheme:dark){:root{--ink:#e5e9f0;--dim:#97a1b3;--line:#333b49;--back:#161a21;
--c0:#6ea0ff;--c1:#ff7a7a;--c2:#4fd1a5;--c3:#c48cff;--c4:#f6ad55;--c5:#5fd3ea;--c6:#ff8ac4;
--c7:#b0d85c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);
max-width:1420px;margin:0 auto;padding:1.5rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin:.2rem 0}
p.note,p.empty{color:var(--dim)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--dim)}th:first-child,td:first-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1.5rem}
svg{width:100%;height:auto;font-size:12px}svg text{fill:var(--dim)}
.grid{stroke:var(--line);fill:none}.mark{stroke:var(--dim);stroke-dasharray:2 4;fill:none}
.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 4}
.legend{margin:.2rem 0;font-size:.85rem}.entry{margin-right:1rem}
.entry::before{content:"";display:inline-block;width:.9em;height:.25em;margin-right:.4em;
vertical-align:middle;background:currentColor}.entry.mark{color:var(--dim)}
.better{color:var(--c2)}.worse{color:var(--c1)}
""" + "".join(
    f".line.s{n}{{stroke:var(--c{n})}}.dot.s{n}{{fill:var(--c{n})}}.entry.s{n}{{color:var(--c{n})}}"
    for n in range(8)
)


def make_page(report: Report, verdicts: Sequence[Verdict] = ()) -> str:
    """Return the whole page."""
    about = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in _known(report))
    parts = []
    if report.scenarios:
        parts.append(_summary(report.scenarios))
        parts.append(_charts(report.scenarios))
    parts += [_study(name, rows) for name, rows in report.studies.items()]
    if verdicts:
        parts.append(_comparison(verdicts))
    return _whole(about, parts)


def make_history_page(entries: Sequence[HistoryLine]) -> str:
    """Return a page that draws what share of the echo each scenario had, one point a line."""
    titles = dict.fromkeys(title for entry in entries for title in entry.scenarios)
    parts = [_drawn(title, entries) for title in titles]
    rows = [
        (
            *(one.title, one.last.throughput, one.last.server_us, one.last.p99_ms),
            *(_percent(one.last.echo_share), _percent(one.usual_share), one.ratio),
            "slower" if one.is_slower else "",
        )
        for one in trends(entries)
    ]
    parts.append(table(("scenario", *HISTORY_COLUMNS), rows))
    last = f"; the last {entries[-1].at}, {entries[-1].machine}" if entries else ""
    return _whole(f"{len(entries)} measurements{last}", parts)


def _drawn(title: str, entries: Sequence[HistoryLine]) -> str:
    """Draw one scenario; lines show where the version has changed."""
    numbered = list(enumerate(entries, 1))
    points = [
        (float(number), share)
        for number, entry in numbered
        if title in entry.scenarios and (share := entry.scenarios[title].echo_share) is not None
    ]
    marks = [
        (float(number), entry.version)
        for number, entry in numbered[1:]
        if entry.version != entries[number - 2].version
    ]
    series = [Series(title, points)]
    return draw(Chart(title, "measurement", f"{title}: share of the echo", series, marks=marks))


def _whole(about: str, parts: Sequence[str]) -> str:
    """Return a page with these parts."""
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>troth bench</title><style>{_STYLE}</style></head><body>",
            "<h1>troth bench</h1>",
            f'<p class="note">{html.escape(about)}</p>',
            *parts,
            "</body></html>\n",
        )
    )


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table; what is None is shown as a dash."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heading)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _known(report: Report) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in report.environment.items() if value is not None]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _summary(scenarios: Sequence[ScenarioRecord]) -> str:
    rows = []
    for one in scenarios:
        latency = {
            name: median_of([run.latency_ms[name] for run in one.runs])
            for name in ("p50", "p99", "p99.9", "max")
        }
        memory = median_of([run.server_memory_bytes for run in one.runs])
        rows.append(
            (
                one.title,
                median_of([run.throughput for run in one.runs]),
                *latency.values(),
                _percent(median_of([run.echo_share for run in one.runs])),
                _percent(median_of([run.disk_share for run in one.runs])),
                sum(sum(run.errors.values()) for run in one.runs),
                _percent(median_of([run.server_share for run in one.runs])),
                None if memory is None else memory / 1e6,
                any(run.generator_limits for run in one.runs),
            )
        )
    heading = (
        *("scenario", "operations/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "of echo"),
        *("of disk", "errors", "server CPU", "server MB", "generator limits"),
    )
    steps = [
        (one.title, name, found["p50"], found["p99"], found["p99.9"], found["max"])
        for one in scenarios
        for name, found in one.typical.steps_ms.items()
    ]
    shown = "<h2>Results</h2>" + table(heading, rows)
    shown += '<p class="note">Medians of all runs. Echo: a server that does nothing, over the same '
    shown += "connections. Disk: append and fdatasync of the same bytes, all connections together. "
    shown += "Generator limits: the load processes may have been slower than the server.</p>"
    if steps:
        shown += "<h3>Single requests (of the run in the middle)</h3>"
        shown += table(("scenario", "request", "p50 ms", "p99 ms", "p99.9 ms", "max ms"), steps)
    return shown


def _charts(scenarios: Sequence[ScenarioRecord]) -> str:
    curves = [
        Series(
            one.title,
            [(100 / (100 - percent), value) for percent, value in one.typical.curve_ms],
        )
        for one in scenarios
    ]
    ticks = [(1, "0 %"), (2, "50 %"), (10, "90 %"), (100, "99 %"), (1e3, "99.9 %")]
    ticks += [(1e4, "99.99 %"), (1e5, "99.999 %")]
    charts = [
        Chart(
            *("Latency by percentile", "percent of operations at most this slow", "ms", curves),
            x_ticks=ticks,
            logarithmic_x=True,
            logarithmic_y=True,
        ),
        _over_connections(scenarios),
    ]
    for one in scenarios:
        run = one.typical
        lines = [Series("operations/s", [(at, rate) for at, rate, _, _ in run.timeline])]
        marks = [(at, "checkpoint") for at in run.checkpoints_s]
        charts.append(
            Chart(f"{one.title}: throughput over time", "seconds", "operations/s", lines,
                  marks=marks)
        )  # fmt: skip
    drawn = "".join(
        f"<div><h3>{html.escape(chart.title)}</h3>{draw(chart)}</div>"
        for chart in charts
        if chart.series
    )
    return f'<div class="charts">{drawn}</div>'


def _over_connections(scenarios: Sequence[ScenarioRecord]) -> Chart:
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    echoes: dict[int, list[float | None]] = defaultdict(list)
    for one in scenarios:
        if one.rate is None:
            middle = median_of([run.throughput for run in one.runs]) or 0.0
            measured[one.scenario].append((one.connections, middle))
            echoes[one.connections] += [run.echo_throughput for run in one.runs]
    lines = [Series(name, sorted(points)) for name, points in measured.items()]
    ceiling = [(count, echo) for count in sorted(echoes) if (echo := median_of(echoes[count]))]
    if ceiling:
        lines.append(Series("echo (ceiling)", ceiling, dashed=True))
    return Chart(
        *("Throughput against connections", "connections", "operations/s", lines),
        x_ticks=[(count, number(count)) for count in sorted(echoes)],
        logarithmic_x=True,
        # The ceiling would press everything else to the bottom.
        logarithmic_y=True,
    )


def _study(name: str, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    shown = f"<h2>{html.escape(name.capitalize())}</h2>"
    shown += table(list(rows[0]), [list(row.values()) for row in rows])
    if len(rows) > 1:
        # By custom the first column of a study is what was varied.
        varied, *seen = [
            column for column, value in rows[0].items() if isinstance(value, int | float)
        ]
        seconds = [column for column in seen if column.endswith(" s")]
        lines = [Series(one, [(row[varied], row[one]) for row in rows]) for one in seconds]
        if lines:
            chart = Chart(name, varied, "seconds", lines)
            shown += f'<div class="charts"><div>{draw(chart)}</div></div>'
    return shown


def _comparison(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.title)}</td><td>{html.escape(one.quantity)}</td>"
        f"<td>{number(one.before)}</td><td>{number(one.now)}</td><td>{one.ratio:.3f}</td>"
        f"<td>{one.ratio_low:.3f} – {one.ratio_high:.3f}</td><td>{one.probability:.3f}</td>"
        f'<td class="{html.escape(one.text)}">{html.escape(one.text)}</td></tr>'
        for one in verdicts
    )
    heading = "".join(
        f"<th>{text}</th>"
        for text in ("scenario", "quantity", "before", "now", "ratio", "95 %", "p", "verdict")
    )
    return (
        "<h2>Compared with the baseline</h2>"
        f'<div class="scroll"><table><tr>{heading}</tr>{rows}</table></div>'
    )
