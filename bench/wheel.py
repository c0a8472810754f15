"""The cost of the timing wheel, compared with a binary heap with lazy deletion.

Run `python -m troth.bench.wheel` for a table of nanoseconds an operation, bytes an entry and the
longest single `advance`. The heap is the usual one: `heapq` of (deadline, number, key), a
dictionary of the entries that still hold, and a rebuild when more than half of the heap is stale.

Measured on two shared cores, CPython 3.11 (seed 1):

                                                     wheel      heap
    arm + cancel, 1,000 live, 1 min (ns)             505.2     457.5
    arm + cancel, 1,000 live, 1 day (ns)             516.1     473.7
    arm + cancel, 100,000 live, 1 min (ns)           971.5   1,120.3
    arm + cancel, 100,000 live, 1 day (ns)           840.9     909.7
    arm + cancel, 1,000,000 live, 1 min (ns)       1,684.6   2,962.4
    arm + cancel, 1,000,000 live, 1 day (ns)       1,266.7   1,180.2
    1,000,000 in 1 h: arm (ns)                     1,022.6   1,094.9
    1,000,000 in 1 h: advance, exact waking (ns)   5,382.0   4,313.9
    1,000,000 in 1 h: longest advance (ms)           176.9       8.0
    1,000,000 in 1 day: arm (ns)                     713.8     703.3
    1,000,000 in 1 day: advance, exact waking (ns)   7,124.0   3,713.9
    1,000,000 in 1 day: longest advance (ms)         242.2       0.7
    memory, 700,000 (bytes)                          112.5     184.2
    memory, 1,000,000 (bytes)                         89.6     171.1

Neither is faster everywhere. The wheel takes about half the memory. Arming and canceling is faster
with 100,000 entries and with a million within a minute, and 7 to 10 % slower with 1,000 entries and
with a million within a day. Waking for each of a million deadlines is slower: moving entries down
costs more than the heap's comparisons. And it pauses when the cursor enters a slot of a high level,
since all its entries move together. The rows of a million in 1 h and 1 day were measured once, on a
busy machine; single runs differ by half.
"""

import heapq
import random
import time
import tracemalloc
from typing import Final, Protocol

from troth.shards.wheel import TimingWheel

START_MS: Final = 1_800_000_000_000
SEED: Final = 1
MIXED_COUNT: Final = 1_500_000
ROUNDS_COUNT: Final = 3  # taken in turn, and the best counts: the machine may be busy


class Timers(Protocol):
    """What both contenders can do."""

    def arm(self, key: str, deadline_ms: int, /) -> None: ...
    def cancel(self, key: str, /) -> bool: ...
    def advance(self, now_ms: int, /) -> list[str]: ...
    def next_wake_ms(self) -> int | None: ...


class LazyHeap:
    """The contender: a binary heap that skips canceled entries when they reach its top."""

    def __init__(self, now_ms: int) -> None:  # noqa: ARG002  (same signature as the wheel's)
        self._heap: list[tuple[int, int, str]] = []
        self._entries: dict[str, tuple[int, int, str]] = {}
        self._armed_count = 0

    def arm(self, key: str, deadline_ms: int) -> None:
        """Set the key's deadline."""
        self._armed_count += 1
        entry = self._entries[key] = (deadline_ms, self._armed_count, key)
        heapq.heappush(self._heap, entry)

    def cancel(self, key: str) -> bool:
        """Forget the key's deadline."""
        if self._entries.pop(key, None) is None:
            return False
        if len(self._heap) > 2 * len(self._entries) + 1_000:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)
        return True

    def advance(self, now_ms: int) -> list[str]:
        """Return the keys that are due."""
        due = []
        while self._heap and self._heap[0][0] <= now_ms:
            entry = heapq.heappop(self._heap)
            if self._entries.get(entry[2]) is entry:
                del self._entries[entry[2]]
                due.append(entry[2])
        return due

    def next_wake_ms(self) -> int | None:
        """Return the earliest deadline."""
        while self._heap and self._entries.get(self._heap[0][2]) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


CONTENDERS: Final[tuple[type[TimingWheel[str]] | type[LazyHeap], ...]] = (
    TimingWheel[str],
    LazyHeap,
)


def delays(count: int, span_ms: int) -> list[int]:
    """Return that many delays within the span, the same ones in each run."""
    chooser = random.Random(SEED)  # noqa: S311
    return [chooser.randrange(1, span_ms) for _ in range(count)]


def mixed_ns(timers: Timers, live_count: int, span_ms: int) -> float:
    """Return the cost of one arm and one cancel while that many entries are live.

    The oldest entry is canceled each time; the clock moves 1 ms in 64 of these.
    """
    keys = [f"promise-{number}" for number in range(live_count + MIXED_COUNT)]
    delays_ms = delays(len(keys), span_ms)
    now_ms = START_MS
    for key, delay_ms in zip(keys[:live_count], delays_ms, strict=False):
        timers.arm(key, now_ms + delay_ms)
    started = time.perf_counter_ns()
    for number in range(MIXED_COUNT):
        if not number & 63:
            now_ms += 1
            timers.advance(now_ms)
            timers.next_wake_ms()
        timers.arm(keys[live_count + number], now_ms + delays_ms[live_count + number])
        timers.cancel(keys[number])
    return (time.perf_counter_ns() - started) / MIXED_COUNT


def separate_ns(timers: Timers, count: int, span_ms: int) -> tuple[float, float, float]:
    """Return ns an arm, ns an entry of waking for each deadline, longest advance in ms."""
    keys = [f"promise-{number}" for number in range(count)]
    delays_ms = delays(count, span_ms)
    started = time.perf_counter_ns()
    for key, delay_ms in zip(keys, delays_ms, strict=True):
        timers.arm(key, START_MS + delay_ms)
    armed = time.perf_counter_ns()
    longest_ns = 0
    while (wake_ms := timers.next_wake_ms()) is not None:
        before = time.perf_counter_ns()
        timers.advance(wake_ms)
        longest_ns = max(longest_ns, time.perf_counter_ns() - before)
    ended = time.perf_counter_ns()
    return (armed - started) / count, (ended - armed) / count, longest_ns / 1e6


def entry_bytes(contender: type[TimingWheel[str]] | type[LazyHeap], count: int) -> float:
    """Return the bytes that an entry takes in addition to its key."""
    keys = [f"promise-{number}" for number in range(count)]
    delays_ms = delays(count, 3_600_000)
    tracemalloc.start()
    try:
        timers = contender(START_MS)
        for key, delay_ms in zip(keys, delays_ms, strict=True):
            timers.arm(key, START_MS + delay_ms)
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


def main() -> None:
    """Print the table."""
    print(f"{'':44}{'wheel':>10}{'heap':>10}")
    for live_count in (1_000, 100_000, 1_000_000):
        for span_ms, span in ((60_000, "1 min"), (86_400_000, "1 day")):
            rounds = [
                [mixed_ns(make(START_MS), live_count, span_ms) for make in CONTENDERS]
                for _ in range(ROUNDS_COUNT)
            ]
            costs = [min(cost_of_one) for cost_of_one in zip(*rounds, strict=True)]
            print_row(f"arm + cancel, {live_count:,} live, {span} (ns)", costs)
    for count, span_ms, span in ((1_000_000, 3_600_000, "1 h"), (1_000_000, 86_400_000, "1 day")):
        rows = [separate_ns(make(START_MS), count, span_ms) for make in CONTENDERS]
        names = ("arm (ns)", "advance, exact waking (ns)", "longest advance (ms)")
        for name, costs_of_name in zip(names, zip(*rows, strict=True), strict=True):
            print_row(f"{count:,} in {span}: {name}", list(costs_of_name))
    for count in (700_000, 1_000_000):
        print_row(f"memory, {count:,} (bytes)", [entry_bytes(make, count) for make in CONTENDERS])


def print_row(name: str, costs: list[float]) -> None:
    """Print one line of the table."""
    print(f"{name:44}" + "".join(f"{cost:10,.1f}" for cost in costs))


if __name__ == "__main__":
    main()
