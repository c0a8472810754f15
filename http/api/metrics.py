"""Metrics for Prometheus: requests by endpoint, the process, and all `statistics()`.

Statistics are frozen objects of named fields. Each number becomes a metric named after its path,
`troth_<source>_<field>`; inner objects extend the path; tuples of objects get a label `index`;
pairs of a name and a number get a label `name`. A field `…_total_count` is a counter `…_total`,
all others are gauges.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

import msgspec
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_COUNTER_END = "_total_count"
_BY_ACCOUNT_END = "_by_account"
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The registry of one server."""

    def __init__(self, sources: Mapping[str, Callable[[], object]]) -> None:
        """Take the `statistics` functions to read at each scrape, by name."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        requests = self._requests = _RequestsCollector()
        self.count: Final = requests.count
        self._registry.register(requests)
        self._statistics = _StatisticsCollector(dict(sources))
        self._registry.register(self._statistics)

    def add_source(self, name: str, statistics: Callable[[], object]) -> None:
        """Read one more `statistics` function at each scrape."""
        self._statistics.sources[name] = statistics

    def totals(self) -> tuple[int, int]:
        """Return how many requests were answered since the start, and how many were refused."""
        return self._requests.totals()

    def render(self, *, names_accounts: bool) -> bytes:
        """Render all metrics in Prometheus's format; series that name accounts only if asked."""
        self._statistics.names_accounts = names_accounts
        return generate_latest(self._registry)


class _Requests:
    """Requests of one endpoint with one status: how many durations fell into each bucket."""

    __slots__ = ("buckets", "streams_count", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.sum_s = 0.0
        self.streams_count = 0  # they have no duration

    def add(self, other: "_Requests") -> None:
        """Count those of another status, too."""
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.sum_s += other.sum_s


class _RequestsCollector(Collector):
    """Counts requests. As prometheus_client's own counters, but at a tenth of their cost.

    Those take locks and format labels each time; these are only ever touched in the event loop.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], _Requests] = {}

    def count(self, endpoint: str, status: int, duration_s: float | None) -> None:
        """Note one answered request; without a duration if it was a stream."""
        requests = self._requests.get((endpoint, status))
        if requests is None:
            requests = self._requests[endpoint, status] = _Requests()
        if duration_s is None:
            requests.streams_count += 1
            return
        requests.buckets[bisect_left(_BUCKETS_S, duration_s)] += 1
        requests.sum_s += duration_s

    def totals(self) -> tuple[int, int]:
        """Return how many there were, and how many had a status of 400 or more."""
        answered_count = refused_count = 0
        for (_, status), some in self._requests.items():
            count = some.streams_count + sum(some.buckets)
            answered_count += count
            refused_count += count if status >= 400 else 0
        return answered_count, refused_count

    def collect(self) -> Iterator[Metric]:
        """Yield all counts, and all durations."""
        requests = CounterMetricFamily(
            "troth_http_requests", "Requests answered.", labels=["endpoint", "status"]
        )
        timed: dict[str, _Requests] = {}
        for (endpoint, status), some in self._requests.items():
            requests.add_metric([endpoint, str(status)], some.streams_count + sum(some.buckets))
            if any(some.buckets):
                timed.setdefault(endpoint, _Requests()).add(some)
        yield requests
        durations = HistogramMetricFamily(
            "troth_http_request_duration_seconds",
            "From the last byte of a request to the last of its answer; streams are not in here.",
            labels=["endpoint"],
        )
        bounds = [*(str(bound) for bound in _BUCKETS_S), "+Inf"]
        for endpoint, all_of_it in timed.items():
            cumulative = list(zip(bounds, accumulate(all_of_it.buckets), strict=True))
            durations.add_metric([endpoint], cumulative, all_of_it.sum_s)
        yield durations


class _StatisticsCollector(Collector):
    """Turns statistics into metrics at each scrape."""

    def __init__(self, sources: dict[str, Callable[[], object]]) -> None:
        self.sources = sources
        self.names_accounts = False

    def collect(self) -> Iterator[Metric]:
        """Yield all numbers of all sources, those of one name together.

        Fields `…_by_account` name accounts; they are left out unless `names_accounts`.
        """
        families: dict[str, tuple[tuple[str, ...], list[tuple[tuple[str, ...], float]]]] = {}
        for source, statistics in self.sources.items():
            for name, labels, number in _numbers(f"troth_{source}", (), statistics()):
                if name.endswith(_BY_ACCOUNT_END) and not self.names_accounts:
                    continue
                label_names = tuple(label for label, _ in labels)
                _, samples = families.setdefault(name, (label_names, []))
                samples.append((tuple(text for _, text in labels), number))
        for name, (label_names, samples) in families.items():
            kind = CounterMetricFamily if name.endswith(_COUNTER_END) else GaugeMetricFamily
            shown = name.removesuffix(_COUNTER_END)  # the counter's family adds `_total` itself
            family = kind(shown, f"See statistics(): {name}.", labels=label_names)
            for label_values, number in samples:
                family.add_metric(label_values, number)
            yield family


_Labels = tuple[tuple[str, str], ...]


def _numbers(name: str, labels: _Labels, value: Any) -> Iterator[tuple[str, _Labels, float]]:
    """Yield every number inside a statistics object, with its metric name and labels."""
    if isinstance(value, bool | int | float):
        yield name, labels, float(value)
    elif dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct):
        yield from _fields(name, labels, value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(name, (*labels, ("name", str(key))), inner)
    elif isinstance(value, tuple | list):
        for index, inner in enumerate(value):
            if isinstance(inner, tuple) and len(inner) == 2 and isinstance(inner[0], str):
                yield from _numbers(name, (*labels, ("name", inner[0])), inner[1])
            else:
                yield from _numbers(name, (*labels, ("index", str(index))), inner)


def _fields(name: str, labels: _Labels, value: Any) -> Iterator[tuple[str, _Labels, float]]:
    if dataclasses.is_dataclass(value):
        names = [entry.name for entry in dataclasses.fields(value)]
    else:
        names = list(value.__struct_fields__)
    # Texts name the thing that the numbers are about.
    texts = tuple(
        (entry, getattr(value, entry)) for entry in names if isinstance(getattr(value, entry), str)
    )
    for entry in names:
        yield from _numbers(f"{name}_{entry}", (*labels, *texts), getattr(value, entry))
