"""How metrics are read and written, whatever they are about."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from troth.core.buckets import Buckets
from troth.http.metrics.families import Family, Group, MetricKind, counter, gauge, histogram
from troth.http.metrics.loop_lag import LoopLag
from troth.http.metrics.metrics import Metrics
from troth.http.metrics.text import write, write_head
from troth.shards.surveys.first_comers import OTHER, FirstComers


@dataclass(frozen=True)
class Kitchen:
    """Something to measure."""

    pots: int = 3
    cooked: int = 7
    cooks: tuple[tuple[str, int], ...] = ()


def waits() -> Buckets:
    made = Buckets((0.5, 1.0))
    for value in (0.25, 0.5, 2.0):
        made.add(value)
    return made


KITCHEN: Group[Kitchen] = Group(
    "Kitchen",
    (
        gauge("kitchen_pots", "Pots.", lambda kitchen: kitchen.pots),
        counter("kitchen_cooked_total", "Meals.", lambda kitchen: {"soup": kitchen.cooked}, "meal"),
        histogram("kitchen_wait_seconds", "Waits.", lambda _: waits()),
        Family("kitchen_info", MetricKind.INFO, "What.", lambda _: {("iron",): 1.0}, ("stove",)),
        Family(
            "kitchen_cooks",
            MetricKind.GAUGE,
            "Cooks.",
            lambda kitchen: dict(kitchen.cooks),
            ("cook",),
            names_accounts=True,
            is_bounded=True,
        ),
    ),
)


async def lines(read: Callable[[], Kitchen], **how: bool) -> list[str]:
    metrics = Metrics()
    metrics.add(KITCHEN, read)
    text = await metrics.render(**{"names_accounts": True, **how})
    return text.decode().splitlines()


async def test_each_kind_is_written_as_prometheus_wants_it() -> None:
    text = await lines(Kitchen)
    for line in (
        "# HELP kitchen_pots Pots.",
        "# TYPE kitchen_pots gauge",
        "kitchen_pots 3.0",
        "# TYPE kitchen_cooked_total counter",
        'kitchen_cooked_total{meal="soup"} 7.0',
        'kitchen_wait_seconds_bucket{le="0.5"} 2.0',
        'kitchen_wait_seconds_bucket{le="+Inf"} 3.0',
        "kitchen_wait_seconds_count 3.0",
        "kitchen_wait_seconds_sum 2.75",
        'kitchen_info{stove="iron"} 1.0',
        'kitchen_cooks{cook="other"} 0.0',
    ):
        assert line in text


@pytest.mark.parametrize("is_open", [False, True])
async def test_the_text_is_that_of_prometheus_own_library(*, is_open: bool) -> None:
    """Byte for byte, with hostile values of labels, and with exemplars."""
    odd = 'a"b\\c\nd é'
    first = waits()
    first.note_example(0.75, "ab12")
    families: dict[Family[None], Any] = {
        gauge("pots", "Pots: a \\ and\na line.", lambda _: 2.5): GaugeMetricFamily(
            "pots", "Pots: a \\ and\na line.", 2.5
        ),
        counter("cooked_total", "Meals.", lambda _: {(odd, "b"): 7, ("x", "y"): True}, "z", "a"): (
            made := CounterMetricFamily("cooked", "Meals.", labels=("z", "a"))
        ),
        histogram("plain_seconds", 'So "long".', lambda _: first): (
            plain := HistogramMetricFamily("plain_seconds", 'So "long".', labels=())
        ),
        histogram("by_seconds", "By.", lambda _: {(odd, "1"): first}, "who", "at"): (
            by := HistogramMetricFamily("by_seconds", "By.", labels=("who", "at"))
        ),
        Family("k_info", MetricKind.INFO, "What.", lambda _: {(odd,): 1.0}, ("s",)): (
            info := InfoMetricFamily("k", "What.", labels=())
        ),
    }
    made.add_metric((odd, "b"), 7)
    made.add_metric(("x", "y"), True)
    info.add_metric((), {"s": odd})
    example = Exemplar({"trace_id": "ab12"}, 0.75)
    buckets: list[Any] = [("0.5", 2), ("1.0", 2, example), ("+Inf", 3)]
    plain.add_metric((), buckets, 2.75)
    by.add_metric((odd, "1"), buckets, 2.75)
    write_library = openmetrics.generate_latest if is_open else generate_latest
    for family, of_library in families.items():
        registry = CollectorRegistry()
        registry.collect = lambda one=of_library: [one]  # type: ignore[method-assign,misc]
        rows = family.rows(None, FirstComers())
        text = write_head(family, is_open=is_open) + write(family, rows, is_open=is_open)
        assert text == write_library(registry).decode().removesuffix("# EOF\n")


async def test_open_metrics_can_be_parsed() -> None:
    text = await lines(Kitchen, is_open=True)
    assert text[-1] == "# EOF"
    assert text.count("# EOF") == 1
    families: Any = text_string_to_metric_families("\n".join(text) + "\n")  # type: ignore[no-untyped-call]
    found = {one.name: one for one in families}
    assert found["kitchen_cooked"].samples[0].value == 7
    assert found["kitchen"].samples[0].labels == {"stove": "iron"}


async def test_only_administrators_see_accounts() -> None:
    assert not [one for one in await lines(Kitchen, names_accounts=False) if "cooks" in one]


async def test_one_scrape_at_a_time_is_made_for_all_who_ask() -> None:
    reads: list[int] = []
    go_on = trio.Event()

    async def read() -> Kitchen:
        reads.append(1)
        await go_on.wait()
        return Kitchen()

    metrics = Metrics()
    metrics.add(KITCHEN, read)
    texts: list[bytes] = []

    async def scrape() -> None:
        texts.append(await metrics.render(names_accounts=False))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scrape)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert (len(reads), len(texts), len(set(texts))) == (1, 5, 1)


async def test_a_scraper_that_leaves_takes_nothing_from_the_others() -> None:
    go_on = trio.Event()

    async def read() -> Kitchen:
        await go_on.wait()
        return Kitchen()

    metrics = Metrics()
    metrics.add(KITCHEN, read)
    texts: list[bytes] = []
    leaving = trio.CancelScope()

    async def leave() -> None:
        with leaving:
            await metrics.render(names_accounts=False)

    async def stay() -> None:
        texts.append(await metrics.render(names_accounts=False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(stay)
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert b"kitchen_pots 3.0" in texts[0]


def test_first_comers_keep_their_label_and_never_vanish() -> None:
    labels = FirstComers(2)
    assert labels.fold({"a": 1, "b": 2, "c": 3, "d": 4}) == {OTHER: 7, "a": 1, "b": 2}
    assert labels.fold({"d": 5, "b": 1}) == {OTHER: 5, "a": 0, "b": 1}


async def test_what_the_loop_is_late_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    numbers = iter(range(1_000))
    lag = LoopLag(lambda: next(numbers))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.sleep(1.05)
        assert (lag.lag_s.count, lag.lag_s.sum) == (10, 0)
        autojump_clock.jump(3)  # the loop was held for so long
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert lag.lag_s.cumulative()[-3:] == [10, 11, 11]


async def test_an_idle_loop_is_looked_at_seldom(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lag = LoopLag(lambda: 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.sleep(20.5)
        nursery.cancel_scope.cancel()
    assert lag.lag_s.count == 6  # twice until that is known
