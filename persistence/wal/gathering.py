"""A writer that waits a little before it appends, where appends are dear.

Clients that wait for an answer come back soon after they got it. Without a pause, those that were
answered by one append miss the next one, which begins immediately with those that waited during it:
two appends take turns, each with half of the clients. So after an append, whose batch and what
waited tell how many there are, the next one waits until as many have come, or for some part of
what an append takes. That costs one of many clients nothing, and one that is alone never waits.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, final

from troth.persistence.errors import LogFailed

from .log import Log, NewRecord
from .writer import Writer

GATHER_LIMIT_S: Final = 0.006
"""No append waits longer than this."""

_WAIT: Final = 1.5
"""How long an append waits at most, in what appends take. One to NATS costs processor time of three
servers, and is over soon."""

_WEIGHT: Final = 1 / 8
"""Of the newest append in what appends take."""


@final
class GatheringWriter(Writer):
    """A `Writer` that gathers what comes soon.

    It begins when records wait while others are written. When nothing has come in a pause, there is
    none until that is so again.
    """

    def __init__(
        self,
        log: Log,
        on_durable: Callable[[int], None],
        on_failure: Callable[[LogFailed], None],
        *,
        first_seal_s: float | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet; see `Writer`."""
        super().__init__(log, on_durable, on_failure, first_seal_s=first_seal_s)
        self._now_s = now_s
        self._is_gathering = False
        self._submitted_count = 0  # records
        self._written_count = 0
        self._expected_count = 0
        """How many records are to come together: as many as waited or were written last."""
        self._append_s = 0.0
        self._wanted_count = sys.maxsize
        """Set `_enough` when so many records were submitted in all."""
        self._enough = threading.Event()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        """Hand over a batch; see `Writer.submit`."""
        super().submit(batch)
        self._submitted_count += len(batch)
        if self._submitted_count >= self._wanted_count:
            self._wanted_count = sys.maxsize
            self._enough.set()

    def _join(self, first: Sequence[NewRecord]) -> tuple[Sequence[NewRecord], int, bool]:
        if self._is_gathering:
            self._gather()
        return super()._join(first)

    def _gather(self) -> None:
        """Wait until as many records wait as are expected, or for long enough."""
        before_count = self._submitted_count
        wanted_count = self._written_count + self._expected_count
        if before_count >= wanted_count:
            return
        self._enough.clear()
        self._wanted_count = wanted_count
        if self._submitted_count < wanted_count:  # else it was submitted just before
            self._enough.wait(min(self._append_s * _WAIT, GATHER_LIMIT_S))
        self._wanted_count = sys.maxsize
        self._is_gathering = self._submitted_count > before_count

    def _append(self, batch: Sequence[NewRecord]) -> int:
        begun_s = self._now_s()
        last_sequence = super()._append(batch)
        took_s = self._now_s() - begun_s
        self._append_s += (took_s - self._append_s) * _WEIGHT
        self._written_count += len(batch)
        waiting_count = self._submitted_count - self._written_count
        self._is_gathering |= waiting_count > 0
        self._expected_count = len(batch) + waiting_count
        return last_sequence
