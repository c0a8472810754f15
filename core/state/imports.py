"""What taking in a promise from elsewhere does to a shard's state.

An imported promise keeps everything it was told to the outside with: state, times, keys. Only its
place in the order of creation is new: it comes after all that is there already.
"""

from troth.core import records as r
from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import PENDING

from .shard_state import ShardState


def promise_imported(state: ShardState, record: r.PromiseImported) -> None:
    """Apply the record: a pending promise begins as if created here, a completed one just is."""
    promise = record.promise
    if not promise.id.startswith(RESERVED_PREFIX):
        state.activity.imported_count += 1
    if promise.state is PENDING:
        state.add_promise(promise, record.task)
        return
    assert promise.id not in state.promises, "a promise is imported once"
    state.promises[promise.id] = promise
    state.completed[promise.id] = promise.tags
    state.promises_count += 1
    state.counts.completed_added(promise)
    state.index_promise(promise)
    state.largest_serial = max(state.largest_serial, promise.serial)
    if state.tracks_changes:
        state.changes.promises.append(promise.id)
        state.unpacked.append(promise)
    elif state.retention is not None:
        state.retention.stays(promise)
