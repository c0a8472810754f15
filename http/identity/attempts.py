"""Failed logins, by network address: an address that fails too often has to wait.

A token's 256 bits cannot be guessed, but a password can, and each guess costs work. An address that
failed `limit_count` times within a window is refused until that window ends, even with a right
password; valid tokens are accepted, so that a client cannot lock out others behind its address. The
table is bounded: beyond its size the address that failed longest ago is forgotten.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from troth.core.failures import FailureKind, Failures
from troth.core.limits import FAILED_ATTEMPTS_ADDRESSES_COUNT, FAILED_ATTEMPTS_WINDOW_MS

_IPV6_NETWORK_BITS: Final = 64  # what one customer of a network provider has at least


@dataclass(slots=True)
class FailedAttempts:
    """The failures of one address in the window that began with the first of them."""

    since_ms: int
    count: int


@dataclass(frozen=True, slots=True)
class AttemptsStatistics:
    """Addresses remembered now, and totals since the start."""

    addresses_count: int
    counted_total_count: int
    refused_total_count: int


class Attempts:
    """Counts failures. With a `limit_count` of 0 no address ever has to wait."""

    def __init__(
        self,
        limit_count: int,
        now_ms: Callable[[], int],
        failures: Failures | None = None,
    ) -> None:
        """Initialize. `now_ms` is the clock that windows are measured with.

        Wrong credentials, and addresses that have to wait, are noted in `failures`.
        """
        self._noted = Failures() if failures is None else failures
        self._limit_count = limit_count
        self._now_ms = now_ms
        # In the order of the latest failure.
        self._failures: dict[str, FailedAttempts] = {}
        self._failed_count = 0
        self._refused_count = 0

    def wait_ms(self, peer: str | None) -> int:
        """Return how long an address still has to wait, or 0 if not at all."""
        if not self._failures:
            return 0
        failures = self._failures.get(network_of(peer))
        if failures is None or failures.count < self._limit_count:
            return 0
        since_ms = self._now_ms() - failures.since_ms
        # A clock that was set back must not lock an address out for long.
        return FAILED_ATTEMPTS_WINDOW_MS - since_ms if self._is_within(since_ms) else 0

    @staticmethod
    def _is_within(since_ms: int) -> bool:
        return 0 <= since_ms < FAILED_ATTEMPTS_WINDOW_MS

    def refused(self, peer: str | None = None) -> None:
        """Count a request that was refused because its address has to wait."""
        self._refused_count += 1
        self._note(peer, "too many wrong credentials")

    def failed(self, peer: str | None) -> None:
        """Count wrong credentials from an address."""
        self._failed_count += 1
        self._note(peer, "wrong credentials")
        if self._limit_count:
            self._count(network_of(peer))

    def _count(self, network: str) -> None:
        now_ms = self._now_ms()
        failures = self._failures.pop(network, None)
        if failures is None or not self._is_within(now_ms - failures.since_ms):
            failures = FailedAttempts(now_ms, 0)
        failures.count += 1
        self._keep(network, failures)

    def _keep(self, network: str, failures: FailedAttempts) -> None:
        self._failures.pop(network, None)
        self._failures[network] = failures
        if len(self._failures) > FAILED_ATTEMPTS_ADDRESSES_COUNT:
            del self._failures[next(iter(self._failures))]

    def _note(self, peer: str | None, reason: str) -> None:
        self._noted.note(FailureKind.LOGIN, self._now_ms(), peer or "", reason)

    def statistics(self) -> AttemptsStatistics:
        """Return counts of this moment and totals since the start."""
        return AttemptsStatistics(len(self._failures), self._failed_count, self._refused_count)


def network_of(peer: str | None) -> str:
    """Return what an address is counted as: a client with one IPv6 address has many."""
    if peer is None or ":" not in peer:
        return peer or ""
    try:
        address = ipaddress.IPv6Address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _IPV6_NETWORK_BITS), strict=False))
