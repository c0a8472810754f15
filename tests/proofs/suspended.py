"""Proof: workflows that wait and workers that have nothing to do cost next to nothing.

    python -m tests.proofs.suspended

Starts a server, connects a hundred workers of the envelope protocol, and lets 10,000 workflows
suspend, each until somebody completes a promise: two promises, a task and a callback, with the tags
that SDKs give them. It measures what each adds to the server's resident memory, and how much of a
core the server uses then, and how often it wakes up, while nothing happens.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.server import SERVE, ServerProcess
from troth.bench.client import BenchTarget
from troth.bench.load import run, workload_for

from .timing import poll_stream
from .wire import memory_bytes

LOAD_CONNECTIONS: Final = 16
PAYLOAD_BYTES: Final = 40
"""What a call of an SDK with one short argument has as its parameter."""
WARM_UP_COUNT: Final = 3_000
"""Workflows that suspend before memory is measured: code, caches, and what a checkpoint of so many
at once takes for a while, and is not given back, are no workflow's memory."""
CHECKPOINT_MS: Final = 1_000
SETTLE_S: Final = 8.0
WAKEUPS_PER_S_AT_MOST: Final = 5.0
"""One for clock, connections, statistics and shards together, and one for the data directory.

This proof's checkpoints, each second instead of each minute, bring it to 4.
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What was measured."""

    workflows_count: int
    workers_count: int
    bytes_per_workflow: float
    idle_percent: float
    wakeups_per_s: float

    def __str__(self) -> str:
        """All numbers on one line."""
        return ", ".join(f"{name} {getattr(self, name):.4g}" for name in self.__slots__)


def measure(directory: Path, *, workflows_count: int, workers_count: int, idle_s: float) -> Waiting:
    """Run the proof once, in a directory for the server's data."""
    # What changed since the last checkpoint is noted until the next, which is no workflow's memory.
    arguments = ("--checkpoint-interval-ms", str(CHECKPOINT_MS))
    with ServerProcess(directory, *arguments, command=SERVE) as server, ExitStack() as stack:
        for number in range(workers_count):
            stack.enter_context(poll_stream(server.url, f"/poll/workers/worker{number}"))
        suspend(server, "warm", WARM_UP_COUNT)
        time.sleep(SETTLE_S)
        before_bytes = memory_bytes(server.process_id)
        suspend(server, "wait", workflows_count)
        time.sleep(SETTLE_S)
        grown_bytes = memory_bytes(server.process_id) - before_bytes
        idle_percent, wakeups_per_s = measure_idle(server.process_id, idle_s)
        status, answer = server.request("GET", "/promises?id=wait-*&state=pending&limit=1")
        assert status == 200
        assert answer["promises"], "they still wait"
    bytes_per_workflow = grown_bytes / workflows_count
    return Waiting(workflows_count, workers_count, bytes_per_workflow, idle_percent, wakeups_per_s)


def suspend(server: ServerProcess, prefix: str, count: int) -> None:
    """Let so many workflows suspend; their ids begin with the prefix."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    target = BenchTarget(host, int(port), host, int(port), "/poll")
    workload = workload_for(
        target,
        scenario="suspend",
        run=prefix,
        connections=LOAD_CONNECTIONS,
        operation_limit=count,
        payload_bytes=PAYLOAD_BYTES,
    )
    made = run([workload])
    assert not made.errors, made.errors


def measure_idle(process_id: int, idle_s: float) -> tuple[float, float]:
    """Return what a process that nobody asks anything uses of a core, in percent, and its wake-ups.

    The process's own clock has nanoseconds; a hundredth of a second, which `/proc/PID/stat` has,
    would be a tenth of what is measured. Wake-ups are those of all its threads, each second; unlike
    processor time they are as many on a busy machine.
    """
    processor_clock = ~process_id << 3 | 2  # clock_getcpuclockid(3) of Linux
    before_s, started = time.clock_gettime(processor_clock), time.monotonic()
    before = sleep_counts(process_id)
    time.sleep(idle_s)
    slept_count = (sleep_counts(process_id) - before).total()
    used_s = time.clock_gettime(processor_clock) - before_s
    passed_s = time.monotonic() - started
    return 100 * used_s / passed_s, slept_count / passed_s


def sleep_counts(process_id: int) -> Counter[str]:
    """Return how often each thread of a process has gone to sleep of its own accord."""
    counts: Counter[str] = Counter()
    for thread in Path(f"/proc/{process_id}/task").iterdir():
        with suppress(FileNotFoundError):  # one that has just ended
            status = (thread / "status").read_text()
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
            assert found is not None
            counts[thread.name] = int(found[1])
    return counts


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workflows", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="troth-suspended-") as directory:
        waiting = measure(
            Path(directory),
            workflows_count=arguments.workflows,
            workers_count=arguments.workers,
            idle_s=arguments.idle,
        )
    print(waiting)
    assert waiting.bytes_per_workflow <= 2048
    assert waiting.idle_percent < 0.5
    assert waiting.wakeups_per_s <= WAKEUPS_PER_S_AT_MOST


if __name__ == "__main__":
    main()
