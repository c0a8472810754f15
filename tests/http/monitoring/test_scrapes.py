"""Scrapes of a server in this process: what they cost, and how far labels and series go."""

import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, cast

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.http.client import World, running
from tests.http.questions.test_scale import Cost
from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.model import Json
from troth.http.metrics.loop_lag import LoopLag
from troth.http.monitoring.process_metrics import PLACEMENT
from troth.http.monitoring.sources import add_sources
from troth.http.settings.settings import Settings
from troth.shards.delivery.shipments import ReceiverView
from troth.shards.shards import Shards
from troth.shards.storage import MemoryStorage
from troth.shards.surveys.first_comers import LIMIT_COUNT, FirstComers
from troth.shards.surveys.queues import Queues

SERIES_LIMIT_COUNT: Final = 700
HOLD_S: Final = 0.020
TRACE: Final = f"00-{'a' * 32}-{'b' * 16}-01"


class ManyReceivers:
    """Receivers as delivery describes them; `views` says what each of them is like."""

    def __init__(self, views: Sequence[ReceiverView]) -> None:
        self.views = views

    def receivers(self) -> Iterator[ReceiverView]:
        """Yield what waits for each."""
        yield from self.views

    def retry_receiver(self, receiver: str, limit_count: int) -> int:  # noqa: ARG002
        """Find nothing to send."""
        return 0

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        """Return where messages go."""
        return resolve(receiver, {})


def view(name: str, *, waiting_count: int = 1, failing_since_ms: int | None = None) -> ReceiverView:
    health = None if failing_since_ms is None else "failing"
    return ReceiverView(name, waiting_count, 0, 0, 0, None, health, failing_since_ms, None, None)


def meter(world: World, views: Sequence[ReceiverView]) -> ManyReceivers:
    """Show the server's metrics; the receivers are these."""
    receivers = ManyReceivers(views)
    shards = cast("Shards", world.api.shards)
    world.api.queues = Queues(shards, world.api.polls, receivers)
    storage = MemoryStorage(len(shards.each()))
    add_sources(world.api, shards, storage, LoopLag(lambda: 0))
    return receivers


async def scrape(world: World) -> list[str]:
    assert world.api.queues is not None
    await world.api.queues.sample(1)
    text = await world.api.metrics.render(names_accounts=True)
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def series(lines: list[str]) -> set[str]:
    return {line.rpartition(" ")[0] for line in lines}


@pytest.mark.own_core
@pytest.mark.slow
@pytest.mark.parametrize("is_per_shard", [False, True])
async def test_scrape_never_holds_the_loop(*, is_per_shard: bool) -> None:
    """1,024 shards and 500 receivers, while requests are served."""
    settings = Settings(metrics_per_shard=is_per_shard)
    async with running(settings, storage=MemoryStorage(1_024)) as world:
        meter(world, [view(f"http://r{number}:80") for number in range(500)])

        async def serve() -> None:
            for number in range(100):
                await world.send("POST", "/promises", {"id": f"p{number}", "timeout": 1 << 60})

        holds_s, used_s, lines = [], [], []
        for _ in range(3):  # the least: what else runs here may slow one down
            cost = Cost()
            trio.lowlevel.add_instrument(cost)
            began_s = time.thread_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                lines = await scrape(world)
            used_s.append(time.thread_time() - began_s)
            trio.lowlevel.remove_instrument(cost)
            holds_s.append(cost.longest_s)
    assert min(holds_s) <= HOLD_S, used_s
    of_shards = [line for line in lines if 'shard="1023"' in line]
    assert bool(of_shards) is is_per_shard
    if not is_per_shard:
        assert len([line for line in lines if "endpoint=" not in line]) <= SERIES_LIMIT_COUNT


async def test_series_do_not_come_and_go() -> None:
    """Through the life of a receiver: it comes, fails, recovers, and is gone."""
    name = "http://receiver:80"
    async with running() as world:
        receivers = meter(world, [])
        seen = [series(await scrape(world))]
        for views in (
            [view(name)],
            [view(name, failing_since_ms=5_000)],
            [view(name, waiting_count=0)],
            [],
            [view(name, failing_since_ms=7_000)],
        ):
            receivers.views = views
            await world.send("POST", "/promises", {"id": f"p{len(seen)}", "timeout": 1 << 60})
            lines = await scrape(world)
            assert seen[-1] - series(lines) == set(), "a series went away"
            seen.append(series(lines))
    new = {one for one in seen[-1] - seen[1] if "endpoint=" not in one}
    assert new == set(), "a receiver's series are there from its beginning"
    assert f'troth_queue_failing_since_timestamp_seconds{{receiver="{name}"}} 7.0' in lines


async def test_label_values_are_bounded() -> None:
    """10,000 receivers, groups and accounts give the first 20 of each a label."""
    count = 10_000
    async with running() as world:
        meter(world, [view(f"poll://group{number}") for number in range(count)])
        await scrape(world)
        activity = world.api.shards.activity
        for number in range(count):
            activity.find_waits(f"poll://any@group{number}/worker{number}").add(10)
        lines = await scrape(world)
    receivers = set(re.findall(r'receiver="([^"]+)"', "\n".join(lines)))
    assert receivers == {"other", *(f"poll://group{number}" for number in range(LIMIT_COUNT))}
    assert len([line for line in lines if "endpoint=" not in line]) <= SERIES_LIMIT_COUNT
    waits = [line for line in lines if line.startswith("troth_task_wait_seconds_count")]
    assert sum(float(line.rpartition(" ")[2]) for line in waits) == count

    bounded = [family for family in PLACEMENT.families if family.is_bounded]
    assert bounded, "accounts are a label"
    for family in bounded:
        labels = FirstComers()
        assert len(labels.fold(dict.fromkeys(map(str, range(count)), 1.0))) == LIMIT_COUNT + 1
        assert family.names_accounts


async def test_exemplars_lead_to_traces() -> None:
    """OpenMetrics names the trace of a sampled request; the older format has no place for it."""
    async with running() as world:
        meter(world, [])
        headers = {"traceparent": TRACE}
        for name, sent in (("a", headers), ("b", {"traceparent": TRACE[:-1] + "0"})):
            made = await world.send("POST", "/promises", {"id": name, "timeout": 1 << 60}, sent)
            assert made.status == 201
            await world.send("PATCH", f"/promises/{name}", {"state": "RESOLVED"}, sent)
        text = await world.api.metrics.render(names_accounts=False, is_open=True)
        plain = await world.api.metrics.render(names_accounts=False)
    families = text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    found: dict[str, list[dict[str, str]]] = {}
    for family in families:
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, []).append(sample.exemplar.labels)
    assert found.keys() == {"troth_promise_duration_seconds", "troth_http_request_duration_seconds"}
    assert {one["trace_id"] for labels in found.values() for one in labels} == {"a" * 32}
    assert b"trace_id" not in plain
