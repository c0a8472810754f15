"""Makes load with one or more processes and joins what they saw into one `Run`."""

import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .client import BenchError, BenchTarget, BenchUnreachable
from .histogram import Histogram
from .machine import Cores, ProcessUsage, usage
from .workload import Workload

SLOT_S: Final = 0.25
BUSY_SHARE: Final = 0.9
"""A load process that uses more of its core than this may be what limits the result."""
LAG_LIMIT_MS: Final = 2.0
LINE_TIMEOUT_S: Final = 60.0


@dataclass
class Slot:
    """A quarter of a second of a run, all load processes together."""

    at_s: float
    measured: bool
    latency: Histogram = field(default_factory=Histogram)
    failures: int = 0
    server: ProcessUsage | None = None


@dataclass
class Run:
    """What one run of one scenario showed."""

    elapsed_s: float = 0.0
    latency: Histogram = field(default_factory=Histogram)
    """Of whole operations, nanoseconds."""
    steps: dict[str, Histogram] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    unfinished: int = 0
    slots: dict[int, Slot] = field(default_factory=dict)
    generator_share: float = 0.0
    """The busiest load process's share of its core."""
    lag: Histogram = field(default_factory=Histogram)
    server_share: float | None = None
    """Of one core, in the measured time."""
    server_memory_bytes: int | None = None
    checkpoints_s: list[float] = field(default_factory=list)
    """When the server wrote a checkpoint, since the beginning of the warm-up."""

    @property
    def throughput(self) -> float:
        """Operations a second that ended well."""
        done = self.latency.count - self.unfinished
        return done / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def failures(self) -> int:
        """Operations that did not."""
        return sum(self.errors.values())

    def generator_limits(self, *, open_loop: bool) -> bool:
        """Return whether the load processes, not the server, may have set the result."""
        if open_loop:
            return self.lag.percentile(99) > LAG_LIMIT_MS * 1e6
        return self.generator_share > BUSY_SHARE


class _Child:
    """One load process and the lines it writes."""

    def __init__(self, workload: Workload) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(  # noqa: S603 — our own program
            (sys.executable, "-m", f"{__package__}.generator"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.output = self._process.stdout
        self._input = self._process.stdin
        self._buffer = b""
        self.totals: dict[str, Any] | None = None
        self.is_ready = False
        self.tell(workload.to_json())

    def tell(self, line: str) -> None:
        """Write one line to it. Raises BenchError if it is gone."""
        try:
            self._input.write(line.encode() + b"\n")
            self._input.flush()
        except OSError as error:
            raise BenchError("a load process ended early") from error

    def read(self) -> list[dict[str, Any]]:
        """Return the lines that have come. Raises BenchError if it has failed or ended early."""
        data = os.read(self.output.fileno(), 1 << 20)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            if "failed" in message:
                raise BenchUnreachable(f"cannot connect to {message['failed']}")
            self.totals = message.get("totals", self.totals)
        if not data and self.totals is None:
            raise BenchError("a load process ended early; its output is above")
        return messages

    def note_ready(self, message: dict[str, Any]) -> None:
        """Take what comes before the start: that it is ready."""
        self.is_ready = self.is_ready or "ready" in message

    def end(self) -> None:
        """Make sure that it has ended."""
        if self.totals is None:
            self._process.kill()
        self._process.wait()
        self._input.close()
        self.output.close()


def workload_for(target: BenchTarget, **options: Any) -> Workload:
    """Return a workload against a server."""
    return Workload(**_address(target), **options)


def _aimed(workload: Workload, target: BenchTarget) -> Workload:
    """Return a workload against another server."""
    return dataclasses.replace(workload, **_address(target))


def _address(target: BenchTarget) -> dict[str, Any]:
    """Return what a workload says of its server."""
    return {
        "host": target.host,
        "port": target.port,
        "poll_host": target.poll_host,
        "poll_port": target.poll_port,
        "poll_prefix": target.poll_prefix,
        "authorization": target.authorization,
    }


def divide(
    workload: Workload, processes: int, cores: Cores, targets: Sequence[BenchTarget] = ()
) -> list[Workload]:
    """Share a workload out among processes, as evenly as its connections allow.

    With several targets there are as many processes for each, and no others; without any, the
    workload's own is meant.
    """
    processes = min(processes * max(len(targets), 1), workload.connections)
    parts = []
    for number in range(processes):
        connections = workload.connections // processes
        connections += number < workload.connections % processes
        limit = workload.operation_limit
        if limit is not None:
            limit = limit // processes + (number < limit % processes)
        share = dataclasses.replace(
            workload,
            process=number,
            connections=connections,
            rate=workload.rate / processes if workload.rate is not None else None,
            operation_limit=limit,
            cpu=cores.load_core(number),
        )
        if targets:
            share = _aimed(share, targets[number % len(targets)])
        parts.append(share)
    return parts


def run(
    workloads: Sequence[Workload],
    server_process_id: int | None = None,
    data: Path | None = None,
    progress: Callable[[Slot], None] = lambda _slot: None,
) -> Run:
    """Run workloads at the same time, one process each. Raises BenchError.

    `data` is the server's data directory, if it is known: when its checkpoints change is noted.
    `progress` is told of every quarter of a second, when the last process has reported it.
    """
    children: list[_Child] = []
    result = Run()
    try:
        children.extend(map(_Child, workloads))
        _wait(children, lambda child, message: child.note_ready(message), _is_ready)
        for child in children:
            child.tell("go")
        watch = _Watch(server_process_id, data)
        reported: Counter[float] = Counter()

        def note(_child: _Child, message: dict[str, Any]) -> None:
            if "interval" in message:
                slot = _join_interval(result, message["interval"])
                slot.server = watch.look(measured=slot.measured)
                reported[slot.at_s] += 1
                if reported[slot.at_s] == len(children):
                    progress(slot)

        _wait(children, note, lambda child: child.totals is not None, watch)
        for child in children:
            assert child.totals is not None
            _join_totals(result, child.totals)
        watch.finish(result)
    finally:
        for child in children:
            child.end()
    return result


def _is_ready(child: _Child) -> bool:
    return child.is_ready


class _Watch:
    """Looks at the server while it is under load."""

    def __init__(self, process_id: int | None, data: Path | None) -> None:
        self._process_id = process_id
        self._data = data
        self._changed = self._last_change()
        self._start = time.perf_counter()
        self._first: tuple[float, ProcessUsage] | None = None
        self._last: tuple[float, ProcessUsage] | None = None
        self._checkpoints_s: list[float] = []

    def _last_change(self) -> int:
        if self._data is None:
            return 0
        # LMDB writes its file when a checkpoint is committed, and at no other time. The first
        # checkpoint makes it.
        return max((path.stat().st_mtime_ns for path in self._data.rglob("data.mdb")), default=0)

    def look(self, *, measured: bool) -> ProcessUsage | None:
        """Return what the server has used so far; called at the end of each interval."""
        self.look_at_files()
        if self._process_id is None:
            return None
        now = usage(self._process_id)
        if now is not None:
            # What came before the first measured interval ends with the last one not measured.
            if measured and self._first is not None:
                self._last = (time.perf_counter(), now)
            elif not measured and self._last is None:
                self._first = (time.perf_counter(), now)
        return now

    def look_at_files(self) -> None:
        """Note a checkpoint if there was one since the last look."""
        changed = self._last_change()
        if changed != self._changed:
            self._changed = changed
            at_s = time.perf_counter() - self._start
            if not self._checkpoints_s or at_s - self._checkpoints_s[-1] > 2 * SLOT_S:
                self._checkpoints_s.append(at_s)

    def finish(self, result: Run) -> None:
        """Write what was seen into a run."""
        result.checkpoints_s = self._checkpoints_s
        if self._first is not None and self._last is not None:
            elapsed_s = self._last[0] - self._first[0]
            used_s = self._last[1].processor_s - self._first[1].processor_s
            result.server_share = used_s / elapsed_s if elapsed_s else None
        if self._process_id is not None:
            now = usage(self._process_id)
            result.server_memory_bytes = now.memory_bytes if now is not None else None


def _wait(
    children: Sequence[_Child],
    note: Callable[[_Child, dict[str, Any]], None],
    done: Callable[[_Child], bool],
    watch: _Watch | None = None,
) -> None:
    """Read lines from all until each is `done`. Raises BenchError when no more lines come."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.output, selectors.EVENT_READ, child)
        deadline = time.perf_counter() + LINE_TIMEOUT_S
        waiting = set(children)
        while waiting:
            ready = selector.select(SLOT_S / 2)
            if watch is not None:
                watch.look_at_files()
            if ready:
                deadline = time.perf_counter() + LINE_TIMEOUT_S
            elif time.perf_counter() > deadline:
                raise BenchError(f"a load process has said nothing for {LINE_TIMEOUT_S:.0f} s")
            for key, _ in ready:
                child = key.data
                for message in child.read():
                    note(child, message)
                if done(child):
                    waiting.discard(child)
                    selector.unregister(child.output)


def _join_interval(result: Run, message: dict[str, Any]) -> Slot:
    # Load processes start together to within a few milliseconds; a slot takes the nearest.
    number = round(message["start_s"] / SLOT_S)
    slot = result.slots.setdefault(number, Slot(number * SLOT_S, message["measured"]))
    slot.latency.add(Histogram.from_json(message["latency"]))
    slot.failures += message["failures"]
    return slot


def _join_totals(result: Run, totals: dict[str, Any]) -> None:
    elapsed_s = totals["elapsed_ns"] / 1e9
    result.elapsed_s = max(result.elapsed_s, elapsed_s)
    result.latency.add(Histogram.from_json(totals["latency"]))
    result.lag.add(Histogram.from_json(totals["lag"]))
    for name, stored in totals["steps"].items():
        result.steps.setdefault(name, Histogram()).add(Histogram.from_json(stored))
    result.errors.update(totals["errors"])
    result.requests += totals["requests"]
    result.unfinished += totals["unfinished"]
    if elapsed_s:
        share = totals["processor_ns"] / 1e9 / elapsed_s
        result.generator_share = max(result.generator_share, share)
