"""The answers about workers and queues: the types, and how they are made."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from troth.http.wire.answers import time_ms, told
from troth.shards.placement.executions import NodePlace
from troth.shards.surveys.queues import QueueRow
from troth.shards.surveys.workers import WorkerRow


class WorkerObject(Struct, gc=False, rename="camel"):
    """A worker or node, and its stream."""

    group: Annotated[str, told("Its group; empty for a node.", "default")]
    id: Annotated[str, told("Its id.", "worker-1")]
    protocol: Annotated[str | None, told("rest, envelope, node; null if unknown.", "rest")]
    address: Annotated[str | None, told("Its network address.", "127.0.0.1")]
    since: Annotated[int | None, time_ms("When it connected; null if it is away")]
    waiting: Annotated[int, told("Messages not written yet.", 0)]
    delivered: Annotated[int, told("Messages written.", 12)]
    leases: Annotated[int | None, told("Tasks that a process of this id holds.", 1)]
    slots: Annotated[int | UnsetType, told("How many tasks a node takes.", 2)] = UNSET


class WorkersObject(Struct, gc=False):
    """Streams by group and id, and nodes."""

    cursor: Annotated[str | None, told("For the next page; null if there is none.", None)]
    workers: list[WorkerObject]
    nodes: Annotated[list[WorkerObject], told("On the first page only.")]


class QueueObject(Struct, gc=False, rename="camel"):
    """What waits for one receiver."""

    receiver: Annotated[str, told("The group, or the address of pushes.", "poll://default")]
    workers: Annotated[int, told("Open streams.", 2)]
    waiting: Annotated[int, told("Messages in its queue.", 0)]
    in_flight: Annotated[int, told("Messages being sent.", 0)]
    stalled: Annotated[int, told("Messages that could not be sent.", 0)]
    oldest_on: Annotated[int | None, time_ms("When the oldest of some of these arose")]
    rate_in: Annotated[float | None, told("New ones a second, over 10 s.", 1.5)]
    rate_out: Annotated[float | None, told("Delivered a second, over 10 s.", 1.5)]
    health: Annotated[
        str, told("good, no-workers, new, suspect, failing or undeliverable.", "good")
    ]
    failing_since: Annotated[int | UnsetType, time_ms("Since when it fails")] = UNSET
    last_error: Annotated[str | UnsetType, told("Why.", "connection refused")] = UNSET
    next_try: Annotated[int | UnsetType, time_ms("When it is tried again")] = UNSET


class QueuesObject(Struct, gc=False):
    """The receivers with most messages, most first."""

    queues: list[QueueObject]
    total: Annotated[int, told("How many receivers there are.", 1)]
    complete: Annotated[bool, told("Whether all were looked at.", True)]


def worker_object(row: WorkerRow) -> WorkerObject:
    """Return a stream."""
    return WorkerObject(
        row.group,
        row.id,
        None if row.dialect is None else row.dialect.value,
        row.peer,
        row.since,
        row.waiting_count,
        row.delivered_count,
        row.leases_count,
    )


def node_object(node: NodePlace) -> WorkerObject:
    """Return a node."""
    stream = node.connection
    return WorkerObject(
        "",
        node.id,
        "node",
        None if stream is None else stream.peer,
        None if stream is None else stream.since_ms,
        0 if stream is None else stream.waiting_count,
        0 if stream is None else stream.delivered_count,
        len(node.executions),
        node.entry.slots_count,
    )


def queue_object(row: QueueRow) -> QueueObject:
    """Return a receiver."""
    made = QueueObject(
        row.receiver,
        row.workers_count,
        row.waiting_count,
        row.in_flight_count,
        row.stalled_count,
        row.oldest_on,
        None if row.rate_in is None else round(row.rate_in, 3),
        None if row.rate_out is None else round(row.rate_out, 3),
        row.health,
    )
    if row.failing_since is not None:
        made.failing_since = row.failing_since
    if row.last_error is not None:
        made.last_error = row.last_error
    if row.next_try is not None:
        made.next_try = row.next_try
    return made
