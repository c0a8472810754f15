"""All metrics that every server shows, in the order of the documentation."""

from typing import Any, Final

from troth.http.metrics.families import Group
from troth.http.metrics.requests import REQUESTS

from .process_metrics import BUILDS, CLOCK, FUNCTION_CALLS, PLACEMENT, SERVER
from .state_metrics import FAILURES, SHARDS, TIMERS
from .storage_metrics import CHECKPOINTS, LOG, RETENTION, SNAPSHOTS
from .trace_metrics import TRACES
from .traffic_metrics import (
    ATTEMPTS,
    DELIVERY,
    FEED,
    GATE,
    IN_FLIGHT,
    LANES,
    POLLS,
    PORTS,
    QUEUES,
    ROOM,
    STREAMS,
)
from .work_metrics import WORK

GROUPS: Final[tuple[Group[Any], ...]] = (
    *(SERVER, SHARDS, TIMERS, WORK, FAILURES, QUEUES, STREAMS, POLLS, DELIVERY, REQUESTS),
    *(PORTS, LANES, GATE, ROOM, ATTEMPTS, IN_FLIGHT, FEED),
    *(LOG, CHECKPOINTS, SNAPSHOTS, RETENTION, CLOCK),
    *(PLACEMENT, FUNCTION_CALLS, BUILDS, TRACES),
)
