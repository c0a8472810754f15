"""Whose turn it is to call an HTTP function. The server runs these itself; see `http/`.

A call passes three gates, so that a host that hangs, or an account that calls many such hosts,
leaves room for others:

1. Its host: so many calls at a time; accounts that wait for the same host take turns.
2. Its account: at most half of all places. What is beyond waits here, and keeps its place at its
   host.
3. All calls together: a place goes to the account with the fewest calls (`work_queues.py`).

A place is free again when the call has really ended, not when its task has: that may be earlier.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import final

from .work import Host, Need, Stage, Work
from .work_queues import WorkQueues


def _anything(_: Need) -> bool:
    return True


@final
class _HostGate:
    """The first gate: one host's calls."""

    __slots__ = ("passed_count", "queues")

    def __init__(self) -> None:
        self.passed_count = 0
        self.queues = WorkQueues()


@final
class _AccountGate:
    """The second gate: one account's calls. `passed_count` are ready or running."""

    __slots__ = ("parked", "passed_count")

    def __init__(self) -> None:
        self.passed_count = 0
        self.parked: deque[Work] = deque()


@final
class CallGates:
    """Calls of HTTP functions that wait, and the count of those that run."""

    def __init__(
        self, start: Callable[[Work], None], *, concurrency_count: int, per_host_count: int
    ) -> None:
        """`start` begins a call and returns at once; `ended` is to be called when it is over."""
        self._start = start
        self._concurrency_count = concurrency_count
        self._per_host_count = per_host_count
        self._per_account_count = max(1, concurrency_count // 2)
        self._hosts: dict[Need, _HostGate] = {}
        self._accounts: dict[str, _AccountGate] = {}
        self._ready = WorkQueues()
        self._waiting: dict[str, int] = {}
        self._is_paused = False
        self.waiting_count = 0
        self.running_count = 0

    def waiting_count_of(self, account_id: str) -> int:
        """How many calls of an account wait, at whatever gate."""
        return self._waiting.get(account_id, 0)

    def waiting_counts(self) -> dict[str, int]:
        """How many calls wait, by account."""
        return dict(self._waiting)

    def oldest(self, account_id: str | None = None) -> Work | None:
        """The oldest call that waits, of one account or of all; looks at every gate."""
        found = [host.queues.oldest(account_id) for host in self._hosts.values()]
        found.append(self._ready.oldest(account_id))
        for name, account in self._accounts.items():
            if account_id is None or account_id == name:
                found += account.parked
        return min(
            [one for one in found if one is not None], key=lambda one: one.order, default=None
        )

    def put(self, work: Work) -> None:
        """Let a call wait for its turn; it may come before this returns."""
        assert isinstance(work.need, Host)
        self._count_waiting(work, 1)
        host = self._hosts.get(work.need)
        if host is None:
            host = self._hosts[work.need] = _HostGate()
        host.queues.put(work)
        self._open(host)
        self._begin()

    def remove(self, work: Work) -> None:
        """Forget a call that waits."""
        assert work.stage is Stage.QUEUED
        host = self._hosts[work.need]
        self._count_waiting(work, -1)
        if host.queues.holds(work):
            host.queues.remove(work)
            self._forget_if_idle(work, host)
            return
        account = self._accounts[work.account_id]
        if self._ready.holds(work):
            self._ready.remove(work)
            self._leave_account(account)
        else:
            account.parked.remove(work)
        self._leave_host(host, work)
        self._begin()

    def remove_all(self, works: Iterable[Work]) -> None:
        """Forget calls that wait; none of them begins because another made room."""
        self._is_paused = True
        for work in works:
            self.remove(work)
        self._is_paused = False
        self._begin()

    def ended(self, work: Work) -> None:
        """A call that was started is over."""
        self.running_count -= 1
        self._ready.ended(work.account_id)
        self._leave_account(self._accounts[work.account_id])
        self._leave_host(self._hosts[work.need], work)
        self._begin()

    def _open(self, host: _HostGate) -> None:
        """Let calls through the first gate, and on to the second."""
        while host.passed_count < self._per_host_count:
            work = host.queues.take(_anything)
            if work is None:
                return
            host.passed_count += 1
            account = self._accounts.setdefault(work.account_id, _AccountGate())
            account.parked.append(work)
            self._admit(account)

    def _admit(self, account: _AccountGate) -> None:
        """Let calls through the second gate."""
        while account.parked and account.passed_count < self._per_account_count:
            account.passed_count += 1
            self._ready.put(account.parked.popleft())

    def _begin(self) -> None:
        """Let calls through the third gate."""
        while self.running_count < self._concurrency_count and not self._is_paused:
            work = self._ready.take(_anything)
            if work is None:
                return
            self._count_waiting(work, -1)
            self.running_count += 1
            work.stage = Stage.RUNNING
            self._start(work)

    def _leave_account(self, account: _AccountGate) -> None:
        account.passed_count -= 1
        self._admit(account)

    def _leave_host(self, host: _HostGate, work: Work) -> None:
        host.passed_count -= 1
        host.queues.ended(work.account_id)
        self._open(host)
        self._forget_if_idle(work, host)

    def _forget_if_idle(self, work: Work, host: _HostGate) -> None:
        if not host.passed_count and not len(host.queues):
            del self._hosts[work.need]
        account = self._accounts.get(work.account_id)
        if account is not None and not account.passed_count and not account.parked:
            del self._accounts[work.account_id]

    def _count_waiting(self, work: Work, change: int) -> None:
        self.waiting_count += change
        count = self._waiting.get(work.account_id, 0) + change
        if count:
            self._waiting[work.account_id] = count
        else:
            del self._waiting[work.account_id]
