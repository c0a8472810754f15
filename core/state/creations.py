"""What creating a promise does to a shard's state."""

from troth.core import records as r
from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import PENDING, Promise, replace
from troth.core.tables.folding import fold_plain

from .shard_state import ShardState


def promise_created(state: ShardState, record: r.PromiseCreated) -> None:
    """Apply the record: the promise is there, with its invoke task if it has one."""
    create(state, record)
    if state.fresh:
        state.settle()


def create(state: ShardState, record: r.PromiseCreated) -> None:
    """Apply the record, but leave what can be done for several together to `state.settle`."""
    promise_id, tags, key = record.id, record.tags, record.key_for_create
    serial, timeout = record.serial, record.timeout
    created_on, param = record.created_on, record.param
    promise = Promise(promise_id, serial, PENDING, timeout, created_on, param, tags, key)
    seed = record.task
    if record.trace is not None:
        promise = replace(promise, trace=record.trace)
    elif tags is None and key is None and seed is None:
        folded = fold_plain(serial, timeout, created_on, param)
        if folded is not None and not promise_id.startswith(RESERVED_PREFIX):
            # As `add_promise`, as far as `settle` does not do it: most creates come here.
            kept = state.promises.kept
            assert promise_id not in kept, "a promise is created once"
            kept[promise_id] = folded
            state.newest = promise
            state.fresh.append(promise)
            return
    state.add_promise(promise, seed)
