"""What a metric is: a name, a kind, a sentence for operators, and how it is read.

Names follow Prometheus: base units (seconds, bytes, ratios), `_total` for counters and for nothing
else, `_timestamp_seconds` for times of day (0: never). A series exists from the start, with 0,
and does not vanish. Labels have few values, which come from the server itself.

The tables of the other modules are all there is: `/metrics`, the documentation, the dashboard and
the tests are made from them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from troth.core.buckets import Buckets
from troth.shards.surveys.first_comers import FirstComers

Source = TypeVar("Source")
"""The type of what a group of metrics is read from, such as `LogStatistics`."""

Labels = tuple[str, ...]
Reading = float | Buckets | Mapping[Any, float] | Mapping[Any, Buckets]
"""A number or histogram; where a metric has labels, one for each of their values.

The key is the value of the only label, or a tuple of the values of several.
"""


class MetricKind(Enum):
    """The kinds that Prometheus tells apart."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Family(Generic[Source]):
    """One metric: its name as it is asked for, and what an operator reads about it.

    `read` returns its numbers. With `names_accounts` only administrators see it. The values of its
    only label come from clients if it `is_bounded`; see `first_comers.py`.
    """

    name: str
    kind: MetricKind
    help: str
    read: Callable[[Source], Reading]
    labels: Labels = ()
    names_accounts: bool = False
    is_bounded: bool = False

    def metric(self, source: Source, labels: FirstComers) -> Metric:
        """Return the metric with what its source says now. `labels` are its own."""
        reading = self.read(source)
        rows: dict[Any, Any] = {**reading} if isinstance(reading, Mapping) else {(): reading}
        if self.is_bounded:
            rows = {**labels.fold(rows)}
        rows = {one if isinstance(one, tuple) else (one,): of_it for one, of_it in rows.items()}
        return _FORMS[self.kind](self, rows)


@dataclass(frozen=True, slots=True)
class Group(Generic[Source]):
    """Metrics that are read from one thing: `/docs/metrics` has a section for each group."""

    title: str
    families: tuple[Family[Source], ...]

    def parts(self, source: Source) -> Iterable[Source]:
        """Yield the source, or parts of it that are read one by one."""
        yield source


_PARTS_COUNT: Final = 64
"""How many things are written between two rests of a scrape."""


class PartsGroup(Group[Sequence[tuple[str, Source]]]):
    """Metrics that are read from many things of a kind; each has its label."""

    def parts(self, source: Sequence[tuple[str, Source]]) -> Iterable[Sequence[tuple[str, Source]]]:
        """Yield some of them at a time."""
        for first in range(0, len(source), _PARTS_COUNT):
            yield source[first : first + _PARTS_COUNT]


def in_parts(group: Group[Source], label: str) -> Group[Sequence[tuple[str, Source]]]:
    """Return the same metrics for many things of a kind, with a label that tells them apart."""
    return PartsGroup(group.title, tuple(_of_each(one, label) for one in group.families))


def _of_each(family: Family[Source], label: str) -> Family[Sequence[tuple[str, Source]]]:
    def read(parts: Sequence[tuple[str, Source]]) -> Mapping[Any, Any]:
        rows: dict[Labels, float | Buckets] = {}
        for name, source in parts:
            reading = family.read(source)
            of_one: Mapping[Any, Any] = reading if isinstance(reading, Mapping) else {(): reading}
            for key, value in of_one.items():
                rows[(*(key if isinstance(key, tuple) else (key,)), name)] = value
        return rows

    return Family(family.name, family.kind, family.help, read, (*family.labels, label))


def _gauge(family: Family[Any], rows: Mapping[Labels, float]) -> Metric:
    made = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, number in rows.items():
        made.add_metric(labels, number)
    return made


def _counter(family: Family[Any], rows: Mapping[Labels, float]) -> Metric:
    # The library adds `_total` itself.
    name = family.name.removesuffix("_total")
    made = CounterMetricFamily(name, family.help, labels=family.labels)
    for labels, number in rows.items():
        made.add_metric(labels, number)
    return made


def _histogram(family: Family[Any], rows: Mapping[Labels, Buckets]) -> Metric:
    made = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, histogram in rows.items():
        bounds = [*map(_bound, histogram.bounds), "+Inf"]
        examples = histogram.examples
        buckets: list[Any] = list(zip(bounds, histogram.cumulative(), strict=True))
        for place, (value, trace_id) in examples.items():
            bound, count = buckets[place]
            buckets[place] = bound, count, Exemplar({"trace_id": trace_id}, value)
        made.add_metric(labels, buckets, histogram.sum)
    return made


def _bound(bound: float) -> str:
    return str(float(bound))


def _info(family: Family[Any], rows: Mapping[Labels, float]) -> Metric:
    made = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=())
    for values in rows:
        made.add_metric((), dict(zip(family.labels, values, strict=True)))
    return made


_FORMS: Mapping[MetricKind, Callable[[Family[Any], Any], Metric]] = {
    MetricKind.GAUGE: _gauge,
    MetricKind.COUNTER: _counter,
    MetricKind.HISTOGRAM: _histogram,
    MetricKind.INFO: _info,
}


def gauge(name: str, text: str, read: Callable[[Source], Reading], *labels: str) -> Family[Source]:
    """Describe what goes up and down."""
    return Family(name, MetricKind.GAUGE, text, read, labels)


def counter(
    name: str, text: str, read: Callable[[Source], Reading], *labels: str
) -> Family[Source]:
    """Describe what only grows, since the start of the process."""
    return Family(name, MetricKind.COUNTER, text, read, labels)


def histogram(
    name: str, text: str, read: Callable[[Source], Reading], *labels: str
) -> Family[Source]:
    """Describe a distribution."""
    return Family(name, MetricKind.HISTOGRAM, text, read, labels)
