"""The whole state of a shard in a form that compares."""

from collections.abc import Iterator
from typing import Any

from tests.helpers.scanned_counts import shard_rows
from troth.core import records as r
from troth.core.limits import INTEGER_MAX
from troth.core.model import Task, replace
from troth.core.state.shard_state import ShardState
from troth.core.state.waiting import Waiting
from troth.persistence.checkpoints.checkpoints import Checkpoints


def waiting(pairs: Waiting) -> dict[str, list[str]]:
    """Who waits for what, in order."""
    found: dict[str, list[str]] = {}
    for awaited, waiter in pairs.pairs():
        found.setdefault(awaited, []).append(waiter)
    return found


def dump(state: ShardState) -> dict[str, Any]:
    """The whole state of a shard as bytes and numbers, without the dispatcher's notes."""

    def tasks(group: dict[str, Task]) -> list[bytes]:
        plain = [
            replace(one, queued=False, sending=False, stalled=False, sends_count=0, since=None)
            for one in group.values()
        ]
        return sorted(map(r.encode, plain))

    return {
        "promises": {key: r.encode(one) for key, one in state.promises.items()},
        "promise index": list(state.promise_index.below(INTEGER_MAX, 10**6)),
        "pending": state.pending_count,
        "counts": r.encode(state.counts),
        "callbacks": {
            key: {name: r.encode(one) for name, one in group.items()}
            for key, group in state.callbacks.items()
        },
        "tasks": tasks(state.tasks),
        "task sequence": state.task_sequence,
        "lease floor": state.lease_floor,
        "roots": {
            key: (sorted(task.id for task in root.tasks), root.active_count)
            for key, root in state.roots.items()
        },
        "notifications": sorted(state.notifications),
        "claimed": {key: sorted(group) for key, group in state.claimed.items()},
        "schedules": {key: r.encode(one) for key, one in state.schedules.items()},
        "schedule index": list(state.schedule_index.below(INTEGER_MAX, 10**6)),
        "locks": {key: r.encode(one) for key, one in state.locks.items()},
        "locks of": {key: sorted(group) for key, group in state.locks_of.items()},
        "outbox": sorted((target, number, r.encode(one)) for target, number, one in state.outbox),
        "outbox sequence": dict(state.outbox.sequences),
        "inbox": dict(state.inbox),
        "largest serial": state.largest_serial,
        "entries": dict(state.entries.by_id),
        "executions": dict(state.executions),
        "usage": dict(state.usage),
        "workflows": {key: r.encode(one.row()) for key, one in state.workflows.items()},
        "bulk parts": {key: r.encode(one) for key, one in state.bulk_parts.items()},
        "completions": dict(state.completions),
        "awaits": waiting(state.awaits),
        "listeners": waiting(state.listeners),
        "unblocks": {key: dict(one) for key, one in state.unblocks.items()},
        "workflow floor": state.workflow_floor,
    }


def cold_rows(
    checkpoints: Checkpoints | None, states: list[ShardState], table: str
) -> Iterator[tuple[ShardState, bytes, bytes]]:
    """What a checkpoint has of these shards in a table, with keys; rows with ids come by these."""
    for state in states if checkpoints is not None else ():
        assert checkpoints is not None
        for key, value in shard_rows(checkpoints.reader.view, state.index, table):
            yield state, key, value
