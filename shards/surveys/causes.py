"""What keeps one pending promise from completing, as far as its own task says.

A promise may have tasks of both APIs, and be a function task; of several tasks the one that is
nearest to a worker is told. Where a task waits for other promises, `LocalCause.awaited` has them,
and `why.py` goes on from there.
"""

from typing import Protocol, final

from msgspec import Struct

from troth.core.commands import WORKFLOW_TIMER
from troth.core.grammar.addresses import Address, PollAddress, PushAddress, Undeliverable
from troth.core.grammar.targets import resolve_target
from troth.core.model import (
    CLAIMED,
    ENQUEUED,
    NOTIFY,
    TAG_TARGET,
    TAG_TIMEOUT,
    TAG_TIMER,
    Json,
    Promise,
    Task,
    replace,
)
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED, HALTED, SUSPENDED, WorkflowTask, execute_key
from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.missed import GROUPS_SHOWN_COUNT
from troth.shards.delivery.polls import Listening
from troth.shards.delivery.shipments import ShipmentState, ShipmentView
from troth.shards.placement.executions import Stage
from troth.shards.placement.placement import PlacementView
from troth.shards.shards import Shards

from . import shown_tasks
from .rows import Cause, Reason, Sending, TaskRow


class Messages(Protocol):
    """What surveys ask of delivery; see `Delivery`."""

    def look(self, key: str) -> ShipmentView | None: ...

    def resolve(self, receiver: Json) -> Address | Undeliverable: ...


class Streams(Protocol):
    """What surveys ask of workers' streams; see `Polls`."""

    def listening(self, group: str, connection_id: str | None, dialect: Dialect) -> Listening: ...

    def is_connected(self, connection_id: str) -> bool: ...

    def largest_groups(self, limit_count: int) -> tuple[str, ...]: ...


class Placing(Protocol):
    """What surveys ask of placement; see `Placement`."""

    def look(self, promise_id: str) -> PlacementView | None: ...


class LocalCause(Struct, frozen=True):
    """What one promise waits for: a cause, or other promises."""

    cause: Cause | None = None
    awaited: tuple[str, ...] = ()


@final
class Causes:
    """Looks at one promise at a time; nothing here waits."""

    def __init__(
        self, shards: Shards, delivery: Messages, polls: Streams, placement: Placing
    ) -> None:
        self._shards = shards
        self._delivery = delivery
        self._polls = polls
        self._placement = placement

    def look(self, state: ShardState, promise: Promise, now_ms: int) -> LocalCause:
        """Return what a pending promise's own tasks say."""
        promise_id = promise.id
        if promise_id in state.executions:
            return LocalCause(self._of_execution(state, promise))
        tags = promise.tags or {}
        if tags.get(TAG_TIMER) == "true":
            return LocalCause(self._sleeps(promise))
        workflow = state.workflows.get(promise_id)
        task = self._foremost(state, promise_id)
        if task is not None and (workflow is None or task.state is CLAIMED):
            return LocalCause(self._of_task(state, task, now_ms))
        if workflow is not None:
            return self._of_workflow(state, promise, workflow, now_ms)
        if tags.get(TAG_TIMEOUT) == "true":
            return LocalCause(self._sleeps(promise))
        return LocalCause(Cause(promise_id, Reason.NO_TASK, since=promise.created_on))

    def sending_of(self, key: str, now_ms: int) -> Sending:
        """Return what delivery knows of the message about a task."""
        view = self._delivery.look(key)
        if view is None:
            return Sending()
        next_try_on = None if view.next_try_in_ms is None else now_ms + view.next_try_in_ms
        return Sending(view.failed_count, view.error, next_try_on)

    def _sleeps(self, promise: Promise) -> Cause:
        return Cause(
            promise.id,
            Reason.SLEEPS,
            since=promise.created_on,
            at=promise.timeout,
            what="timeout",
        )

    def _foremost(self, state: ShardState, promise_id: str) -> Task | None:
        """Return the task of a root that is nearest to a worker."""
        root = state.roots.get(promise_id)
        if root is None:
            return None

        def place(task: Task) -> tuple[int, int]:
            if task.state is CLAIMED:
                rank = 0
            elif task.state is ENQUEUED:
                rank = 1
            else:
                rank = 2 if task.sending else 4 if task.not_before is not None else 3
            return rank, task.sequence

        return min(root.tasks, key=place, default=None)

    # REST's tasks

    def _of_task(self, state: ShardState, task: Task, now_ms: int) -> Cause:
        row = shown_tasks.of_task(state, task)
        address = self._delivery.resolve(task.receiver)
        if task.state is CLAIMED:
            assert task.process_id is not None, "a claimed task has a holder"
            return self._held(row, address, task.process_id, task.ttl, task.expires_at)
        if task.state is ENQUEUED:
            return self._sent(row, address, row.until)
        if task.not_before is not None and task.not_before > now_ms:
            return self._delayed(row, task.not_before)
        is_for_waiter = task.kind is NOTIFY
        exact_id = _exact_id(address, is_for_waiter=is_for_waiter)
        return self._unsent(row, address, exact_id, task.id, Dialect.REST, now_ms)

    # The envelope protocol's

    def _of_workflow(
        self, state: ShardState, promise: Promise, task: WorkflowTask, now_ms: int
    ) -> LocalCause:
        row = shown_tasks.of_workflow(state, task, promise)
        address = resolve_target((promise.tags or {}).get(TAG_TARGET, ""))
        if task.state is ACQUIRED:
            assert task.pid is not None, "an acquired task has a holder"
            return LocalCause(self._held(row, address, task.pid, task.ttl, task.expires_at))
        if task.state is SUSPENDED:
            return LocalCause(awaited=tuple(task.awaited or ()))
        if task.state is HALTED:
            return LocalCause(Cause(promise.id, Reason.HALTED, since=promise.created_on, task=row))
        timer_on = self._shards.deadline_of((WORKFLOW_TIMER, task.id))
        if task.unclaimed:
            return LocalCause(self._sent(row, address, timer_on))
        if task.not_before is not None and task.not_before > now_ms:
            return LocalCause(self._delayed(row, task.not_before))
        if timer_on is not None and not task.sending and not task.stalled:
            return LocalCause(self._delayed(row, timer_on))
        exact_id = _exact_id(address, is_for_waiter=False)
        return LocalCause(
            self._unsent(row, address, exact_id, execute_key(task.id), Dialect.ENVELOPE, now_ms)
        )

    # What both have in common

    def _held(
        self,
        row: TaskRow,
        address: Address | Undeliverable,
        process_id: str,
        ttl_ms: int,
        expires_at: int,
    ) -> Cause:
        """Return the cause where a worker has the task; its stream tells whether it is there."""
        is_connected = None
        if isinstance(address, PollAddress):
            is_connected = self._polls.is_connected(process_id)
        return Cause(
            row.promise_id,
            Reason.HOLDER_GONE if is_connected is False else Reason.HELD,
            since=row.created_on,
            at=row.until,
            what="lease",
            task=row,
            group=address.group if isinstance(address, PollAddress) else None,
            is_connected=is_connected,
            heard_on=expires_at - ttl_ms,
        )

    def _sent(self, row: TaskRow, address: Address | Undeliverable, again_on: int | None) -> Cause:
        return Cause(
            row.promise_id,
            Reason.SENT,
            since=row.created_on,
            at=again_on,
            what="claim",
            task=row,
            group=address.group if isinstance(address, PollAddress) else None,
        )

    def _delayed(self, row: TaskRow, until: int) -> Cause:
        return Cause(
            row.promise_id,
            Reason.DELAYED,
            since=row.created_on,
            at=until,
            what="delay",
            task=row,
        )

    def _unsent(
        self,
        row: TaskRow,
        address: Address | Undeliverable,
        exact_id: str | None,
        key: str,
        dialect: Dialect,
        now_ms: int,
    ) -> Cause:
        """Return the cause where no worker has the task's message."""
        sending = self.sending_of(key, now_ms)
        row = replace(row, sending=sending)
        cause = Cause(row.promise_id, Reason.SENDING, since=row.created_on, task=row)
        if isinstance(address, Undeliverable):
            return replace(cause, reason=Reason.UNDELIVERABLE, detail=address.reason)
        if isinstance(address, PushAddress):
            view = self._delivery.look(key)
            if view is None or view.state is not ShipmentState.STALLED:
                return cause
            return replace(
                cause,
                reason=Reason.RECEIVER_FAILS,
                since=view.failing_since_ms or row.created_on,
                at=sending.next_try_on,
                what="retry",
                detail=sending.error or "",
            )
        group = self._polls.listening(address.group, None, dialect)
        cause = replace(
            cause,
            group=address.group,
            connection_id=exact_id,
            listeners_count=group.connections_count,
        )
        if not group.connections_count:
            connected = self._polls.largest_groups(GROUPS_SHOWN_COUNT)
            return replace(cause, reason=Reason.NO_LISTENER, connected_groups=connected)
        wanted = self._polls.listening(address.group, exact_id, dialect)
        if not wanted.connections_count:
            return replace(cause, reason=Reason.NOT_CONNECTED)
        if not wanted.understanding_count:
            return replace(cause, reason=Reason.OTHER_PROTOCOL)
        return cause if wanted.room_count else replace(cause, reason=Reason.LISTENERS_FULL)

    # Function tasks

    def _of_execution(self, state: ShardState, promise: Promise) -> Cause:
        execution = state.executions[promise.id]
        task = self._foremost(state, promise.id)
        row = None if task is None else shown_tasks.of_task(state, task)
        since = promise.created_on
        if execution.assigned_on is not None:
            return Cause(
                promise.id,
                Reason.RUNS,
                since=execution.assigned_on,
                at=state.end_of_execution(execution),
                what="function",
                task=row,
                detail=execution.node_id,
            )
        view = self._placement.look(promise.id)
        cause = Cause(promise.id, Reason.SENDING, since=since, task=row)
        if view is None:
            return cause
        if view.is_withheld:
            return replace(cause, reason=Reason.ACCOUNT_DISABLED)
        if view.host is not None:
            return replace(cause, reason=Reason.CALL_WAITS, detail=view.host)
        if view.stage is not Stage.QUEUED:
            return replace(cause, detail=view.node_id or "")
        reason = Reason.NODES_BUSY if view.connected_count else Reason.NO_NODE
        return replace(cause, reason=reason, listeners_count=view.connected_count)


def _exact_id(address: Address | Undeliverable, *, is_for_waiter: bool) -> str | None:
    """Return the one connection that a message is for; None if any of the group will do."""
    if not isinstance(address, PollAddress):
        return None
    return address.id if address.cast == "uni" or is_for_waiter else None
