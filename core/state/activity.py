"""What happened to a shard's state since the process started, as `apply` counts it.

These numbers are in no checkpoint: they are for series and metrics, which compare them with earlier
ones. Reading the log back counts too, before anything is compared.
"""

from msgspec import Struct

from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import Promise, PromiseState


class Activity(Struct, gc=False):
    """Claims of tasks of both protocols, and deleted promises of clients by state."""

    claims_count: int
    deleted: dict[PromiseState, int]

    @classmethod
    def zero(cls) -> "Activity":
        """Return the numbers of a shard that has done nothing."""
        return cls(0, dict.fromkeys(PromiseState, 0))

    def add(self, other: "Activity") -> None:
        """Add the numbers of another shard."""
        self.claims_count += other.claims_count
        for state, count in other.deleted.items():
            self.deleted[state] += count

    def promise_deleted(self, promise: Promise) -> None:
        """Count a promise that is gone, unless it is the server's own."""
        if not promise.id.startswith(RESERVED_PREFIX):
            self.deleted[promise.state] += 1
