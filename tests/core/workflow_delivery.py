"""What delivery has of workflow tasks and listeners, and what must hold of it after every step."""

from collections.abc import Callable
from dataclasses import dataclass, field

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.model import PENDING, TAG_TARGET, TAG_TIMER
from troth.core.replies import ExecuteMessage, UnblockMessage
from troth.core.state.shard_state import ShardState, TimerKey
from troth.core.workflows import ACQUIRED, WAITING, execute_key, unblock_key

RETRY_MS = 30_000


@dataclass
class WorkflowDelivery:
    """Messages by what they are about. `tell` steps the machine of an id."""

    tell: Callable[[str, c.Command], object]
    sending: dict[str, int] = field(default_factory=dict)
    stalled: dict[str, int] = field(default_factory=dict)
    unclaimed: dict[str, int] = field(default_factory=dict)
    unblocks: dict[tuple[str, str], UnblockMessage] = field(default_factory=dict)
    sent: list[ExecuteMessage | UnblockMessage] = field(default_factory=list)
    reporting: str = ""

    def take(self, message: ExecuteMessage | UnblockMessage, state: ShardState, now: int) -> None:
        """A message is handed over."""
        self.sent.append(message)
        if isinstance(message, UnblockMessage):
            assert message.promise.state is not PENDING, "told before the end"
            self.unblocks[message.promise.id, message.address] = message
            return
        task = state.workflows[message.id]
        promise = state.promises[message.id]
        assert promise.tags is not None
        assert (task.state, task.version) == (WAITING, message.version)
        assert message.id not in self.sending, "given to delivery twice"
        assert promise.timeout > now, "sent after its deadline"
        assert (task.not_before or 0) <= now, "sent before its delay is over"
        assert promise.tags.get(TAG_TIMER) != "true", "a timer's task is never sent"
        assert message.target == promise.tags[TAG_TARGET]
        self.stalled.pop(message.id, None)
        self.unclaimed.pop(message.id, None)
        self.sending[message.id] = message.version

    def withdraw(self, key: str) -> bool:
        """A message is withdrawn; whether it was one of these."""
        for of in (self.sending, self.stalled, self.unclaimed):
            for workflow_id in list(of):
                if execute_key(workflow_id) == key:
                    del of[workflow_id]
                    return True
        for promise_id, address in list(self.unblocks):
            if unblock_key(promise_id, address) == key:
                del self.unblocks[promise_id, address]
                return True
        return key == self.reporting

    # Reports

    def report_sent(self, workflow_id: str) -> None:
        """A message has reached a worker."""
        version = self.sending.pop(workflow_id)
        self.unclaimed[workflow_id] = version
        self._report(workflow_id, w.ExecuteSent(workflow_id, version))

    def report_not_sent(self, workflow_id: str) -> None:
        """It could not be sent."""
        version = self.sending.pop(workflow_id)
        self.stalled[workflow_id] = version
        self._report(workflow_id, w.ExecuteNotSent(workflow_id, version))

    def report_retry(self, workflow_id: str) -> None:
        """It can be sent now, or the worker is gone."""
        for of in (self.stalled, self.unclaimed):
            version = of.pop(workflow_id, None)
            if version is not None:
                self._report(workflow_id, w.RetryExecute(workflow_id, version))
                return

    def report_unblocked(self, promise_id: str, address: str) -> None:
        """A listener was told."""
        del self.unblocks[promise_id, address]
        self.tell(promise_id, w.UnblockSent(promise_id, address))

    def _report(self, workflow_id: str, command: c.Command) -> None:
        self.reporting = execute_key(workflow_id)
        self.tell(workflow_id, command)
        self.reporting = ""

    # Checks

    def check(self, state: ShardState, timers: dict[TimerKey, int], now: int) -> None:
        """What delivery has is what the machine thinks it has, and no task is forgotten."""
        for task in state.workflows.values():
            promise = state.promises[task.id]
            assert promise.state is PENDING, "only tasks of pending promises are kept"
            assert promise.tags is not None
            notes = (task.sending, task.stalled, task.unclaimed)
            held = (task.id in self.sending, task.id in self.stalled, task.id in self.unclaimed)
            assert notes == held, task
            assert sum(notes) <= 1, task
            armed = timers.get((c.WORKFLOW_TIMER, task.id))
            if task.state is ACQUIRED:
                # After an absence a timer may come too early; it looks again.
                is_in_time = armed is not None and armed <= state.end_of_workflow_lease(task)
                assert is_in_time or task.expires_at <= now, task
                assert not any(notes), "a task that is held has no message"
            elif task.state is WAITING:
                is_timer = promise.tags.get(TAG_TIMER) == "true"
                is_due = promise.timeout <= now or (armed is not None and armed <= now)
                waits = task.sending or task.stalled or armed is not None
                assert waits or is_timer or is_due, f"forgotten: {task}"
            else:
                assert armed is None, task
                assert not any(notes), task
        for promise_id, addresses in state.unblocks.items():
            for address in addresses:
                assert (promise_id, address) in self.unblocks, "a listener is forgotten"
            assert (c.UNBLOCK_TIMER, promise_id) in timers or not addresses
        for kind, identifier in timers:
            if kind is c.WORKFLOW_TIMER:
                assert identifier in state.workflows, "a timer is left over"
            elif kind is c.UNBLOCK_TIMER:
                assert identifier in state.unblocks, "a timer is left over"
