"""The ceilings that no server can exceed here: an echo over the same connections, and the disk.

The disk is measured with append and fdatasync of as many bytes as the operations would write.

Both are measured right before the scenario that they are shown with, so that a machine that is busy
with other things is as slow for them.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from .children import EchoProcess
from .histogram import Histogram
from .load import Run, divide, run, workload_for
from .machine import Cores
from .workload import Workload

FRAME_BYTES: Final = 128
"""What a log record of a promise needs beyond its payload: id, times, frame; roughly."""
_PREALLOCATED_BYTES: Final = 16 << 20


class Ceilings(NamedTuple):
    """What was possible at the time of a run."""

    echo: Run
    sync_one: Histogram
    """Append and fdatasync of one operation's bytes, nanoseconds."""
    sync_batch: Histogram
    """The same for as many operations as there are connections, together."""
    batch_count: int

    @property
    def disk_operations(self) -> float:
        """Operations a second if every connection's share one fdatasync."""
        return self.batch_count / self.sync_batch.mean * 1e9 if self.sync_batch.mean else 0.0


def measure_ceilings(
    workload: Workload, processes: int, cores: Cores, duration_s: float, directory: Path
) -> Ceilings:
    """Measure both, for a workload's connections and payload. Raises BenchError or OSError."""
    with EchoProcess(cores.server) as target:
        options = {
            "scenario": "echo",
            "connections": workload.connections,
            "payload_bytes": workload.payload_bytes,
            "duration_s": duration_s,
            "warm_up_s": min(0.5, duration_s),
        }
        echo = run(divide(workload_for(target, **options), processes, cores), target.process_id)
    operation_bytes = workload.payload_bytes + FRAME_BYTES
    return Ceilings(
        echo,
        measure_sync(directory, operation_bytes, duration_s / 4),
        measure_sync(directory, operation_bytes * workload.connections, duration_s / 4),
        workload.connections,
    )


def measure_sync(directory: Path, size_bytes: int, duration_s: float) -> Histogram:
    """Append this many bytes and fdatasync, again and again, into a file that has its space
    already.

    Raises OSError.
    """
    durations = Histogram()
    data = b"x" * size_bytes
    with tempfile.TemporaryFile(dir=directory, buffering=0) as scratch:
        descriptor = scratch.fileno()
        os.pwrite(descriptor, bytes(max(_PREALLOCATED_BYTES, size_bytes)), 0)
        os.fsync(descriptor)
        offset = 0
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end or durations.count < 10:
            if offset + size_bytes > _PREALLOCATED_BYTES:
                offset = 0
            start = time.perf_counter_ns()
            os.pwrite(descriptor, data, offset)
            os.fdatasync(descriptor)
            durations.record(time.perf_counter_ns() - start)
            offset += size_bytes
    return durations
