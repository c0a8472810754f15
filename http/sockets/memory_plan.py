"""How the memory that a process may have is divided: what each part of a server may take of it.

Where memory is limited, by `ulimit`, a control group or the machine, less is in flight at a time
than the settings say, and checkpoints are made of less. So what a stranger can use up ends before
what the server itself needs.
"""

from dataclasses import dataclass
from typing import Final, final

from troth.core.limits import CHECKPOINT_LOG_BYTES_LEAST
from troth.http.settings.settings import Settings
from troth.http.wire.in_flight import HEADROOM_FACTOR
from troth.persistence.checkpoints.store import map_bytes
from troth.persistence.process_memory import MemoryLimits

RESERVE_FACTOR: Final = 4
"""A body takes so much at least until its record is written: text, buffer, record, frame."""

RESERVE_SHARE: Final = 8
"""The reserve is at most this part of what there is."""

IN_FLIGHT_SHARE: Final = 2 * HEADROOM_FACTOR
"""Bytes in flight are at most this part, since they become more: so half is for the state."""

CHECKPOINT_SHARE: Final = 16
"""A checkpoint is made at the latest when the log has grown by this part."""

CHECKPOINT_FACTOR: Final = 2
"""What a checkpoint takes while it is written: rows, and pages of the store."""


@final
@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What each part may take. `headroom_bytes` is what there is; None if nothing limits it.

    `margin_bytes` are left free by large requests.
    """

    headroom_bytes: int | None
    in_flight_bytes: int
    checkpoint_log_bytes: int
    reserve_bytes: int = 0
    margin_bytes: int = 0
    is_lowered: bool = False
    """Whether less may be in flight than the settings say."""


def plan_memory(settings: Settings, limits: MemoryLimits, processes_count: int = 1) -> MemoryPlan:
    """Divide what there is now, before the server has taken anything of it.

    Each process of several has its part of what may be in flight, and of the memory that they
    share; a limit on the address space is each process's own.
    """
    in_flight_limit_bytes = settings.in_flight_limit_bytes // processes_count
    wanted_bytes = max(in_flight_limit_bytes, 2 * settings.body_limit_bytes)
    headroom_bytes = limits.headroom_bytes()
    if headroom_bytes is None:
        return MemoryPlan(None, wanted_bytes, settings.checkpoint_log_bytes)
    if limits.address_space_bytes is None:
        headroom_bytes //= processes_count
    free_bytes = max(0, headroom_bytes)
    if limits.address_space_bytes is not None and not settings.in_memory:
        free_bytes = max(0, free_bytes - map_bytes())
    reserve_bytes = min(RESERVE_FACTOR * settings.body_limit_bytes, free_bytes // RESERVE_SHARE)
    free_bytes -= reserve_bytes
    in_flight_bytes = min(wanted_bytes, free_bytes // IN_FLIGHT_SHARE)
    checkpoint_log_bytes = min(
        settings.checkpoint_log_bytes,
        max(CHECKPOINT_LOG_BYTES_LEAST, free_bytes // CHECKPOINT_SHARE),
    )
    return MemoryPlan(
        headroom_bytes,
        in_flight_bytes,
        checkpoint_log_bytes,
        reserve_bytes,
        reserve_bytes + CHECKPOINT_FACTOR * min(checkpoint_log_bytes, free_bytes // 4),
        is_lowered=in_flight_bytes < wanted_bytes,
    )
