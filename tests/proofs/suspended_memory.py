"""Show what a suspended workflow takes in memory, by the lines that have allocated it.

    python -m tests.proofs.suspended_memory

The core alone, in this process: one state machine and its timing wheel, with the commands that the
envelope protocol makes of the requests of `troth bench suspend`. `tests.proofs.suspended` measures
a whole server, where pools of memory and the pages of checkpoints come on top.
"""

import argparse
import gc
import itertools
import tracemalloc
from typing import Any, Final, cast

from troth.bench.client import BenchTarget
from troth.bench.load import workload_for
from troth.bench.scenarios.base import Line
from troth.bench.scenarios.envelope import Suspend
from troth.bench.wire import Requests
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.machine import Machine
from troth.http.envelope.fields import decoded
from troth.http.envelope.operations import QUESTIONS, OperationCall
from troth.http.envelope.wire import read
from troth.http.wire.fields import RequestLimits
from troth.shards.rearming import WheelKey
from troth.shards.wheel import TimingWheel

from .suspended import PAYLOAD_BYTES, WARM_UP_COUNT

NOW_MS: Final = 1_760_000_000_000
SHOWN_BYTES: Final = 8
"""Lines that have allocated less for each workflow are left out."""


class Workflows:
    """Suspends workflows in a state machine, each at a time of its own."""

    def __init__(self) -> None:
        """Begin with none."""
        target = BenchTarget("localhost", 1, "localhost", 1)
        workload = workload_for(
            target, scenario="suspend", run="wait", connections=1, payload_bytes=PAYLOAD_BYTES
        )
        self._scenario = Suspend(workload, Requests("localhost"))
        self._machine = Machine(0, lambda _: 0, itertools.count(1).__next__)
        self._wheel: TimingWheel[WheelKey] = TimingWheel(NOW_MS)
        self._limits = RequestLimits()
        self._times_ms = itertools.count(NOW_MS)

    def suspend(self, count: int) -> None:
        """Let so many more workflows suspend."""
        no_line: Line = cast(Any, None)  # the scenario asks nothing of it
        for _ in range(count):
            for _, request in self._scenario.operation(no_line):
                self._carry_out(request.partition(b"\r\n\r\n")[2])

    def _carry_out(self, body: bytes) -> None:
        envelope = read(body)
        question = QUESTIONS[envelope.kind or ""]
        data = decoded(question.decoder, envelope.data)
        command = question.command(OperationCall(question, envelope, data, self._limits))
        assert isinstance(command, Command)
        step = self._machine.step(command, next(self._times_ms))
        assert step.reply.code is Code.OK
        for promise in step.promise_timers:
            self._wheel.arm_fixed(promise.id, promise.timeout)
        for key, deadline_ms in step.timers:
            if deadline_ms is None:
                self._wheel.cancel(key)
            else:
                self._wheel.arm(key, deadline_ms)


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workflows", type=int, default=10_000)
    count = parser.parse_args().workflows
    workflows = Workflows()
    workflows.suspend(WARM_UP_COUNT)
    gc.collect()
    tracemalloc.start()
    workflows.suspend(count)
    gc.collect()
    total_bytes = tracemalloc.get_traced_memory()[0]
    for line in tracemalloc.take_snapshot().statistics("lineno"):
        if line.size >= SHOWN_BYTES * count:
            place = line.traceback[0]
            name = place.filename.rpartition("/troth/")[2]
            print(f"{line.size / count:8.1f} bytes  {name}:{place.lineno}")
    print(f"{total_bytes / count:,.0f} bytes a suspended workflow")


if __name__ == "__main__":
    main()
