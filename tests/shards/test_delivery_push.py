"""Delivery to push targets: queues, shares, back-off and circuit breakers, on a fake clock."""

from itertools import pairwise
from statistics import median

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from troth.core.commands import RetryTask, TaskNotSent, TaskSent
from troth.core.model import Trace
from troth.shards.delivery import push_targets

from .delivery_world import World, message, stalled_count


def url(host: str) -> str:
    return f"http://{host}/hook"


async def test_an_accepted_message_is_reported_sent(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        world.send(message("t", url("good"), counter=2, trace=Trace("00-ab-cd-01", "x=y")))
        await trio.sleep(1)
        assert world.commands() == [TaskSent("t", 2)]
        assert world.push.headers == [{"traceparent": "00-ab-cd-01", "tracestate": "x=y"}]


async def test_a_trace_that_no_header_can_carry_is_left_out(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running():
        world.send(message("1", url("good"), trace=Trace("00\r\nEvil: yes")))
        world.send(message("2", url("good"), trace=Trace("00-ab", "ü")))
        await trio.sleep(1)
        assert world.push.headers == [{}, {"traceparent": "00-ab"}]


async def test_messages_wait_until_run(autojump_clock: MockClock) -> None:
    world = World()
    world.send(message("t", url("good")))
    await trio.sleep(1)
    assert world.push.arrivals == []
    async with world.running():
        await trio.sleep(1)
        assert world.sent_ids() == ["t"]


async def test_a_failing_target_is_probed_at_the_back_off_pace(autojump_clock: MockClock) -> None:
    """1 s doubling to 60 s, with jitter of a fifth; one message at a time."""
    world = World()
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        for number in range(5):
            world.send(message(str(number), url("bad")))
        await trio.sleep(400)
        times = [at for at, _ in world.push.arrivals_at("bad")]
        delays = [later - earlier - 0.01 for earlier, later in pairwise(times)]
        expected = [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert len(delays) >= len(expected)
        for delay, ideal in zip(delays, expected, strict=False):
            assert 0.8 * ideal <= delay <= 1.2 * ideal, (delay, ideal)
        assert world.push.most_in_flight["bad"] == 1
        # Every task was reported at its first failure, and the probes took turns.
        assert set(world.not_sent_ids()[:5]) == {"0", "1", "2", "3", "4"}
        assert len({body for _, body in world.push.arrivals_at("bad")[:5]}) >= 4


async def test_the_stalled_tasks_go_at_once_when_the_target_answers_again(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.push.behaviour["host"] = "fail"
    async with world.running():
        for number in range(1_000):
            world.send(message(str(number), url("host")))
        await trio.sleep(40)
        assert world.sent_ids() == []
        row = next(view for view in world.delivery.receivers() if view.failing_since_ms)
        assert (row.target, row.health) == ("http://host:80", "failing")
        assert stalled_count(world.delivery) == 1_000
        assert row.failing_since_ms == 10
        world.push.behaviour["host"] = 0.01
        await trio.sleep(30)  # the next probe succeeds
        assert sorted(world.sent_ids(), key=int) == [str(number) for number in range(1_000)]
        assert stalled_count(world.delivery) == 0
        assert not len(world.delivery._shipments)


async def test_a_receiver_gets_all_that_is_stalled_on_demand(autojump_clock: MockClock) -> None:
    """A minute before it would be tried again; whether it failed always or for one message."""
    world = World()
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        for number in range(5):
            world.send(message(str(number), url("bad")))
        await trio.sleep(70)
        del world.push.behaviour["bad"]
        assert world.delivery.retry_receiver("http://other:80", 2) == 0
        await trio.sleep(1)
        assert world.sent_ids() == []
        while world.delivery.retry_receiver("http://bad:80", 2):
            pass
        await trio.sleep(1)
        assert sorted(world.sent_ids()) == ["0", "1", "2", "3", "4"]
        world.send(message("5", url("good")))
        await trio.sleep(1)
        world.push.behaviour["good"] = "fail"
        world.send(message("6", url("good")))
        await trio.sleep(0.3)
        del world.push.behaviour["good"]
        assert world.delivery.retry_receiver("http://good:80", 2) == 1
        await trio.sleep(0.1)
        assert "6" in world.sent_ids()


async def test_a_message_can_be_looked_at_and_tried_now(autojump_clock: MockClock) -> None:
    """Before its back-off is over, and when its target is known to fail."""
    world = World()
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        world.send(message("one", url("bad")))
        await trio.sleep(0.5)
        view = world.delivery.look("one")
        assert view is not None
        assert view.error
        assert view.next_try_in_ms is not None
        assert 0 < view.next_try_in_ms <= 1_200
        assert world.delivery.look("none") is None
        assert not world.delivery.retry("none")
        await trio.sleep(70)
        view = world.delivery.look("one")
        assert view is not None
        assert (view.failed_count > 3, view.failing_since_ms) == (True, 10)
        del world.push.behaviour["bad"]
        assert world.delivery.retry("one")
        await trio.sleep(0.1)
        assert world.sent_ids() == ["one"]
        assert world.delivery.look("one") is None


async def test_single_failures_back_off_alone_and_do_not_open_the_breaker(
    autojump_clock: MockClock,
) -> None:
    """A message its receiver cannot take ("poison") must not stop the others."""
    world = World()
    async with world.running():
        world.send(message("first", url("host")))
        await trio.sleep(1)
        world.push.behaviour["host"] = "fail"
        world.send(message("poison", url("host")))
        await trio.sleep(0.1)
        world.push.behaviour["host"] = 0.01
        world.send(message("other", url("host")))
        await trio.sleep(0.1)
        assert world.sent_ids() == ["first", "other"]
        await trio.sleep(2)
        assert world.sent_ids() == ["first", "other", "poison"]
        assert 0.8 <= world.retried_at("poison")[0] - 1.01 <= 1.2


async def test_attempts_are_remembered_while_a_task_keeps_failing(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.push.behaviour["poison/1"] = "fail"
    async with world.running():
        world.send(message("good", url("host")))
        await trio.sleep(0.5)
        world.send(message("poison", url("host")))
        while trio.current_time() < 60:
            world.send(message("good", url("host")))  # successes keep the breaker closed
            await trio.sleep(0.5)
        times = [at for at, body in world.push.arrivals_at("host") if body == "poison/1"]
        delays = [later - earlier - 0.01 for earlier, later in pairwise(times)]
        assert len(delays) >= 4
        for delay, ideal in zip(delays, [1, 2, 4, 8, 16, 32], strict=False):
            assert 0.8 * ideal <= delay <= 1.2 * ideal + 0.02, (delay, ideal)


async def test_the_queue_of_a_target_is_bounded(autojump_clock: MockClock) -> None:
    world = World(target_queue_limit_count=10)
    world.push.behaviour["slow"] = 5
    async with world.running():
        await wait_all_tasks_blocked()
        for number in range(15):
            world.send(message(str(number), url("slow")))
        assert world.not_sent_ids() == ["11", "12", "13", "14"]  # one is in flight, ten wait
        await trio.sleep(2_000)
        assert len(world.sent_ids()) == 15


async def test_concurrency_per_target_and_altogether(autojump_clock: MockClock) -> None:
    world = World(concurrency_per_target_count=4, concurrency_count=64)
    async with world.running():
        for host in ("one", "two", "three", "four", "five"):
            world.push.behaviour[host] = 0.1
            for number in range(100):
                world.send(message(f"{host} {number}", url(host)))
        await trio.sleep(60)
        assert len(world.sent_ids()) == 500
        for host in ("one", "two", "three", "four", "five"):
            assert world.push.most_in_flight[host] == 4
        assert world.push.most_in_flight[""] <= 20


async def test_targets_take_turns(autojump_clock: MockClock) -> None:
    world = World(concurrency_count=4)
    async with world.running():
        for number in range(50):
            world.send(message(f"busy {number}", url("busy")))
        world.send(message("t", url("other")))
        await trio.sleep(10)
        bodies = [body for _, _, body in world.push.arrivals]
        assert bodies.index("t/1") <= 3


async def test_a_slow_target_gets_one_send_at_a_time_until_it_is_quick_again(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.running():
        world.send(message("first", url("host")))
        await trio.sleep(1)
        world.push.behaviour["host"] = 3
        for number in range(20):
            world.send(message(str(number), url("host")))
        await wait_all_tasks_blocked()
        assert world.push.in_flight["host"] == 8  # it was good until now
        await trio.sleep(5)
        assert world.push.in_flight["host"] == 1
        world.push.behaviour["host"] = 0.01
        await trio.sleep(10)
        assert len(world.sent_ids()) == 21
        assert world.not_sent_ids() == []  # slow is not failing


async def test_good_targets_find_room_while_hundreds_hang(autojump_clock: MockClock) -> None:
    """M = 32 places; 500 new targets hang and 30 known ones turn bad, all at once."""
    world = World(concurrency_count=32)
    async with world.running():
        for number in range(130):
            world.send(message(f"warm {number}", url(f"host{number}")))
        await trio.sleep(10)
        for number in range(30):
            world.push.behaviour[f"host{number}"] = "timeout"
            for copy in range(20):
                world.send(message(f"turned {number} {copy}", url(f"host{number}")))
        for number in range(500):
            world.push.behaviour[f"hanging{number}"] = "timeout"
            world.send(message(f"hang {number}", url(f"hanging{number}")))
        await trio.sleep(0.5)
        rounds: list[float] = []
        for round_number in range(20):
            started = trio.current_time()
            names = [f"good {round_number} {number}" for number in range(30, 130)]
            for number, name in zip(range(30, 130), names, strict=True):
                world.send(message(name, url(f"host{number}")))
            while not set(names) <= set(world.sent_ids()):  # noqa: ASYNC110  on a fake clock
                await trio.sleep(0.005)
            rounds.append(trio.current_time() - started)
            latest = max(rounds)
            await trio.sleep(2)
        assert world.push.most_in_flight[""] <= 32
        # 16 places for good targets, 100 sends of 10 ms: 70 ms. Of the 30 that turned bad, 16 hold
        # them for 1 s and 14 for another, until all are known to be slow. Never again after that.
        assert latest <= 2.1
        assert median(rounds) <= 0.1
        assert world.delivery.statistics().push_given_up_total_count > 0


async def test_new_targets_find_room_while_others_hang(autojump_clock: MockClock) -> None:
    world = World(concurrency_count=32)
    async with world.running():
        for number in range(100):
            world.push.behaviour[f"hanging{number}"] = "timeout"
            world.send(message(f"hang {number}", url(f"hanging{number}")))
        await trio.sleep(60)
        for number in range(8):
            world.send(message(f"new {number}", url(f"new{number}")))
        await trio.sleep(1.2)
        assert {f"new {number}" for number in range(8)} <= set(world.sent_ids())


async def test_withdrawing_from_queue_flight_and_back_off(autojump_clock: MockClock) -> None:
    world = World()
    world.push.behaviour["host"] = 5
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        for name in ("flying", "queued"):
            world.send(message(name, url("host")))
        world.send(message("failed", url("bad")))
        await trio.sleep(0.1)
        for name in ("flying", "queued", "failed"):
            world.withdraw(name)
        await trio.sleep(100)
        assert world.commands() == [TaskNotSent("failed", 1)]
        assert [body for _, body in world.push.arrivals_at("host")] == ["flying/1"]
        assert not len(world.delivery._shipments)


async def test_a_withdrawn_probe_lets_another_be_the_probe(autojump_clock: MockClock) -> None:
    world = World()
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        for number in range(3):
            world.send(message(str(number), url("bad")))
        await trio.sleep(0.5)
        world.push.behaviour["bad"] = 0.01
        for name in ("1", "2"):
            del world.tasks[name]  # asked for, but the machine sends nothing
        await trio.sleep(10)
        assert world.sent_ids() == ["0"]


async def test_a_defect_of_the_transport_is_contained(autojump_clock: MockClock) -> None:
    world = World()
    world.push.behaviour["odd"] = "break"
    async with world.running():
        world.send(message("1", url("odd")))
        world.send(message("2", url("good")))
        await trio.sleep(0.5)
        assert world.not_sent_ids() == ["1"]
        assert world.sent_ids() == ["2"]


async def test_ending_counts_pushes_under_way_as_failed_and_starts_no_more(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.push.behaviour["host"] = "hang"
    async with world.running():
        for number in range(100):
            world.send(message(str(number), url("host")))
        await trio.sleep(0.1)
    assert world.not_sent_ids() == ["0"]
    assert len(world.push.arrivals) == 1
    assert world.push.in_flight["host"] == 0


@pytest.mark.slow
async def test_idle_targets_are_forgotten(autojump_clock: MockClock) -> None:
    world = World(concurrency_count=4_000)
    async with world.running():
        for number in range(6_000):
            world.send(message(str(number), url(f"host{number}")))
        await trio.sleep(10)
        statistics = world.delivery.statistics()
        assert statistics.sent_total_count == 6_000
        assert statistics.push_targets_count == 4_096
        assert statistics.in_flight_count == 0
        assert not any(view.waiting_count for view in world.delivery.receivers())


async def test_a_target_that_fails_is_not_tried_sooner_when_it_is_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one, and another one is idle: this one is forgotten after each attempt."""
    monkeypatch.setattr(push_targets, "_IDLE_LIMIT_COUNT", 1)
    world = World()
    world.push.behaviour["bad"] = "fail"
    async with world.running():
        world.send(message("1", url("other")))
        await trio.sleep(1)
        world.send(message("2", url("bad")))
        await trio.sleep(60)
        assert 2 <= len(world.push.arrivals_at("bad")) <= 100
        del world.push.behaviour["bad"]
        await trio.sleep(60)
        assert world.sent_ids() == ["1", "2"]


_STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 5), st.sampled_from("xyz")),
    st.tuples(st.just("withdraw"), st.integers(0, 5), st.none()),
    st.tuples(
        st.just("behave"),
        st.sampled_from([0.01, 3.0, "fail", "timeout", "break"]),
        st.sampled_from("xyz"),
    ),
    st.tuples(st.just("sleep"), st.sampled_from([0.005, 0.5, 5.0, 70.0]), st.none()),
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(steps=st.lists(_STEPS, max_size=30), seed=st.integers(0, 2**32))
def test_once_all_receivers_are_well_every_task_arrives(
    steps: list[tuple[str, float | str, str | None]], seed: int
) -> None:
    """No message is lost, none is reported sent twice, and nothing is remembered afterwards."""

    async def scenario() -> None:
        world = World(seed=seed, concurrency_count=4, target_queue_limit_count=2)
        counter = 0
        expected: dict[str, int] = {}
        async with world.running():
            for step, value, host in steps:
                if step == "send":
                    counter += 1
                    expected[str(value)] = counter
                    world.send(message(str(value), url(str(host)), counter=counter))
                elif step == "withdraw":
                    expected.pop(str(value), None)
                    world.withdraw(str(value))
                elif step == "behave":
                    assert host is not None
                    world.push.behaviour[host] = value
                else:
                    await trio.sleep(float(value))
            world.push.behaviour.clear()
            await trio.sleep(1_000)
        sent = [(one.id, one.counter) for one in world.commands() if isinstance(one, TaskSent)]
        assert len(sent) == len(set(sent))
        assert set(expected.items()) <= set(sent)
        assert world.tasks == {}
        assert not len(world.delivery._shipments)
        asked = [one for one in world.commands() if isinstance(one, RetryTask)]
        failed = [one for one in world.commands() if isinstance(one, TaskNotSent)]
        assert len(asked) <= len(failed)

    trio.run(scenario, clock=MockClock(autojump_threshold=0))
