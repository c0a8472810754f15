"""The queues of function tasks: whose turn it is when a node becomes free.

What this module promises:

- Next goes the account with the fewest running tasks; among equals the one that has waited longest
  for a turn. So an account with a hundred thousand tasks delays another's first by one turn.
- Within an account the oldest task goes first, but a task that the node cannot run does not hold up
  those behind it.
- An event costs the same however many tasks wait. It grows with the number of *different*
  requirements that tasks wait with (a handful), by a logarithm with everything else.

Heaps are lazy: what has left a queue stays in its heap until it comes to the top, or until the heap
is mostly such entries and is made anew.
"""

import heapq
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final, final

from .work import Need, Order, Work

_SPARE_COUNT: Final = 64  # outdated entries that are not worth making a heap anew

Fits = Callable[[Need], bool]


@final
class _Line:
    """The queued tasks of one account with one requirement."""

    __slots__ = ("account", "entry", "heap", "kind", "works")

    def __init__(self, account: "_Account", kind: "_Kind") -> None:
        self.account = account
        self.kind = kind
        self.works: dict[str, Work] = {}
        self.heap: list[tuple[Order, int, Work]] = []
        self.entry: _KindEntry | None = None

    def put(self, work: Work, number: int) -> None:
        self.works[work.promise_id] = work
        heapq.heappush(self.heap, (work.order, number, work))

    def drop(self, work: Work) -> None:
        del self.works[work.promise_id]
        if len(self.heap) > 2 * len(self.works) + _SPARE_COUNT:
            self.heap = [entry for entry in self.heap if self._is_here(entry[2])]
            heapq.heapify(self.heap)

    def first(self) -> Work:
        """The oldest; there is one, or the line would be gone."""
        while not self._is_here(self.heap[0][2]):
            heapq.heappop(self.heap)
        return self.heap[0][2]

    def _is_here(self, work: Work) -> bool:
        return self.works.get(work.promise_id) is work


_KindEntry = tuple[int, int, int, _Line]
"""Running tasks of the line's account, its turn, a number that makes entries comparable."""


@final
class _Kind:
    """All lines with one requirement, by whose turn it is."""

    __slots__ = ("heap", "lines_count", "need")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.heap: list[_KindEntry] = []
        self.lines_count = 0

    def enter(self, line: _Line, number: int) -> None:
        """Put a line where its account stands now; its earlier entry is outdated."""
        account = line.account
        line.entry = (account.running_count, account.turn, number, line)
        heapq.heappush(self.heap, line.entry)
        if len(self.heap) > 2 * self.lines_count + _SPARE_COUNT:
            self.heap = [entry for entry in self.heap if entry[3].entry is entry]
            heapq.heapify(self.heap)

    def first(self) -> _Line:
        """The line whose turn it is; there is one, or the kind would be gone."""
        while self.heap[0][3].entry is not self.heap[0]:
            heapq.heappop(self.heap)
        return self.heap[0][3]


@final
class _Account:
    """What an account has waiting and running. Forgotten when it has neither."""

    __slots__ = ("id", "lines", "queued_count", "running_count", "turn")

    def __init__(self, account_id: str) -> None:
        self.id = account_id
        self.lines: dict[Need, _Line] = {}
        self.queued_count = 0
        self.running_count = 0
        self.turn = 0  # when it was served last, or began to wait, whichever is later

    @property
    def standing(self) -> tuple[int, int]:
        return self.running_count, self.turn


@final
class WorkQueues:
    """Queued tasks of all accounts."""

    def __init__(self) -> None:
        """Start empty."""
        self._accounts: dict[str, _Account] = {}
        self._kinds: dict[Need, _Kind] = {}
        self._numbers = count(1)
        self._queued_count = 0

    def __len__(self) -> int:
        """How many tasks wait."""
        return self._queued_count

    def is_waiting(self, account_id: str, need: Need) -> bool:
        """Whether such a task of the account waits already."""
        account = self._accounts.get(account_id)
        return account is not None and need in account.lines

    def holds(self, work: Work) -> bool:
        """Whether this task waits here."""
        account = self._accounts.get(work.account_id)
        line = None if account is None else account.lines.get(work.need)
        return line is not None and line.works.get(work.promise_id) is work

    def counts(self) -> list[tuple[str, int, int]]:
        """Each account's id, its queued and its running tasks."""
        return [
            (account.id, account.queued_count, account.running_count)
            for account in self._accounts.values()
        ]

    def queued_count(self, account_id: str) -> int:
        """How many tasks of an account wait."""
        account = self._accounts.get(account_id)
        return 0 if account is None else account.queued_count

    def oldest(self, account_id: str | None = None) -> Work | None:
        """The oldest task that waits, of one account or of all; looks at each of their lines."""
        accounts = self._accounts.values()
        lines = [
            line
            for account in accounts
            if account_id is None or account.id == account_id
            for line in _lines(account)
        ]
        firsts = [line.first() for line in lines]
        return min(firsts, key=lambda work: work.order, default=None)

    def put(self, work: Work) -> None:
        """Let a task wait."""
        account = self._account(work.account_id)
        if not account.queued_count:
            account.turn = next(self._numbers)
        line = account.lines.get(work.need)
        if line is None:
            kind = self._kinds.get(work.need)
            if kind is None:
                kind = self._kinds[work.need] = _Kind(work.need)
            line = account.lines[work.need] = _Line(account, kind)
            kind.lines_count += 1
            kind.enter(line, next(self._numbers))
        line.put(work, next(self._numbers))
        account.queued_count += 1
        self._queued_count += 1

    def remove(self, work: Work) -> None:
        """Take out a task that waits."""
        account = self._accounts[work.account_id]
        self._take_out(account, work)
        self._forget_if_idle(account)

    def take(self, fits: Fits, account_id: str | None = None) -> Work | None:
        """Take the next task that fits, of one account or of all; it counts as running then."""
        account = self._next_account(fits) if account_id is None else self._accounts.get(account_id)
        if account is None:
            return None
        works = [line.first() for line in _lines(account) if fits(line.kind.need)]
        if not works:
            return None
        work = min(works, key=lambda one: one.order)
        self._take_out(account, work)
        account.turn = next(self._numbers)
        self._add_running(account, 1)
        return work

    def started(self, account_id: str) -> None:
        """A task that did not wait runs."""
        account = self._account(account_id)
        account.turn = next(self._numbers)
        self._add_running(account, 1)

    def ended(self, account_id: str) -> None:
        """A task runs no more."""
        account = self._accounts[account_id]
        assert account.running_count > 0, "what ends has been started"
        self._add_running(account, -1)
        self._forget_if_idle(account)

    def _next_account(self, fits: Fits) -> _Account | None:
        firsts = [kind.first().account for kind in self._kinds.values() if fits(kind.need)]
        return min(firsts, key=lambda account: account.standing, default=None)

    def _take_out(self, account: _Account, work: Work) -> None:
        line = account.lines[work.need]
        line.drop(work)
        account.queued_count -= 1
        self._queued_count -= 1
        if line.works:
            return
        del account.lines[work.need]
        line.entry = None
        line.kind.lines_count -= 1
        if not line.kind.lines_count:
            del self._kinds[work.need]

    def _add_running(self, account: _Account, change: int) -> None:
        account.running_count += change
        for line in _lines(account):
            line.kind.enter(line, next(self._numbers))

    def _account(self, account_id: str) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = _Account(account_id)
        return account

    def _forget_if_idle(self, account: _Account) -> None:
        if not account.queued_count and not account.running_count:
            del self._accounts[account.id]


def _lines(account: _Account) -> Iterable[_Line]:
    return account.lines.values()
