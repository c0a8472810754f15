"""`/metrics` of several processes: each series says whose it is; one that is down hides none."""

import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.http.metrics.test_metrics import KITCHEN, Kitchen
from tests.shards.mesh.world import World, until, world
from troth.http.metrics.metrics import Metrics
from troth.http.metrics.of_processes import COLLECT_LIMIT_MS, MetricsOfAll, labeled


def metered(server: World) -> list[MetricsOfAll]:
    """Give each process pots: 10, 11, 12, …"""
    found = []
    for process in server.processes:
        metrics = Metrics()
        number = process.place.process
        metrics.add(KITCHEN, lambda number=number: Kitchen(10 + number, number))
        found.append(MetricsOfAll(process.mesh.calls, metrics))
    return found


async def test_each_series_says_whose_it_is(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        text = (await metered(server)[1].render(names_accounts=True)).decode()
    lines = text.splitlines()
    for process in range(3):
        assert f'kitchen_pots{{process="{process}"}} {10 + process}.0' in lines
        assert f'kitchen_cooked_total{{process="{process}",meal="soup"}} {process}.0' in lines
        assert f'troth_process_up{{process="{process}"}} 1.0' in lines
    assert lines.count("# TYPE kitchen_pots gauge") == 1
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "the lines of each metric are together"
    for family in families:
        assert all("process" in sample.labels for sample in family.samples)


async def test_metrics_while_one_process_is_down(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of = metered(server)
        server.cut_off(2)
        with trio.fail_after(60):
            await until(lambda: 2 not in server.processes[0].mesh.calls.linked)
        started_s = trio.current_time()
        text = (await all_of[0].render(names_accounts=True)).decode()
    assert trio.current_time() - started_s < 1
    lines = text.splitlines()
    assert 'troth_process_up{process="1"} 1.0' in lines
    assert 'troth_process_up{process="2"} 0.0' in lines
    assert 'kitchen_pots{process="1"} 11.0' in lines
    assert 'kitchen_pots{process="2"}' not in text


async def test_a_process_that_hangs_holds_a_scrape_for_a_second(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        all_of = metered(server)
        server.wires[0, 1].is_silent = True
        started_s = trio.current_time()
        text = (await all_of[0].render(names_accounts=True)).decode()
        assert trio.current_time() - started_s <= COLLECT_LIMIT_MS / 1000 + 0.1
    assert 'troth_process_up{process="1"} 0.0' in text
    assert 'kitchen_pots{process="2"} 12.0' in text


async def test_open_metrics_of_several_processes_can_be_read(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        all_of = metered(server)
        text = (await all_of[0].render(names_accounts=True, is_open=True)).decode()
    found = {family.name for family in open_families(text)}  # type: ignore[no-untyped-call]
    assert {"kitchen_pots", "kitchen_cooked", "troth_process_up"} <= found
    assert text.endswith("# EOF\n")


async def test_hostile_values_of_labels_stay_as_they_are() -> None:
    odd = r'x{y="# HELP z\n \"a b'
    text = f'# HELP a What.\n# TYPE a gauge\na{{q="{odd}"}} 1.0\na_b 2.0\n'.encode()
    (found,) = await labeled(text, 7)
    assert found.head == b"# HELP a What.\n# TYPE a gauge\n"
    assert found.lines.decode() == f'a{{process="7",q="{odd}"}} 1.0\na_b{{process="7"}} 2.0\n'
