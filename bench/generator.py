"""A process that makes load. It speaks lines of JSON with the process that started it.

In: a `Workload`, then the line `go`. Out: `{"ready": true}` when everything is connected, one line
for each interval, at the end the totals; or `{"failed": TEXT}` and exit status 1.

    python -m troth.bench.generator
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping

from .engine import Engine, Interval, Totals
from .machine import interrupt_no_server
from .scenarios.table import SCENARIOS
from .wire import ProtocolError, Requests
from .workload import Workload


def say(message: Mapping[str, object]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def interval_json(interval: Interval) -> dict[str, object]:
    """Return an interval as a line has it."""
    return {
        "start_s": interval.start_s,
        "measured": interval.measured,
        "latency": interval.latency.to_json(),
        "failures": interval.failures,
    }


def totals_json(totals: Totals) -> dict[str, object]:
    """Return the totals as the last line has them."""
    return {
        "elapsed_ns": totals.elapsed_ns,
        "processor_ns": totals.processor_ns,
        "latency": totals.latency.to_json(),
        "steps": {name: one.to_json() for name, one in totals.steps.items()},
        "lag": totals.lag.to_json(),
        "errors": dict(totals.errors),
        "requests": totals.requests,
        "unfinished": totals.unfinished,
    }


def main() -> int:
    """Do one workload; return the exit status."""
    # Ctrl-C reaches all processes of a terminal; the one that started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workload = Workload.from_json(sys.stdin.readline())
    if workload.cpu is not None:
        os.sched_setaffinity(0, {workload.cpu})
    else:
        interrupt_no_server()
    requests = Requests(f"{workload.host}:{workload.port}", workload.authorization)
    scenario = SCENARIOS[workload.scenario](workload, requests)
    engine = Engine(workload, scenario, lambda interval: say({"interval": interval_json(interval)}))
    try:
        engine.connect()
    except (OSError, ProtocolError) as error:
        say({"failed": f"{workload.host}:{workload.port}: {error}"})
        return 1
    say({"ready": True})
    if sys.stdin.readline().strip() != "go":
        return 1  # the parent process is gone
    gc.freeze()
    gc.disable()
    say({"totals": totals_json(engine.run())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
