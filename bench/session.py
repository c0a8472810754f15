"""One call of the tool: which runs are made in which order, and against which server.

Runs are interleaved: every scenario once, then every scenario again. So a machine that gets slower
over time is slower for all of them. Each run is shown with ceilings measured right before it.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ceilings import measure_ceilings
from .children import OwnServer
from .client import BenchError, BenchTarget
from .load import Slot, divide, run, workload_for
from .machine import Cores
from .results import ScenarioRecord, record
from .scenarios.table import SCENARIOS
from .workload import Workload

PREPARING_CONNECTIONS = 16


@dataclass(frozen=True)
class Plan:
    """What a call asks for."""

    scenarios: tuple[str, ...]
    connections: tuple[int, ...] = (64,)
    rates: tuple[float | None, ...] = (None,)
    runs: int = 1
    processes: int = 1
    ceilings: bool = True
    workload: dict[str, Any] = field(default_factory=dict)
    """Further fields of `Workload`, the same for all."""
    directory: Path | None = None
    """Where own servers keep their data and the disk is measured; None: the system's own choice."""
    server_arguments: tuple[str, ...] = ()


class BenchSession:
    """Makes the runs of a plan."""

    def __init__(
        self,
        plan: Plan,
        cores: Cores,
        begin: Callable[[str], None] = lambda _title: None,
        note: Callable[[Slot], None] = lambda _slot: None,
    ) -> None:
        """Initialize. `begin` is told what starts, `note` each quarter of a second of a run."""
        self.plan = plan
        self.cores = cores
        self.begin = begin
        self.note = note
        # No two calls may use the same ids on one server, nor two runs of one call.
        self._run_prefix = f"b{time.time_ns() // 1000 % 36**6:x}{os.getpid() % 1000}"
        self._run_numbers = itertools.count()

    @contextlib.contextmanager
    def own_server(self) -> Iterator[OwnServer]:
        """Run a fresh server in a directory that is removed afterwards. Raises BenchError."""
        with (
            tempfile.TemporaryDirectory(prefix="troth-bench-", dir=self.plan.directory) as scratch,
            OwnServer(Path(scratch), self.cores.server, self.plan.server_arguments) as server,
        ):
            yield server

    def measure(self, targets: Sequence[BenchTarget] = ()) -> list[ScenarioRecord]:
        """Make all runs, each on a fresh server of ours without targets. Raises BenchError.

        Several targets serve the same promises: each gets a part of the connections.
        """
        plan = self.plan
        records = [
            ScenarioRecord(name, connections, rate, {**plan.workload, "processes": plan.processes})
            for name in plan.scenarios
            for connections in plan.connections
            for rate in plan.rates
        ]
        for number in range(plan.runs):
            for one in records:
                title = one.title if plan.runs == 1 else f"{one.title}, run {number + 1}"
                if targets:
                    self._measure_one(one, title, targets, None)
                else:
                    with self.own_server() as server:
                        self._measure_one(one, title, [server.target], server.data)
        return records

    def new_run(self) -> str:
        """Return a prefix for ids that no other run has."""
        return f"{self._run_prefix}x{next(self._run_numbers)}"

    def prepare(self, workload: Workload, target: BenchTarget) -> None:
        """Create what a scenario needs. Raises BenchError if that does not work."""
        for one in SCENARIOS[workload.scenario].preparations(workload):
            preparing = workload_for(
                target,
                scenario=one.scenario,
                run=workload.keys_run,
                connections=min(PREPARING_CONNECTIONS, one.operations_count),
                operation_limit=one.operations_count,
                tagged=one.tagged,
                payload_bytes=workload.payload_bytes,
                cpu=self.cores.load_core(0),
            )
            made = run([preparing])
            if made.errors:
                raise BenchError(f"preparing {workload.scenario}: {next(iter(made.errors))}")

    def _measure_one(
        self, one: ScenarioRecord, title: str, targets: Sequence[BenchTarget], data: Path | None
    ) -> None:
        plan = self.plan
        target = targets[0]
        workload = workload_for(
            target,
            scenario=one.scenario,
            connections=one.connections,
            rate=one.rate,
            run=self.new_run(),
            keys_run=self.new_run(),
            **plan.workload,
        )
        ceilings = None
        if plan.ceilings:
            self.begin(f"{title}: ceilings")
            # Without a rate, as fast as it goes: a ceiling is about what is possible.
            bare = dataclasses.replace(workload, rate=None)
            short_s = min(2.0, workload.duration_s)
            directory = data if data is not None else plan.directory or Path(tempfile.gettempdir())
            ceilings = measure_ceilings(bare, plan.processes, self.cores, short_s, directory)
        self.begin(f"{title}: preparing")
        self.prepare(workload, target)
        self.begin(title)
        shares = divide(workload, plan.processes, self.cores, targets)
        made = run(shares, target.process_id, data, self.note)
        made_record = record(made, ceilings, open_loop=one.rate is not None)
        if not SCENARIOS[one.scenario].writes:
            # What the disk manages says nothing about it.
            made_record.disk_operations = made_record.sync_p50_ms = None
        one.runs.append(made_record)


def ramp(
    session: BenchSession, target: BenchTarget, counts: Sequence[int], title: str, **options: Any
) -> Iterator[int]:
    """Create promises up to each of these counts in turn; yield the count when it is reached."""
    made_count = 0
    for count in counts:
        session.begin(f"{title}: {count:,} promises")
        workload = workload_for(
            target,
            scenario="create",
            run=session.new_run(),
            connections=64,
            operation_limit=count - made_count,
            cpu=session.cores.load_core(0),
            **{"payload_bytes": session.plan.workload.get("payload_bytes", 200), **options},
        )
        made = run([workload], target.process_id, None, session.note)
        if made.errors:
            raise BenchError(f"{title}: {next(iter(made.errors))}")
        made_count = count
        yield count
