"""The open streams of workers, in the order of group and id, and the leases they hold."""

from typing import Final, NamedTuple

from troth.core.workflows import ACQUIRED
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import PollConnection, Polls
from troth.shards.shards import Shards

from .pace import Pace
from .smallest import Smallest, chunks

LOOK_COUNT: Final = 1_000
"""How many streams, or tasks, are looked at between two rests."""


class WorkerRow(NamedTuple):
    """One stream. `dialect` is None while it is not known which protocol its worker speaks.

    `leases_count` counts the tasks that a process of this id holds; None if that took too long.
    """

    group: str
    id: str
    dialect: Dialect | None
    peer: str | None
    since: int
    waiting_count: int
    delivered_count: int
    leases_count: int | None


async def page(
    shards: Shards,
    polls: Polls,
    limit_count: int,
    after: tuple[str, str] | None,
    group_prefix: str = "",
) -> tuple[list[WorkerRow], bool]:
    """Return the next streams of groups that begin so, and whether there are more."""
    pace = Pace()
    rows, has_more = await streams(polls, limit_count, after, group_prefix, pace)
    found = await leases(shards, {row.id for row in rows}, pace)
    await shards.wait_shown()
    return with_leases(rows, found), has_more


def with_leases(rows: list[WorkerRow], leases: dict[str, int] | None) -> list[WorkerRow]:
    """Return rows with how many tasks their processes hold."""
    return [
        row._replace(leases_count=None if leases is None else leases.get(row.id, 0)) for row in rows
    ]


async def streams(
    polls: Polls,
    limit_count: int,
    after: tuple[str, str] | None,
    group_prefix: str,
    pace: Pace,
) -> tuple[list[WorkerRow], bool]:
    """Return the next streams of this process, without leases, and whether there are more.

    Streams that end during a rest are made up for: where there are more, the page is full. So what
    joins the pages of several processes goes past no stream.
    """
    rows: list[WorkerRow] = []
    has_more = True
    while has_more and len(rows) < limit_count:
        smallest: Smallest[tuple[str, str]] = Smallest(limit_count - len(rows), after)
        for some in chunks(polls.connections(), LOOK_COUNT):
            smallest.offer(
                (one.group, one.id) for one in some if one.group.startswith(group_prefix)
            )
            await pace.rest()
        places, has_more = smallest.found()
        rows += [_row(one) for place in places if (one := polls.find(*place)) is not None]
        if places:
            after = places[-1]
    return rows, has_more


def _row(one: PollConnection) -> WorkerRow:
    return WorkerRow(
        one.group,
        one.id,
        one.dialect,
        one.peer,
        one.since_ms,
        one.load_count,
        one.delivered_count,
        None,
    )


async def leases(shards: Shards, wanted: set[str], pace: Pace) -> dict[str, int] | None:
    """Return how many tasks of both protocols workers hold here; None if it takes too long."""
    counts: dict[str, int] = {}
    if not wanted:
        return counts
    for state in shards.states():
        few, many = sorted((wanted, state.claimed.keys()), key=len)
        for process_id in [one for one in few if one in many]:
            held = state.claimed.get(process_id, ())
            counts[process_id] = counts.get(process_id, 0) + len(held)
        for some in chunks(list(state.workflows), LOOK_COUNT):
            for workflow_id in some:
                task = state.workflows.get(workflow_id)
                if task is not None and task.state is ACQUIRED and task.pid in wanted:
                    counts[task.pid] = counts.get(task.pid, 0) + 1
            await pace.rest()
            if pace.is_spent:
                return None
    return counts
