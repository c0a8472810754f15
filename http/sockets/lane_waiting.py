"""How long the lane waits: for what comes next, and between two looks at quiet connections."""

from collections.abc import Iterable
from typing import Final, Protocol

import trio

CHECK_INTERVAL_S: Final = 0.25
"""After how long connections are looked at when something has come in."""
_QUIET_CHECK_INTERVAL_S: Final = 1.0
"""While nothing comes in there is no need to look more often, unless a limit is short."""
_CHECKS_A_LIMIT_COUNT: Final = 10


class Neighbor(Protocol):
    """The lane of another port, which this one must not keep waiting."""

    @property
    def is_rung(self) -> bool:
        """Return whether there has to be a pass of it."""
        ...  # pragma: no cover


def patience_s(limit_s: float, neighbors: Iterable[Neighbor]) -> float:
    """Return how long the lane may wait without trio, in seconds, up to a limit.

    Not at all while a task could run, and not beyond the next deadline of one.
    """
    for neighbor in neighbors:
        if neighbor.is_rung:
            return 0.0
    trios = trio.lowlevel.current_statistics()
    if trios.tasks_runnable or trios.run_sync_soon_queue_size:
        return 0.0
    return max(0.0, min(limit_s, trios.seconds_to_next_deadline))


def quiet_interval_s(*limits_s: float) -> float:
    """Return how often connections are looked at while nothing comes in, given their limits."""
    wanted_s = min(limits_s) / _CHECKS_A_LIMIT_COUNT
    return min(max(wanted_s, CHECK_INTERVAL_S), _QUIET_CHECK_INTERVAL_S)
