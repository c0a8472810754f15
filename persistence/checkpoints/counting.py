"""Counting a shard's promises and tasks by state, row by row, where no checkpoint has the counts.

That is so in the first start of a directory that an earlier release has written; the next
checkpoint keeps what was counted. A million rows take some seconds.
"""

from collections.abc import Iterator

from troth.core.state.counts import Counts

from . import rows
from .port import View
from .rows import RowDecoder


def count(view: View, shard: int) -> Counts:
    """Return the counts of all that a store holds of a shard. Raises CheckpointDamaged."""
    counts = Counts.zero()
    decoder = RowDecoder()
    for table in (rows.LIVE_PROMISES, rows.PROMISES):
        for key, value in _scan(view, table, shard):
            counts.completed_added(decoder.promise(table, key, value))
    for table in (rows.LIVE_TASKS, rows.TASKS):
        for key, value in _scan(view, table, shard):
            task = decoder.task(table, key, value)
            counts.task_added(task.root_id, task.state)
    for key, value in _scan(view, rows.WORKFLOWS, shard):
        counts.workflows[decoder.workflow(key, value).state] += 1
    return counts


def _scan(view: View, table: str, shard: int) -> Iterator[tuple[bytes, bytes]]:
    prefix = rows.shard_key(shard)
    return view.scan(table, prefix, rows.after(prefix))
