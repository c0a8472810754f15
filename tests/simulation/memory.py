"""I5: every queue has a limit, and nothing in memory outlives what it is about."""

from collections import Counter

from troth.core.catalog import Node
from troth.core.limits import LOG_PENDING_LIMIT_BYTES, RESULT_WAITS_LIMIT_COUNT
from troth.core.model import PENDING
from troth.core.state.counts import Counts
from troth.shards.delivery.delivery import Delivery
from troth.shards.delivery.shipments import ShipmentState
from troth.shards.known_sums import KnownSums
from troth.shards.mesh.homes import MessageHomes
from troth.shards.placement.placement import Placement
from troth.shards.shard import Shard
from troth.shards.shard_numbers import ShardStatistics
from troth.shards.shards import Shards

from .ledger import require

BATCH_BYTES_MAX = 1 << 20
"""More than one turn of all shards writes here."""


def check_queues(shards: list[Shard], pending_bytes: int, mailbox_limit_count: int) -> None:
    """At every step: what clients fill. `tell` has no limit: see `check_memory`."""
    require(pending_bytes < LOG_PENDING_LIMIT_BYTES + BATCH_BYTES_MAX, "too much waits for the log")
    for shard in shards:
        asked_count = len(shard._mailbox)
        require(
            asked_count <= mailbox_limit_count,
            f"shard {shard.index}'s mailbox holds {asked_count}",
        )


def check_sums(shards: Shards, known: KnownSums[ShardStatistics]) -> None:
    """Now and then: sums that are remembered are those of all shards at this moment."""
    fresh = [shard.statistics() for shard in shards.each()]
    sums = ShardStatistics(*known.look())
    require(sums == tuple(map(sum, zip(*fresh, strict=True))), "a shard was not looked at again")
    require(known.known == fresh, "a shard's numbers are old")
    counts = Counts.zero()
    for shard in shards.each():
        counts.add(shard.machine.state.counts)
    require(shards.counts() == counts, "a shard's counts are old")


def check_slots(shards: list[Shard], nodes: tuple[Node, ...]) -> None:
    """Now and then: no node has more function tasks than slots."""
    counts = Counter(
        execution.node_id
        for shard in shards
        for execution in shard.machine.state.executions.values()
    )
    for node in nodes:
        require(
            counts[node.id] <= node.slots_count,
            f"{node.id} has {counts[node.id]} function tasks in {node.slots_count} slots",
        )


def check_memory(
    shards: list[Shard], placement: Placement, delivery: Delivery, homes: MessageHomes | None
) -> None:
    """Now and then: timers, shipments and works are there for something that lives.

    With several groups, which have `homes`, delivery has messages of all of them. Then none may be
    left in the end (`check_settled`).
    """
    unfinished_count = 0
    executions_count = 0
    workflows_count = unblocks_count = 0
    for shard in shards:
        state = shard.machine.state
        tasks = [task for task in state.tasks.values() if not task.is_final]
        unfinished_count += len(tasks)
        executions_count += len(state.executions)
        workflows_count += len(state.workflows)
        unblocks_count += sum(len(addresses) for addresses in state.unblocks.values())
        for awaited, awaiter in state.awaits.pairs():
            promise = state.promises[awaited]
            require(promise.state is PENDING, f"{awaiter} still awaits {awaited}, which has ended")
        bound = (
            state.pending_count
            + 2 * len(tasks)  # a deadline, and a delay
            + len(state.locks)
            + len(state.schedules)
            + len(state.executions)
            + len(state.workflows)
            + len(state.unblocks)
        )
        count = len(shard.wheel)
        require(count <= bound, f"shard {shard.index} has {count} timers for {bound} things")
        claimed_count = sum(len(held) for held in state.claimed.values())
        require(claimed_count <= len(tasks), "the index of claimed tasks has grown")
        require(len(state.notifications) <= len(state.tasks), "notifications without tasks remain")
    # Those released are kept for a while by intention, for the count of attempts.
    shipments = map(delivery._shipments.look, list(delivery._shipments))
    shipments_count = sum(
        one is not None and one.state is not ShipmentState.RELEASED for one in shipments
    )
    require(
        homes is not None or shipments_count <= unfinished_count + workflows_count + unblocks_count,
        f"delivery holds {shipments_count} messages of {unfinished_count} unfinished tasks, "
        f"{workflows_count} workflows and {unblocks_count} listeners",
    )
    require(
        homes is not None or len(delivery._unclaimed) <= workflows_count,
        f"delivery knows {len(delivery._unclaimed)} unclaimed tasks of {workflows_count} workflows",
    )
    require(
        homes is not None or len(placement._executions) <= executions_count,
        f"placement holds {len(placement._executions)} of {executions_count} function tasks",
    )
    require(placement.statistics().waiters_count <= RESULT_WAITS_LIMIT_COUNT, "too many wait")
