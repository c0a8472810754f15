"""The generator checked: against servers whose speed and faults are known.

These run real processes on a machine that may be busy, so they hold what does not depend on its
speed: rates that the server sets, counts, and laws between them.
"""

import time

import pytest

from troth.bench.children import EchoProcess
from troth.bench.client import BenchTarget, BenchUnreachable
from troth.bench.load import Run, Slot, divide, run, workload_for
from troth.bench.machine import Cores
from troth.bench.scenarios.table import SCENARIOS

from .fake_server import FakeServer, answer

ANYWHERE = Cores(None, ())


def load(target: BenchTarget, processes: int = 1, **options: object) -> Run:
    workload = workload_for(target, **{"scenario": "echo", "warm_up_s": 0.25, **options})
    return run(divide(workload, processes, ANYWHERE))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_known_rate_is_measured_within_a_tenth(processes: int) -> None:
    with EchoProcess(None, rate=400) as target:
        seen = load(target, processes, connections=8, duration_s=1.5)

    assert seen.throughput == pytest.approx(400, rel=0.1)
    # Little's law: what is in flight is the rate times the time it takes.
    assert seen.throughput * seen.latency.mean / 1e9 == pytest.approx(8, rel=0.15)
    assert seen.failures == 0
    assert seen.unfinished == 0


def test_connections_are_shared_out_among_servers() -> None:
    with EchoProcess(None, rate=100) as first, EchoProcess(None, rate=300) as second:
        workload = workload_for(
            first, scenario="echo", connections=7, duration_s=1.0, warm_up_s=0.25
        )
        shares = divide(workload, 1, ANYWHERE, [first, second])
        seen = run(shares)

    assert [(one.port, one.connections) for one in shares] == [(first.port, 4), (second.port, 3)]
    assert seen.throughput == pytest.approx(400, rel=0.1)


def test_a_given_rate_is_kept() -> None:
    slots: list[Slot] = []
    with EchoProcess(None) as target:
        workload = workload_for(
            target, scenario="echo", connections=16, rate=300.0, duration_s=1.0, warm_up_s=0.25
        )
        seen = run([workload], target.process_id, None, slots.append)

    # What arrives in the measured second is counted, whenever it ends.
    assert seen.latency.count == pytest.approx(300, abs=3)
    assert seen.unfinished == 0
    # The last may have ended after the last quarter of a second that is shown.
    shown = sum(slot.latency.count for slot in slots if slot.measured)
    assert shown == pytest.approx(seen.latency.count, abs=30)
    assert {slot.server is not None for slot in slots} == {True}


def test_a_pause_of_the_server_is_charged_for_everybody_who_would_have_come() -> None:
    paused_s = 0.5

    def pause_once(number: int) -> bytes:
        if number == 150:
            time.sleep(paused_s)
        return answer(200)

    with FakeServer(pause_once) as server:
        seen = load(server.target, connections=4, rate=200.0, duration_s=1.5)

    # 4 connections saw the pause, but 100 operations were to start meanwhile; half of those waited
    # for half of it or longer.
    slow = sum(count for low, _, count in seen.latency.buckets() if low >= paused_s / 2 * 1e9)
    assert slow >= 40
    assert seen.latency.maximum >= 0.95 * paused_s * 1e9


def test_without_a_rate_the_same_pause_hides() -> None:
    def pause_once(number: int) -> bytes:
        if number == 100:
            time.sleep(0.5)
        return answer(200)

    with FakeServer(pause_once) as server:
        seen = load(server.target, connections=4, duration_s=1.5, warm_up_s=0.0)

    slow = sum(count for low, _, count in seen.latency.buckets() if low >= 0.25e9)
    assert 1 <= slow <= 8


@pytest.mark.slow
def test_what_never_ends_counts_with_the_time_it_waited() -> None:
    with EchoProcess(None, rate=50) as target:
        seen = load(target, connections=4, rate=400.0, duration_s=1.0, warm_up_s=0.0)

    assert seen.unfinished > 100
    assert seen.latency.count == pytest.approx(400, abs=3)
    assert seen.latency.percentile(99) > 1.5e9


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (lambda number: answer(500 if number % 4 == 3 else 200), "echo answered 500"),
        (lambda number: None if number % 4 == 3 else answer(200), "the server closed"),
        (lambda number: b"what?\r\n\r\n" if number % 4 == 3 else answer(200), "not an HTTP answer"),
    ],
    ids=["status", "closed", "nonsense"],
)
def test_failures_are_counted_and_the_load_goes_on(behaviour: object, said: str) -> None:
    with FakeServer(behaviour) as server:  # type: ignore[arg-type]
        seen = load(server.target, connections=2, operation_limit=40)

    assert sum(seen.errors.values()) + seen.latency.count == 40
    assert seen.latency.count >= 28
    assert all(text.startswith(said) for text in seen.errors)
    assert seen.failures >= 8


def test_a_request_without_an_answer_is_given_up() -> None:
    with FakeServer(lambda _number: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as server:
        seen = load(server.target, connections=2, operation_limit=2, request_timeout_s=0.2)

    assert seen.errors == {"no answer within the time limit": 2}


def test_a_limit_of_operations_is_kept_by_all_processes_together() -> None:
    with EchoProcess(None) as target:
        seen = load(target, 3, connections=8, operation_limit=100)

    assert seen.latency.count == seen.requests == 100


def test_nobody_there_is_said() -> None:
    with pytest.raises(BenchUnreachable, match=r"127\.0\.0\.1:1"):
        load(BenchTarget("127.0.0.1", 1, "127.0.0.1", 1), connections=1)


def test_every_scenario_says_what_it_is() -> None:
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.summary
        # A mix has the steps of its parts, and those are only known when it is made.
        assert name == "mixed" or scenario.steps
