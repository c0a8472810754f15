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

    def rows(self, source: Source, labels: FirstComers) -> Mapping[Labels, Any]:
        """Return what its source says now, by the values of its labels. `labels` are its own."""
        reading = self.read(source)
        rows: dict[Any, Any] = {**reading} if isinstance(reading, Mapping) else {(): reading}
        if self.is_bounded:
            rows = labels.fold(rows)
        return {one if isinstance(one, tuple) else (one,): of_it for one, of_it in rows.items()}


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
