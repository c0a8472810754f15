"""A worker dies in the middle of its work, and another one finishes it.

While a worker works it holds the lease of a task and renews it every two seconds. When it dies,
the lease runs out within five, and the server gives the task to another worker of the group. That
one runs the workflow from its beginning, but what was finished is not run again: its result is on
the server. Only the step that was interrupted begins anew.

In four terminals, with the SDK of the same API (`pip install resonate-sdk==0.4.12`):

    troth serve
    python killed_worker.py worker
    python killed_worker.py start report-1 20

Kill the worker (`kill -9`, its process id is in what it prints) when it says that it prints the
report, and start another one in the fourth terminal. It prints the report, and counts nothing.
"""

import os
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

from resonate import Context, Resonate
from resonate.targets import poll
from resonate.task_sources import Poller


def report(ctx: Context, seconds: float) -> Generator[Any, Any, str]:
    """The workflow: a step that will be finished, and a longer one that will be interrupted."""
    counted = yield ctx.lfc(count)
    printed = yield ctx.lfc(print_report, seconds)
    return f"{counted}, {printed}"


def count(ctx: Context) -> str:
    """The step that runs once."""
    print("worker: counts", flush=True)
    return f"counted by {os.getpid()}"


def print_report(ctx: Context, seconds: float) -> str:
    """The step during which the worker dies."""
    print("worker: prints the report", flush=True)
    time.sleep(seconds)
    return f"printed by {os.getpid()}"


def main(role: str, *arguments: str) -> None:
    """Be a worker, or order a report and wait for it."""
    if role == "start":
        report_id, seconds = arguments
        resonate = Resonate(task_source=Poller(group="report-starters"))
        handle = resonate.trigger(report_id, poll("reports"), "report", float(seconds))
        print(handle.result(), flush=True)
        return
    resonate = Resonate(task_source=Poller(group="reports"))
    resonate.register(report)
    print(f"worker: ready, process {os.getpid()}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
