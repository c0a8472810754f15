"""What the server does on its own, and whether that goes well: the disk, the archive, retention.

It is a part of `GET /statistics`; the web UI says under *Needs attention* what does not.
"""

import os
from pathlib import Path
from typing import Annotated, Final

from msgspec import Struct

from troth.http.api.context import Api
from troth.http.wire.answers import told
from troth.shards.threads import in_thread

LATE_INTERVALS_COUNT: Final = 2
"""How many intervals of sweeps may pass without one that ends, until retention is late."""


class UpkeepObject(Struct, gc=False, rename="camel"):
    """What the server does on its own."""

    free_bytes: Annotated[
        int | None, told("Free space for the data directory; null if nothing is kept.", 80_530_636)
    ]
    archive_failing: Annotated[
        bool, told("Whether the last copy of the log to the archive failed.", False)
    ]
    retention_late_ms: Annotated[
        int,
        told("How long a sweep of retention has been overdue: two intervals without one.", 0),
    ]


def disk_space(place: str | Path) -> tuple[int, int]:
    """Return how much space is free at a place, and how large its disk is, in bytes; 0 if gone."""
    try:
        found = os.statvfs(place)
    except OSError:  # the directory is gone: the server is about to say so
        return 0, 0
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


async def upkeep_object(api: Api) -> UpkeepObject:
    """Return how the upkeep goes."""
    free_bytes = None
    archive = None
    if api.snapshotter is not None:  # there is one if something is kept on disk
        free_bytes, _ = await in_thread(lambda: disk_space(api.settings.data))
        archive = api.snapshotter.statistics().archive
    is_failing = archive is not None and archive.failing
    return UpkeepObject(free_bytes, is_failing, _retention_late_ms(api))


def _retention_late_ms(api: Api) -> int:
    if api.sweeper is None or not api.sweeper.rules:
        return 0
    last_ms = max(api.started_on_ms, api.sweeper.statistics().last_sweep_on_ms)
    due_ms = last_ms + LATE_INTERVALS_COUNT * api.settings.retention_interval_ms
    return max(0, api.now_ms() - due_ms)
