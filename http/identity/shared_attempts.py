"""Failed logins at all processes of a server, counted by network address in one of them.

Each address has a home process, by its hash. It is told of each failure, and tells all others when
the address has to wait. Between a failure and that word some further attempts may pass: those that
were on their way. While the home is away, each process counts what it sees itself.
"""

from collections.abc import Callable
from typing import Final, final

from msgspec import Struct

from troth.core.failures import Failures
from troth.core.limits import FAILED_ATTEMPTS_WINDOW_MS
from troth.persistence.placement import by_id
from troth.shards.mesh.calls import ProcessCalls, ProcessNote

from .attempts import Attempts, FailedAttempts


class BlockedNetwork(Struct, frozen=True, array_like=True):
    """An address that has to wait, and for how long."""

    network: str
    left_ms: int


FAILED: Final = ProcessNote("attempts.failed", str)
BLOCKED: Final = ProcessNote("attempts.blocked", BlockedNetwork)


@final
class SharedAttempts(Attempts):
    """The failures that this process knows of."""

    def __init__(
        self,
        limit_count: int,
        now_ms: Callable[[], int],
        failures: Failures,
        calls: ProcessCalls,
    ) -> None:
        super().__init__(limit_count, now_ms, failures)
        self._calls = calls
        self._home_of = by_id(1 + len(calls.others))
        calls.hear(FAILED, lambda _, network: self._count_at_home(network))
        calls.hear(BLOCKED, lambda _, blocked: self._block(blocked))

    def _count(self, network: str) -> None:
        home = self._home_of(network)
        if home == self._calls.own:
            self._count_at_home(network)
        else:
            super()._count(network)
            self._calls.note(home, FAILED, network)

    def _count_at_home(self, network: str) -> None:
        super()._count(network)
        failures = self._failures[network]
        if failures.count >= self._limit_count:
            left_ms = FAILED_ATTEMPTS_WINDOW_MS - (self._now_ms() - failures.since_ms)
            self._calls.note_all(BLOCKED, BlockedNetwork(network, left_ms))

    def _block(self, blocked: BlockedNetwork) -> None:
        since_ms = self._now_ms() + blocked.left_ms - FAILED_ATTEMPTS_WINDOW_MS
        self._keep(blocked.network, FailedAttempts(since_ms, self._limit_count))
