"""A workflow that sleeps, for seconds or for months, without anything being awake.

The sleep is a durable promise that the server resolves when its time has come. Server and worker
may be stopped or die in the meantime: the deadline stays where it was, and what was done before
the sleep is not done again. If the deadline passes while the server is down, the workflow goes on
as soon as the server is back.

In three terminals, with the SDK of the same API (`pip install resonate-sdk==0.4.12`):

    troth serve
    python durable_sleep.py worker
    python durable_sleep.py start reminder-1 20

Now stop the server and start it again: the two others wait for it. Or kill it (`kill -9`) and start
it again: this version of the SDK ends its program when a stream breaks off in the middle, so start
the two again as well, as a supervisor would do with the worker. The same id means the same
reminder: the second `start` waits for what the first has begun.
"""

import os
import sys
import threading
from collections.abc import Generator
from typing import Any

from resonate import Context, Resonate
from resonate.targets import poll
from resonate.task_sources import Poller


def remind(ctx: Context, seconds: int) -> Generator[Any, Any, str]:
    """The workflow: something before the sleep, something after it."""
    before = yield ctx.lfc(note, "falls asleep")
    yield ctx.sleep(seconds)
    after = yield ctx.lfc(note, "wakes up")
    return f"{before}, {after}"


def note(ctx: Context, what: str) -> str:
    """A step that leaves a trace each time it runs."""
    print(f"worker: {what}", flush=True)
    return f"{what} in {os.getpid()}"


def main(role: str, *arguments: str) -> None:
    """Be the worker, or start a reminder and wait for it."""
    if role == "start":
        reminder_id, seconds = arguments
        resonate = Resonate(task_source=Poller(group="reminder-starters"))
        handle = resonate.trigger(reminder_id, poll("reminders"), "remind", int(seconds))
        print(handle.result(), flush=True)
        return
    resonate = Resonate(task_source=Poller(group="reminders"))
    resonate.register(remind)
    print("worker: ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
