"""Executions in the order of their age.

Every change costs the same whatever was put in and taken out before: nothing is left behind that a
later step has to clear up. With a hundred thousand executions such a step would take longer than a
pass may.
"""

from bisect import bisect_left
from typing import Final, final

from .executions import Order, PlacedExecution

_BUCKET_LIMIT_COUNT: Final = 512


def _youngest(bucket: list[Order]) -> Order:
    return bucket[-1]


@final
class OldestFirst:
    """A set of executions that knows its oldest."""

    __slots__ = ("_buckets", "_executions")

    def __init__(self) -> None:
        """Start empty."""
        self._executions: dict[str, PlacedExecution] = {}
        # Each in order, none empty, and all of one before all of the next.
        self._buckets: list[list[Order]] = []

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._executions)

    def __contains__(self, execution: PlacedExecution) -> bool:
        """Return whether this very execution is here."""
        return self._executions.get(execution.promise_id) is execution

    def put(self, execution: PlacedExecution) -> None:
        """Add an execution; no other one of its promise is here."""
        assert execution.promise_id not in self._executions
        self._executions[execution.promise_id] = execution
        buckets, order = self._buckets, execution.order
        if not buckets:
            buckets.append([order])
            return
        index = min(bisect_left(buckets, order, key=_youngest), len(buckets) - 1)
        bucket = buckets[index]
        bucket.insert(bisect_left(bucket, order), order)
        if len(bucket) > _BUCKET_LIMIT_COUNT:
            # Most are younger than all others: they find a bucket that has room.
            middle = len(bucket) - 1 if index == len(buckets) - 1 else len(bucket) // 2
            buckets.insert(index + 1, bucket[middle:])
            del bucket[middle:]

    def drop(self, execution: PlacedExecution) -> None:
        """Take out an execution that is here."""
        del self._executions[execution.promise_id]
        buckets, order = self._buckets, execution.order
        index = bisect_left(buckets, order, key=_youngest)
        bucket = buckets[index]
        position = bisect_left(bucket, order)
        assert bucket[position] == order, "an execution's order does not change"
        del bucket[position]
        if not bucket:
            del buckets[index]

    def first(self) -> PlacedExecution:
        """Return the oldest; there must be one."""
        return self._executions[self._buckets[0][0][2]]
