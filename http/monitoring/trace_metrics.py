"""Metrics of traces: what has become of the spans."""

from typing import Final

from troth.http.metrics.families import Group, counter
from troth.http.tracing.spans import TraceStatistics

TRACES: Final[Group[TraceStatistics]] = Group(
    "Traces",
    (
        counter(
            "troth_trace_spans_total",
            "Spans by what has become of them: `sent` to the collector, `failed` because it did "
            "not take them, `dropped` because too many waited for it. Look at the collector if "
            "others than `sent` grow. Without traces they stay 0.",
            lambda traces: traces.spans,
            "result",
        ),
    ),
)
