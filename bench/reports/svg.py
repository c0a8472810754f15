"""Line charts as SVG text, without any library: just what the report needs.

Colors come from the page's style sheet by class (`s0` … `s7`), so that charts follow its light or
dark theme.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

WIDTH: Final = 680
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 28, 14, 46
COLORS_COUNT: Final = 8


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend and its points."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: what is drawn, on which axes, with which marks."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_ticks: Sequence[tuple[float, str]] | None = None
    """Where the x axis is labeled; None: at round numbers."""
    logarithmic_y: bool = False
    logarithmic_x: bool = False
    marks: Sequence[tuple[float, str]] = field(default=())
    """Vertical lines: where, and what they stand for."""


def draw(chart: Chart) -> str:
    """Return the chart as an SVG element; a sentence if there is nothing to draw."""
    points = [point for series in chart.series for point in series.points if _fits(chart, *point)]
    if not points:
        return f'<p class="empty">{html.escape(chart.title)}: nothing was measured.</p>'
    x_low, x_high = _range([x for x, _ in points], logarithmic=chart.logarithmic_x, from_zero=False)
    y_low, y_high = _range([y for _, y in points], logarithmic=chart.logarithmic_y, from_zero=True)
    place_x = _scale(x_low, x_high, _LEFT, WIDTH - _RIGHT, logarithmic=chart.logarithmic_x)
    place_y = _scale(y_low, y_high, HEIGHT - _BOTTOM, _TOP, logarithmic=chart.logarithmic_y)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">'
    ]
    for value in _ticks(y_low, y_high, logarithmic=chart.logarithmic_y):
        y = place_y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, y + 4, number(value), "end"))
    ticks = chart.x_ticks
    if ticks is None:
        values = _ticks(x_low, x_high, logarithmic=chart.logarithmic_x)
        ticks = [(value, number(value)) for value in values]
    for value, label in ticks:
        if x_low <= value <= x_high:
            x = place_x(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
            parts.append(_text(x, HEIGHT - _BOTTOM + 16, label, "middle"))
    for value, label in chart.marks:
        if x_low <= value <= x_high:
            path = f'<path class="mark" d="M{place_x(value):.1f} {_TOP}V{HEIGHT - _BOTTOM}">'
            parts.append(f"{path}<title>{html.escape(label)}</title></path>")
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, chart.x_label, "middle"))
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(chart.y_label)}</text>"
    )
    for index, series in enumerate(chart.series):
        parts.append(_line(chart, series, index, place_x, place_y))
    parts.append("</svg>")
    return "".join(parts) + _legend(chart)


def number(value: float) -> str:
    """Return a number as an axis shows it: 3 significant digits, thousands as k, millions as M."""
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if suffix == 'M' else 1e3):.3g}{suffix}"
    return f"{value:.4g}"


def _line(
    chart: Chart,
    series: Series,
    index: int,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
) -> str:
    placed = [(place_x(x), place_y(y), x, y) for x, y in series.points if _fits(chart, x, y)]
    if not placed:
        return ""
    kind = f"line s{index % COLORS_COUNT}" + (" dashed" if series.dashed else "")
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in placed)
    parts = [f'<path class="{kind}" d="M{path}"/>']
    if len(placed) <= 40:
        parts += [
            f'<circle class="dot s{index % COLORS_COUNT}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{html.escape(series.name)}: {number(real_y)} at {number(real_x)}</title>"
            "</circle>"
            for x, y, real_x, real_y in placed
        ]
    return "".join(parts)


def _legend(chart: Chart) -> str:
    entries = [
        f'<span class="entry s{index % COLORS_COUNT}">{html.escape(series.name)}</span>'
        for index, series in enumerate(chart.series)
    ]
    if chart.marks:
        entries.append(f'<span class="entry mark">{html.escape(chart.marks[0][1])}</span>')
    return f'<p class="legend">{"".join(entries)}</p>'


def _fits(chart: Chart, x: float, y: float) -> bool:
    """Return whether the axes can show a point: a logarithm needs something above 0."""
    return not (chart.logarithmic_y and y <= 0) and not (chart.logarithmic_x and x <= 0)


def _range(values: list[float], *, logarithmic: bool, from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return (low, high) if high > low else (low / 2, high * 2)
    if from_zero:
        low, high = min(0.0, low), high * 1.05
    return (low, high) if high > low else (low - 1, high + 1)


def _scale(
    low: float, high: float, start: float, end: float, *, logarithmic: bool
) -> Callable[[float], float]:
    if logarithmic:
        factor = (end - start) / (math.log(high) - math.log(low))
        return lambda value: start + (math.log(value) - math.log(low)) * factor
    return lambda value: start + (value - low) * (end - start) / (high - low)


def _ticks(low: float, high: float, *, logarithmic: bool) -> list[float]:
    """Return round numbers within a range, 4 to 10 of them where possible."""
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [value for value in values if low <= value <= high]
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
