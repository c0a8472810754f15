"""Proof: whatever comes due at one moment, others hardly wait, and no beaten lease is lost.

    nice -n -10 python -m tests.proofs.stampede --limit-ms 50

Starts a server for which very much comes due together: the callbacks of one promise fire, leases of
tasks end, locks end, deadlines pass. In the meantime other clients ask for `/ready`, create
promises, and beat for what they hold; each waits for its answer before it asks again. How long the
answers took is printed, with the same before as what this machine can do.
"""

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from tests.helpers.server import ServerProcess
from troth.core.commands import AcquireLock, Command, CreateCallback, CreatePromise
from troth.core.limits import CALLBACKS_LIMIT_COUNT
from troth.core.model import ClaimRequest

from .support import Client
from .timing import SHARD_COUNT, START_S, STARTED_PER_S, fill

FAR_MS: Final = 4_102_444_800_000
GROUP: Final = "poll://any@workers"
TAGS: Final = {"resonate:invoke": GROUP}
OTHERS_COUNT: Final = 20  # tasks, and locks, that a living process beats for
OTHERS_TTL_MS: Final = 3_000
BEFORE_S: Final = 2.0
AFTER_S: Final = 1.0
PAUSE_S: Final = 0.002  # between an answer and the next question
LOOK_S: Final = 1.0  # between two looks at /metrics, which take the server 10 ms
PATIENCE_S: Final = 300.0
COUNTS: Final = {
    "callbacks": "troth_callbacks",
    "leases": 'troth_tasks{state="claimed"}',
    "locks": "troth_locks",
    "deadlines": 'troth_promises{state="pending"}',
}
"""What comes due, and the metric that tells how much of it is left."""


@dataclass
class Waits:
    """How long a kind of question took, in ms: before, and during."""

    before_ms: list[float] = field(default_factory=list)
    during_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{shown(self.before_ms)}, then {shown(self.during_ms)}"


def shown(times_ms: list[float]) -> str:
    """Half, 99 % and all of them took at most so long."""
    found = [percentile_ms(times_ms, percent) for percent in (50, 99, 100)]
    return "/".join(f"{one:.1f}" for one in found)


def percentile_ms(times_ms: list[float], percent: float) -> float:
    """The smallest time that so many percent kept."""
    ordered = sorted(times_ms)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


@dataclass
class Stampede:
    """What was measured of one kind: how others waited, and how long all of it took."""

    kind: str
    waits: dict[str, Waits]
    lasted_s: float
    kept: tuple[int, int]

    def __str__(self) -> str:
        parts = [f"{name} {waits}" for name, waits in self.waits.items()]
        return f"{self.kind}: {self.lasted_s:.1f} s; ms (50/99/100 %): " + "; ".join(parts)

    @property
    def worst_ms(self) -> float:
        """The longest that anybody waited in the meantime."""
        return max(max(waits.during_ms) for waits in self.waits.values())

    @property
    def p99_ms(self) -> float:
        """What 99 % of those kept who waited longest."""
        return max(percentile_ms(waits.during_ms, 99) for waits in self.waits.values())


def others() -> Iterator[Command]:
    """What a living process holds."""
    claim = ClaimRequest("alive", OTHERS_TTL_MS)
    for number in range(OTHERS_COUNT):
        yield CreatePromise(f"alive{number}", FAR_MS, tags=TAGS, claim=claim)
        yield AcquireLock(f"alive{number}", "e", "alive", OTHERS_TTL_MS)


def prepared(kind: str, many_count: int, due_ms: int) -> Iterator[Command]:
    """What comes due. Leases and locks have their full time again from the server's start."""
    if kind == "callbacks":
        yield CreatePromise("many", FAR_MS)
        for number in range(min(many_count, CALLBACKS_LIMIT_COUNT)):
            yield CreateCallback("many", f"root{number}", FAR_MS, GROUP)
    for number in range(0 if kind == "callbacks" else many_count):
        if kind == "leases":
            claim = ClaimRequest("dead", _ttl_ms(many_count))
            yield CreatePromise(f"many{number}", FAR_MS, tags=TAGS, claim=claim)
        elif kind == "locks":
            yield AcquireLock(f"many{number}", "e", "dead", _ttl_ms(many_count))
        else:
            yield CreatePromise(f"many{number}", due_ms)


def _ttl_ms(many_count: int) -> int:
    """How long leases last: a server that starts with so many is ready by then."""
    return int((START_S + many_count / STARTED_PER_S + BEFORE_S) * 1000)


class Asker(threading.Thread):
    """A client that asks the same thing again and again, and how long each answer took."""

    def __init__(self, url: str, ask: Callable[[Client, int], None]) -> None:
        super().__init__()
        self._url = url
        self._ask = ask
        self.is_over = threading.Event()
        self.times: list[tuple[float, float]] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self._url) as client:
                for number in count():
                    if self.is_over.is_set():
                        return
                    began = time.perf_counter()
                    self._ask(client, number)
                    self.times.append((began, (time.perf_counter() - began) * 1000))
                    time.sleep(PAUSE_S)
        except Exception as error:
            self.failure = error


def _ready(client: Client, _: int) -> None:
    assert client.call("GET", "/ready")[0] == 200


def _create(client: Client, number: int) -> None:
    body = {"id": f"new{number}", "timeout": FAR_MS}
    assert client.call("POST", "/promises", body)[0] == 201


def _beat_tasks(client: Client, _: int) -> None:
    status, answer = client.call("POST", "/tasks/heartbeat", {"processId": "alive"})
    assert status == 200, answer


def _beat_locks(client: Client, _: int) -> None:
    status, answer = client.call("POST", "/locks/heartbeat", {"processId": "alive"})
    assert status == 200, answer


ASKED: Final = {
    "ready": _ready,
    "create": _create,
    "beat tasks": _beat_tasks,
    "beat locks": _beat_locks,
}


def measure(
    directory: Path, kind: str, many_count: int, shard_count: int = SHARD_COUNT
) -> Stampede:
    """Run one kind once. Raises AssertionError if a lease is lost that was beaten in time."""
    due_s = time.time() + _ttl_ms(many_count) / 1000 + 2 * many_count / STARTED_PER_S
    server = ServerProcess(directory)
    commands = [*others(), *prepared(kind, many_count, int(due_s * 1000))]
    fill(server.data, commands, shard_count)
    with server:
        askers = {name: Asker(server.url, ask) for name, ask in ASKED.items()}
        for asker in askers.values():
            asker.start()
        try:
            began, ended = _let_come_due(server, kind, due_s)
        finally:
            for asker in askers.values():
                asker.is_over.set()
            for asker in askers.values():
                asker.join()
        for asker in askers.values():
            if asker.failure is not None:
                raise asker.failure
        kept = _kept(server)
    waits = {
        name: Waits(
            [took_ms for at, took_ms in asker.times if at < began - LOOK_S],
            [took_ms for at, took_ms in asker.times if began - LOOK_S <= at],
        )
        for name, asker in askers.items()
    }
    return Stampede(kind, waits, ended - began, kept)


def _let_come_due(server: ServerProcess, kind: str, due_s: float) -> tuple[float, float]:
    """Wait until all has come due and is done; when that began and ended, by `perf_counter`."""
    metric = COUNTS[kind]
    with Client(server.url) as client:
        full_count = _number(client, metric)
        if kind == "callbacks":
            time.sleep(BEFORE_S)
            began = time.perf_counter()
            value = {"state": "RESOLVED"}
            assert client.call("PATCH", "/promises/many", value)[0] == 201
        else:
            if kind == "deadlines":
                time.sleep(max(due_s - time.time() - LOOK_S, 0))
            assert full_count > OTHERS_COUNT, "the machine is too slow: all is over already"
            while (left_count := _number(client, metric)) >= full_count:
                full_count = max(left_count, full_count)
                time.sleep(LOOK_S)
            began = time.perf_counter() - LOOK_S
        ends = time.perf_counter() + PATIENCE_S
        least_count = 0 if kind == "callbacks" else OTHERS_COUNT
        last_count = full_count
        while True:
            left_count = _number(client, metric)
            # New promises are pending, too: then it is done when no more of them time out.
            if left_count <= least_count or (kind == "deadlines" and left_count >= last_count):
                break
            last_count = left_count
            assert time.perf_counter() < ends, f"{left_count} are left"
            time.sleep(LOOK_S)
        ended = time.perf_counter()
        time.sleep(AFTER_S)
    return began, ended


def _number(client: Client, metric: str) -> int:
    """A metric as it is now."""
    status, text = client.call("GET", "/metrics")
    assert status == 200
    found = [line.rpartition(" ") for line in text.splitlines()]
    return next(int(float(number)) for name, _, number in found if name == metric)


def _kept(server: ServerProcess) -> tuple[int, int]:
    """How many tasks and locks the living process still holds, as it was given them."""
    with Client(server.url) as client:
        tasks_count = locks_count = 0
        for number in range(OTHERS_COUNT):
            body = {"id": f"__invoke:alive{number}", "counter": 1}
            tasks_count += client.call("POST", "/tasks/complete", body)[0] == 201
            lock = {"resourceId": f"alive{number}", "executionId": "e"}
            locks_count += client.call("POST", "/locks/release", lock)[0] == 204
    return tasks_count, locks_count


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(COUNTS)} (all)")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--limit-ms", type=float, help="the longest that anybody may wait")
    parser.add_argument("--shards", type=int, default=SHARD_COUNT)
    arguments = parser.parse_args()
    for kind in arguments.kinds or COUNTS:
        with tempfile.TemporaryDirectory(prefix="troth-stampede-") as directory:
            found = measure(Path(directory), kind, arguments.count, arguments.shards)
        print(found, flush=True)
        assert found.kept == (OTHERS_COUNT, OTHERS_COUNT), found.kept
        assert arguments.limit_ms is None or found.worst_ms <= arguments.limit_ms


if __name__ == "__main__":
    main()
