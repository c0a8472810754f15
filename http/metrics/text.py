"""Metrics as text: Prometheus's format, and OpenMetrics where that is asked for.

A scrape writes hundreds of lines in the event loop, so these are made of as few pieces as they have
parts; `prometheus_client`, which checks and escapes every name again, takes three times as long.
Names are ours and need no escaping; values of labels and help texts do.
"""

from collections.abc import Mapping
from typing import Any, Final

from troth.core.buckets import Buckets

from .families import Family, Labels, MetricKind

_INFINITE: Final = "+Inf"
_BOUND: Final = "le"


def write(family: Family[Any], rows: Mapping[Labels, Any], *, is_open: bool) -> str:
    """Return the lines of a metric: a number, or a histogram, for each of its labels' values."""
    if family.kind is MetricKind.HISTOGRAM:
        return "".join([_histogram(family, *row, is_open=is_open) for row in rows.items()])
    name, labels = family.name, family.labels
    if not labels:
        return "".join([f"{name} {float(number)!r}\n" for number in rows.values()])
    return "".join(
        [
            f"{name}{{{','.join(_pairs(labels, values))}}} {float(number)!r}\n"
            for values, number in rows.items()
        ]
    )


def write_head(family: Family[Any], *, is_open: bool) -> str:
    """Return what is said once about a metric: its help and its kind."""
    name, kind, text = family.name, family.kind, _line(family.help)
    if is_open:
        text = text.replace('"', r"\"")
        if kind is MetricKind.COUNTER:
            name = name.removesuffix("_total")
        if kind is MetricKind.INFO:
            name = name.removesuffix("_info")
    elif kind is MetricKind.INFO:
        kind = MetricKind.GAUGE
    return f"# HELP {name} {text}\n# TYPE {name} {kind.value}\n"


def _histogram(family: Family[Any], values: Labels, buckets: Buckets, *, is_open: bool) -> str:
    name, labels = family.name, family.labels
    pairs = _pairs(labels, values)
    # Labels are in alphabetical order, as clients of Prometheus write them.
    place = sum(label < _BOUND for label in labels)
    before = "".join([f"{pair}," for pair in pairs[:place]])
    after = "".join([f",{pair}" for pair in pairs[place:]])
    counts = buckets.cumulative()
    ends = [""] * len(counts)
    if is_open:
        for at, (value, trace_id) in buckets.examples.items():
            ends[at] = f' # {{trace_id="{trace_id}"}} {float(value)!r}'
    bounds = [*map(repr, map(float, buckets.bounds)), _INFINITE]
    lines = [
        f'{name}_bucket{{{before}{_BOUND}="{bound}"{after}}} {count}.0{end}\n'
        for bound, count, end in zip(bounds, counts, ends, strict=True)
    ]
    of_row = f"{{{','.join(pairs)}}}" if pairs else ""
    lines.append(f"{name}_count{of_row} {counts[-1]}.0\n")
    lines.append(f"{name}_sum{of_row} {float(buckets.sum)!r}\n")
    return "".join(lines)


def _pairs(labels: Labels, values: Labels) -> list[str]:
    """Return labels with their values, in alphabetical order."""
    pairs = zip(labels, values, strict=True)
    if len(labels) > 1:
        return [f'{label}="{_value(value)}"' for label, value in sorted(pairs)]
    return [f'{label}="{_value(value)}"' for label, value in pairs]


def _value(value: str) -> str:
    return _line(value).replace('"', r"\"")


def _line(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
