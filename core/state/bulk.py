"""How far a shard is with bulk jobs: it changes with each slice, by the same batch of the log.

So after a crash a job continues exactly behind what it has done, and its counts are right.
"""

from troth.core import records as r
from troth.core.bulk import BulkPart

from .shard_state import ShardState


def bulk_advanced(state: ShardState, record: r.BulkAdvanced) -> None:
    """Apply the record: the shard continues there, and has done so much more."""
    part = state.bulk_parts.get(record.id)
    counts = record.counts if part is None else part.counts.plus(record.counts)
    state.bulk_parts[record.id] = BulkPart(record.places, counts)


def bulk_closed(state: ShardState, record: r.BulkClosed) -> None:
    """Apply the record: the job has ended."""
    del state.bulk_parts[record.id]
