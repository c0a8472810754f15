"""When leases end: those of tasks, locks and function tasks, and the time to claim a message.

The holder of a lease keeps it by renewing it in time, which is impossible while the server is away.
So no lease ends through the server's own absence. When time goes on after one (a start, a loop that
stood still, a wall clock that was set), every lease has its full time again, counted from then.

That is one number a shard, whatever the number of leases: a *floor*, before which no older lease
ends. The rows keep the ends that they had. Code that needs a lease's end asks the floor, and a
timer that fires too early for it is set again.
"""

from typing import Final

from msgspec import Struct

from .limits import LEASE_LEAST_MS, saturating_add


def granted_ttl(ttl_ms: int) -> int:
    """Return how long a lease lasts that a client asked for with `ttl_ms` (decisions.md 3).

    The SDKs' suites claim with a ttl of 0 and renew immediately; the reference server ends leases
    by a sweep. The ways in of clients call this; commands are taken as they are.
    """
    return ttl_ms if ttl_ms > LEASE_LEAST_MS else LEASE_LEAST_MS


class LeaseFloor(Struct, frozen=True, gc=False):
    """When time last went on after an absence, and when messages sent before may be given up."""

    resumed_on: int
    claims_end_on: int

    def end_of_lease(self, expires_at: int, ttl_ms: int) -> int:
        """Return when a lease ends that was to end at `expires_at`, in ms since the epoch."""
        if expires_at - ttl_ms >= self.resumed_on:
            return expires_at  # granted since, as nearly all are
        again = saturating_add(self.resumed_on, ttl_ms)
        return again if again > expires_at else expires_at

    def end_of_claim(self, expires_at: int) -> int:
        """Return until when a message can be claimed that was to be given up at `expires_at`."""
        return self.claims_end_on if self.claims_end_on > expires_at else expires_at


NO_FLOOR: Final = LeaseFloor(0, 0)
"""The floor of a shard whose server has never been away."""
