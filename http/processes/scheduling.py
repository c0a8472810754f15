"""How the system's scheduler is to treat the processes of one server: none interrupts another.

A thread that wakes may take the core from one that is running. Among processes that tell each other
something all the time this happens several times a request: a link wakes the other process in the
middle of a pass, and the log's thread the loop whose interpreter it then waits for. With
`SCHED_BATCH` who wakes takes a core that is idle, or waits until the one that runs has done its
part. So more comes together in a pass and in a batch of the log. Each thread's share stays.
"""

import os

import structlog

_log = structlog.get_logger("troth.processes")


def interrupt_no_others() -> None:
    """Make this thread, and those that it starts, wait for a core rather than take it.

    A policy that was chosen for this process stays, and systems without policies are left alone.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        _log.info("the scheduler takes no policy: processes interrupt each other", error=str(error))
