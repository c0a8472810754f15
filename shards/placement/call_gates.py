"""Which call of an HTTP function comes next. The server runs these itself; see `http/`.

A call passes three gates, so that a host that hangs, or an account that calls many such hosts,
leaves room for others:

1. Its host: a limited number of calls at a time; accounts that wait for the same host alternate.
2. Its account: at most half of all places. What is beyond waits here, and keeps its place at its
   host.
3. All calls together: a place goes to the account with the fewest calls (`execution_queues.py`).

A place is free again when the call has really ended, not when its execution has: that may be
earlier. Calls of a suspended account pass no gate but the first.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import final

from .execution_queues import ExecutionQueues
from .executions import Host, Need, PlacedExecution, Stage
from .oldest_first import OldestFirst


def _anything(_: Need) -> bool:
    return True


@final
class _HostGate:
    """The first gate: one host's calls."""

    __slots__ = ("passed_count", "queues")

    def __init__(self) -> None:
        self.passed_count = 0
        self.queues = ExecutionQueues()


@final
class _AccountGate:
    """The second gate: one account's calls. `passed_count` are ready or running."""

    __slots__ = ("parked", "passed_count")

    def __init__(self) -> None:
        self.passed_count = 0
        self.parked: OrderedDict[str, PlacedExecution] = OrderedDict()


@final
class CallGates:
    """Calls of HTTP functions that wait, and the count of those that run."""

    def __init__(
        self,
        start: Callable[[PlacedExecution], None],
        *,
        concurrency_count: int,
        per_host_count: int,
    ) -> None:
        """Initialize. `start` begins a call without waiting; call `ended` when it is over."""
        self._start = start
        self._concurrency_count = concurrency_count
        self._per_host_count = per_host_count
        self._per_account_count = max(1, concurrency_count // 2)
        self._hosts: dict[Need, _HostGate] = {}
        self._accounts: dict[str, _AccountGate] = {}
        self._ready = ExecutionQueues()
        self._waiting: dict[str, OldestFirst] = {}
        self._suspended: set[str] = set()
        self.waiting_count = 0
        self.running_count = 0

    def waiting_count_of(self, account_id: str) -> int:
        """Return how many calls of an account wait, at whatever gate."""
        return len(self._waiting.get(account_id, ()))

    def waiting_counts(self) -> dict[str, int]:
        """Return how many calls wait, by account."""
        return {account_id: len(waiting) for account_id, waiting in self._waiting.items()}

    def oldest(self, account_id: str | None = None) -> PlacedExecution | None:
        """Return the oldest call that waits, of one account or of all."""
        if account_id is not None:
            waiting = self._waiting.get(account_id)
            return None if waiting is None else waiting.first()
        firsts = [waiting.first() for waiting in self._waiting.values()]
        return min(firsts, key=lambda one: one.order, default=None)

    def suspend(self, account_id: str) -> None:
        """Stop beginning calls of an account; those that wait can be removed."""
        self._suspended.add(account_id)
        self._ready.suspend(account_id)

    def resume(self, account_id: str) -> None:
        """Begin calls of an account again; none of it waits."""
        assert account_id not in self._waiting
        self._suspended.remove(account_id)
        self._ready.resume(account_id)

    def put(self, execution: PlacedExecution) -> None:
        """Queue a call until it may begin, which may be before this returns."""
        assert isinstance(execution.need, Host)
        self._waiting.setdefault(execution.account_id, OldestFirst()).put(execution)
        self.waiting_count += 1
        host = self._hosts.get(execution.need)
        if host is None:
            host = self._hosts[execution.need] = _HostGate()
        host.queues.put(execution)
        self._open(host)
        self._begin()

    def remove(self, execution: PlacedExecution) -> None:
        """Forget a call that waits."""
        assert execution.stage is Stage.QUEUED
        host = self._hosts[execution.need]
        self._waits_no_longer(execution)
        if host.queues.holds(execution):
            host.queues.remove(execution)
            self._forget_if_idle(execution, host)
            return
        account = self._accounts[execution.account_id]
        if self._ready.holds(execution):
            self._ready.remove(execution)
            self._leave_account(execution.account_id)
        else:
            del account.parked[execution.promise_id]
        self._leave_host(host, execution)
        self._begin()

    def ended(self, execution: PlacedExecution) -> None:
        """Note that a call that was started is over."""
        self.running_count -= 1
        self._ready.ended(execution.account_id)
        self._leave_account(execution.account_id)
        self._leave_host(self._hosts[execution.need], execution)
        self._begin()

    def _open(self, host: _HostGate) -> None:
        """Pass calls through the first gate, and on to the second."""
        while host.passed_count < self._per_host_count:
            execution = host.queues.take(_anything)
            if execution is None:
                return
            host.passed_count += 1
            account = self._accounts.setdefault(execution.account_id, _AccountGate())
            account.parked[execution.promise_id] = execution
            self._admit(execution.account_id, account)

    def _admit(self, account_id: str, account: _AccountGate) -> None:
        """Pass calls through the second gate."""
        if account_id in self._suspended:
            return
        while account.parked and account.passed_count < self._per_account_count:
            account.passed_count += 1
            self._ready.put(account.parked.popitem(last=False)[1])

    def _begin(self) -> None:
        """Pass calls through the third gate."""
        while self.running_count < self._concurrency_count:
            execution = self._ready.take(_anything)
            if execution is None:
                return
            self._waits_no_longer(execution)
            self.running_count += 1
            execution.stage = Stage.SENT
            self._start(execution)

    def _leave_account(self, account_id: str) -> None:
        account = self._accounts[account_id]
        account.passed_count -= 1
        self._admit(account_id, account)

    def _leave_host(self, host: _HostGate, execution: PlacedExecution) -> None:
        host.passed_count -= 1
        host.queues.ended(execution.account_id)
        self._open(host)
        self._forget_if_idle(execution, host)

    def _forget_if_idle(self, execution: PlacedExecution, host: _HostGate) -> None:
        if not host.passed_count and not len(host.queues):
            del self._hosts[execution.need]
        account = self._accounts.get(execution.account_id)
        if account is not None and not account.passed_count and not account.parked:
            del self._accounts[execution.account_id]

    def _waits_no_longer(self, execution: PlacedExecution) -> None:
        self.waiting_count -= 1
        waiting = self._waiting[execution.account_id]
        waiting.drop(execution)
        if not len(waiting):
            del self._waiting[execution.account_id]
