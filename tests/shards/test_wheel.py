"""The timing wheel against a model that sorts, and at the size of a busy shard."""

import heapq
import itertools
import random
import time
import tracemalloc
from collections import ChainMap
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from troth.core.model import PENDING, Promise, PromiseState
from troth.shards.wheel import DEADLINE_MAX_MS, TimingWheel

RESOLVED = PromiseState.RESOLVED
START_MS = 1_800_000_000_000

# Times near each other, near the borders of slots and levels, and anywhere.
TIMES_MS = (
    st.integers(START_MS - 300, START_MS + 1_000)
    | st.builds(
        lambda bits, offset: (START_MS >> bits << bits) + (1 << bits) + offset,
        st.integers(0, 61),
        st.integers(-2, 2),
    ).filter(lambda time_ms: time_ms <= DEADLINE_MAX_MS)
    | st.integers(-(2**63), DEADLINE_MAX_MS)
)
KEYS = st.integers(0, 12)
FIXED_KEYS = st.integers(20, 29)


class WheelModel(RuleBasedStateMachine):
    """Drives a wheel and a dictionary of (deadline, arming number) through the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel: TimingWheel[int] = TimingWheel(START_MS)
        self.model: dict[int, tuple[int, int]] = {}
        self.now_ms = START_MS
        self.fixed_ms: dict[int, int] = {}  # what its owner remembers of every fixed key
        self.armed_count = 0
        self.due_count = 0

    @rule(key=KEYS, deadline_ms=TIMES_MS)
    def arm(self, key: int, deadline_ms: int) -> None:
        self.wheel.arm(key, deadline_ms)
        self.armed_count += 1
        self.model[key] = (deadline_ms, self.armed_count)

    @rule(key=KEYS, delay_ms=st.integers(-3, 600))
    def arm_soon(self, key: int, delay_ms: int) -> None:
        self.arm(key, min(self.now_ms + delay_ms, DEADLINE_MAX_MS))

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == (self.model.pop(key, None) is not None)

    @rule(key=FIXED_KEYS, deadline_ms=TIMES_MS)
    def arm_fixed(self, key: int, deadline_ms: int) -> None:
        if key not in self.model:
            self.wheel.arm_fixed(key, deadline_ms)
            self.armed_count += 1
            self.model[key] = (deadline_ms, self.armed_count)
            self.fixed_ms[key] = deadline_ms

    @rule(deadlines_ms=st.dictionaries(FIXED_KEYS, TIMES_MS))
    def arm_all_fixed(self, deadlines_ms: dict[int, int]) -> None:
        new = {key: ms for key, ms in deadlines_ms.items() if key not in self.model}
        due = self.wheel.arm_all_fixed(list(new), list(new.values()), self.now_ms)
        assert due == [key for key, ms in new.items() if ms <= self.now_ms]
        for key, deadline_ms in new.items():
            self.armed_count += 1
            self.model[key] = (deadline_ms, self.armed_count)
            self.fixed_ms[key] = deadline_ms

    @rule(
        deadlines_ms=st.dictionaries(FIXED_KEYS, TIMES_MS),
        states=st.lists(st.sampled_from([PENDING, PENDING, RESOLVED]), min_size=10, max_size=10),
        after_ms=st.integers(0, 400),
    )
    def arm_first_fixed(
        self, deadlines_ms: dict[int, int], states: list[PromiseState], after_ms: int
    ) -> None:
        """Up to the first that is completed, or has a deadline that comes too soon."""
        new = {key: ms for key, ms in deadlines_ms.items() if key not in self.model}
        promises: list[Any] = [
            Promise(key, 0, state, ms, 0)  # type: ignore[arg-type]  # the wheel's keys are numbers
            for (key, ms), state in zip(new.items(), states, strict=False)
        ]
        least_ms = self.now_ms + after_ms

        others = self.wheel.arm_first_fixed(promises, least_ms)

        armed = promises[: len(promises) - len(others)]
        assert [*armed, *others] == promises
        assert all(one.state is PENDING and one.timeout >= least_ms for one in armed)
        if others:
            assert others[0].state is RESOLVED or others[0].timeout < self.wheel_near_ms(least_ms)
        for one in armed:
            self.armed_count += 1
            self.model[one.id] = (one.timeout, self.armed_count)
            self.fixed_ms[one.id] = one.timeout

    def wheel_near_ms(self, least_ms: int) -> int:
        """Before this, a deadline is overdue or belongs to the slot that is spreading."""
        return max(least_ms, self.wheel._near_ms)

    @rule(key=FIXED_KEYS, delay_ms=st.integers(-3, 600))
    def arm_fixed_soon(self, key: int, delay_ms: int) -> None:
        self.arm_fixed(key, min(self.now_ms + delay_ms, DEADLINE_MAX_MS))

    @rule(key=FIXED_KEYS)
    def cancel_fixed(self, key: int) -> None:
        was_armed = self.model.pop(key, None) is not None
        assert self.wheel.cancel_fixed(key, self.fixed_ms.get(key, START_MS)) == was_armed

    def advance_both(self, now_ms: int) -> list[int]:
        self.now_ms = max(self.now_ms, now_ms)
        expected = [key for key, _ in self.due_in_model()]
        self.forget(expected)

        assert self.wheel.advance(now_ms) == expected
        return expected

    def due_in_model(self) -> list[tuple[int, int]]:
        """What is due, in order: keys and their deadlines."""
        heap = [(*entry, key) for key, entry in self.model.items()]
        heapq.heapify(heap)
        due = []
        while heap and heap[0][0] <= self.now_ms:
            deadline_ms, _, key = heapq.heappop(heap)
            due.append((key, deadline_ms))
        return due

    def forget(self, keys: list[int]) -> None:
        for key in keys:
            del self.model[key]
        self.due_count += len(keys)

    @rule(now_ms=TIMES_MS, limit_count=st.integers(1, 3))
    def take_some(self, now_ms: int, limit_count: int) -> None:
        """With a limit it is the beginning of what is due; the wheel wants to go on if one is left.

        A call moves or takes at least one entry, so it cannot return nothing for long.
        """
        self.now_ms = max(self.now_ms, now_ms)
        expected = self.due_in_model()

        taken = self.wheel.take_due(now_ms, limit_count)

        assert len(taken) <= limit_count
        assert taken == expected[: len(taken)]
        self.forget([key for key, _ in taken])
        if len(taken) < len(expected):
            wake_ms = self.wheel.next_wake_ms()
            assert wake_ms is not None
            assert wake_ms <= self.now_ms

    @rule(limit_count=st.integers(1, 3))
    def take_all_in_parts(self, limit_count: int) -> None:
        """Parts come to an end: an entry is moved once a level at most, and taken once."""
        expected = self.due_in_model()
        taken: list[tuple[int, int]] = []
        for _ in range(9 * len(self.model) + 1):
            taken += self.wheel.take_due(self.now_ms, limit_count)
        assert taken == expected
        self.forget([key for key, _ in taken])

    @rule(now_ms=TIMES_MS)
    def advance_anywhere(self, now_ms: int) -> None:
        self.advance_both(now_ms)

    @rule(delay_ms=st.integers(0, 600))
    def advance_a_little(self, delay_ms: int) -> None:
        self.advance_both(min(self.now_ms + delay_ms, DEADLINE_MAX_MS))

    @precondition(lambda self: self.model)
    @rule()
    def advance_to_the_next_deadline_by_waking(self) -> None:
        """Waking only when told reaches the first deadline exactly, after few wake-ups."""
        first_ms = max(min(self.model.values())[0], self.now_ms)
        for _ in range(9):
            wake_ms = self.wheel.next_wake_ms()
            assert wake_ms is not None
            if self.advance_both(wake_ms):
                assert self.now_ms == first_ms
                return
        raise AssertionError("more wake-ups than the wheel has levels")

    @invariant()
    def answers_agree(self) -> None:
        assert len(self.wheel) == len(self.model)
        for key in range(13):
            expected = self.model[key][0] if key in self.model else None
            assert self.wheel.deadline_of(key) == expected
            assert (key in self.wheel) == (key in self.model)

    @invariant()
    def slots_hold_everything_in_order(self) -> None:
        """Everything in one slot is due before everything in the next."""
        slots = [dict(ChainMap(*map(dict, one))) for one in self.wheel.slots(DEADLINE_MAX_MS)]
        found = dict(ChainMap(*slots))
        assert found == {key: deadline_ms for key, (deadline_ms, _) in self.model.items()}
        for before, after in itertools.pairwise(slots):
            assert max(before.values()) < min(after.values())

    @invariant()
    def wakes_in_time(self) -> None:
        wake_ms = self.wheel.next_wake_ms()
        if not self.model:
            assert wake_ms is None
        else:
            assert wake_ms is not None
            assert wake_ms <= min(self.model.values())[0]

    @invariant()
    def counts_agree(self) -> None:
        statistics = self.wheel.statistics()
        assert statistics.entries_count == len(self.model)
        assert statistics.armed_count == self.armed_count
        assert statistics.due_count == self.due_count
        assert statistics.armed_count == (
            statistics.entries_count
            + statistics.replaced_count
            + statistics.cancelled_count
            + statistics.due_count
        )


TestWheelModel = WheelModel.TestCase


def test_due_keys_come_in_order_of_deadline_then_of_arming() -> None:
    wheel: TimingWheel[str] = TimingWheel(START_MS)
    for key, delay_ms in [("c", 70_000), ("a", 70_000), ("b", 69_999), ("d", -1), ("e", -2)]:
        wheel.arm(key, START_MS + delay_ms)
    wheel.arm("c", START_MS + 70_000)  # armed again: now after "a"

    assert wheel.advance(START_MS) == ["e", "d"]
    assert wheel.advance(START_MS + 69_998) == []
    assert wheel.advance(START_MS + 70_000) == ["b", "a", "c"]
    assert wheel.next_wake_ms() is None


def test_a_key_is_due_at_its_deadline_and_not_a_millisecond_before() -> None:
    for delay_ms in (1, 255, 256, 257, 65_535, 65_536, 65_537, 2**40):
        wheel: TimingWheel[str] = TimingWheel(START_MS)
        wheel.arm("a", START_MS + delay_ms)

        assert wheel.advance(START_MS + delay_ms - 1) == []
        assert wheel.advance(START_MS + delay_ms) == ["a"]


def test_the_ends_of_64_bits() -> None:
    wheel: TimingWheel[str] = TimingWheel(0)
    wheel.arm("last", DEADLINE_MAX_MS)
    wheel.arm("first", -(2**63))

    assert wheel.next_wake_ms() == -(2**63)
    assert wheel.advance(0) == ["first"]
    assert wheel.advance(DEADLINE_MAX_MS - 1) == []
    assert wheel.next_wake_ms() == DEADLINE_MAX_MS
    assert wheel.advance(DEADLINE_MAX_MS) == ["last"]


def test_times_beyond_64_bits_are_refused_and_change_nothing() -> None:
    wheel: TimingWheel[str] = TimingWheel(START_MS)
    wheel.arm("a", START_MS + 5)

    with pytest.raises(ValueError, match="beyond"):
        wheel.arm("a", DEADLINE_MAX_MS + 1)
    with pytest.raises(ValueError, match="at most"):
        wheel.advance(DEADLINE_MAX_MS + 1)
    with pytest.raises(ValueError, match="within"):
        TimingWheel(-1)
    assert wheel.deadline_of("a") == START_MS + 5


def test_the_clock_going_back_changes_nothing() -> None:
    wheel: TimingWheel[str] = TimingWheel(START_MS)
    wheel.arm("a", START_MS + 10)

    assert wheel.advance(START_MS - 1_000) == []
    wheel.arm("b", START_MS - 500)
    assert wheel.advance(START_MS - 1_000) == ["b"]
    assert wheel.advance(START_MS + 10) == ["a"]


def test_a_jump_of_decades_costs_nothing() -> None:
    wheel: TimingWheel[int] = TimingWheel(START_MS)
    now_ms = START_MS
    started = time.process_time()
    for key in range(1_000):
        now_ms += 30 * 365 * 86_400_000
        wheel.arm(key, now_ms)
        assert wheel.advance(now_ms) == [key]

    assert time.process_time() - started < 1, "30,000 years a millisecond at a time never end"


def test_no_call_with_a_limit_takes_long() -> None:
    """A hundred thousand at one moment, which a slot of 256 ms holds until then."""
    count, limit_count = 100_000, 256
    wheel: TimingWheel[int] = TimingWheel(START_MS)
    for key in range(count):
        wheel.arm_fixed(key, START_MS + 70_000)
    due: list[int] = []
    longest_s = 0.0
    calls_count = 0
    while len(wheel):
        started = time.thread_time()
        due += [key for key, _ in wheel.take_due(START_MS + 80_000, limit_count)]
        longest_s = max(longest_s, time.thread_time() - started)
        calls_count += 1

    assert due == list(range(count))
    assert calls_count <= 3 * count / limit_count + 3, "each is moved twice and taken once"
    assert longest_s < 0.020


def memory_bytes() -> int:
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
def test_an_entry_takes_little_memory_and_gives_it_back() -> None:
    count = 100_000
    keys = [f"promise-{number}" for number in range(count)]
    tracemalloc.start()
    try:
        wheel: TimingWheel[str] = TimingWheel(START_MS)
        before_bytes = memory_bytes()
        for number, key in enumerate(keys):
            wheel.arm(key, START_MS + 1 + number * 37)
        full_bytes = memory_bytes() - before_bytes
        for key in keys[:-1]:
            wheel.cancel(key)
        for _ in range(70_000):  # the tables are looked over every 65,536 removals
            wheel.arm("a", START_MS + 60_000)
        left_bytes = memory_bytes() - before_bytes
    finally:
        tracemalloc.stop()

    assert full_bytes / count <= 150
    assert left_bytes < 400_000
    assert len(wheel) == 2


@pytest.mark.slow
def test_a_fixed_entry_takes_half_as_much() -> None:
    count = 100_000
    keys = [f"promise-{number}" for number in range(count)]
    tracemalloc.start()
    try:
        wheel: TimingWheel[str] = TimingWheel(START_MS)
        before_bytes = memory_bytes()
        for number, key in enumerate(keys):
            wheel.arm_fixed(key, START_MS + 1 + number * 37)
        full_bytes = memory_bytes() - before_bytes
        for number, key in enumerate(keys):
            assert wheel.cancel_fixed(key, START_MS + 1 + number * 37)
        left_bytes = memory_bytes() - before_bytes
    finally:
        tracemalloc.stop()

    assert full_bytes / count <= 90
    assert left_bytes < 100_000
    assert len(wheel) == 0


@pytest.mark.slow
def test_very_many_timers() -> None:
    seed = 20_261_121
    chooser = random.Random(seed)
    count = 250_000
    deadlines_ms = [START_MS + chooser.randrange(1, 3_600_000) for _ in range(count)]
    started = time.process_time()
    wheel: TimingWheel[int] = TimingWheel(START_MS)
    for key, deadline_ms in enumerate(deadlines_ms):
        wheel.arm(key, deadline_ms)
    for key in range(0, count, 2):
        assert wheel.cancel(key)
    due: list[int] = []
    now_ms = START_MS
    while len(wheel):
        now_ms += 10_000
        due += wheel.advance(now_ms)

    assert time.process_time() - started < 5, "a second; more only if not O(1)"
    assert due == sorted(range(1, count, 2), key=lambda key: (deadlines_ms[key], key)), seed
