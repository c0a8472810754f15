"""The queues of executions: which one is next when a node becomes free.

What this module promises:

- Next goes the account with the fewest running executions; among equals the one that has waited
  longest. So an account with a hundred thousand executions delays another's first by one execution.
- Within an account the oldest execution goes first, but an execution that the node cannot run does
  not hold up those behind it.
- An event costs the same however many executions wait. It grows with the number of *different*
  requirements that executions wait with (a handful), by a logarithm with everything else.
- Of each account at most 64 requirements are compared with a node: they are *shown*. The others are
  behind them, and each execution that is taken from the queues lets one of them come forward, of
  the accounts in turn. When a node has become free, what is behind is to be *looked at*, a part at
  a time (`next_behind`): until that has been done, an execution behind may wait though a node is
  free. For an account with so many, the oldest is the oldest of those shown.
- An account that is suspended keeps what waits, and is not next until it is resumed.

The heaps of kinds are lazy: an entry that is outdated stays until it comes to the top, or until the
heap is mostly such entries and is rebuilt.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Final, final

from .executions import Need, PlacedExecution
from .oldest_first import OldestFirst

_SPARE_COUNT: Final = 64  # outdated entries that are not worth rebuilding a heap

SHOWN_COUNT: Final = 64
"""Requirements of one account that are compared with a node."""

Fits = Callable[[Need], bool]


@final
class _Line:
    """The queued executions of one account with one requirement."""

    __slots__ = ("account", "entry", "executions", "kind", "looked_at", "need")

    def __init__(self, account: "_Account", need: Need, looked_at: int) -> None:
        self.account = account
        self.need = need
        self.executions = OldestFirst()
        self.kind: _Kind | None = None  # of what is shown
        self.entry: _KindEntry | None = None
        self.looked_at = looked_at  # the round in which no free node would do


_KindEntry = tuple[int, int, int, _Line]
"""Running executions of the line's account, since when it waits, a number to compare entries by."""


@final
class _Kind:
    """All lines with one requirement, the one to serve next first."""

    __slots__ = ("heap", "lines_count", "need")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.heap: list[_KindEntry] = []
        self.lines_count = 0

    def enter(self, line: _Line, number: int) -> None:
        """Put a line where its account stands now; its earlier entry is outdated."""
        account = line.account
        line.entry = (account.running_count, account.waiting_since, number, line)
        heapq.heappush(self.heap, line.entry)
        if len(self.heap) > 2 * self.lines_count + _SPARE_COUNT:
            self.heap = [entry for entry in self.heap if entry[3].entry is entry]
            heapq.heapify(self.heap)

    def first(self) -> _Line | None:
        """Return the line to serve next; None if all of them are of suspended accounts."""
        while self.heap and self.heap[0][3].entry is not self.heap[0]:
            heapq.heappop(self.heap)
        return self.heap[0][3] if self.heap else None


@final
class _Account:
    """What an account has waiting and running. Forgotten when it has neither."""

    __slots__ = (
        "behind",
        "id",
        "lines",
        "queued_count",
        "running_count",
        "shown",
        "waiting_since",
    )

    def __init__(self, account_id: str) -> None:
        self.id = account_id
        self.lines: dict[Need, _Line] = {}
        # Each line is in one of these; that which has been there longest is the first. Behind, none
        # has been looked at later than those after it.
        self.shown: OrderedDict[Need, _Line] = OrderedDict()
        self.behind: OrderedDict[Need, _Line] = OrderedDict()
        self.queued_count = 0
        self.running_count = 0
        self.waiting_since = 0  # when it was served last, or began to wait, whichever is later

    @property
    def standing(self) -> tuple[int, int]:
        return self.running_count, self.waiting_since


@final
class ExecutionQueues:
    """Queued executions of all accounts."""

    def __init__(self) -> None:
        """Start empty."""
        self._accounts: dict[str, _Account] = {}
        self._kinds: dict[Need, _Kind] = {}
        self._suspended: set[str] = set()
        self._numbers = count(1)
        self._queued_count = 0
        self._round = 0
        # Accounts with lines behind, and those of them that may have some to look at. They take
        # turns; the value says nothing.
        self._wide: OrderedDict[str, None] = OrderedDict()
        self._unlooked: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many executions wait."""
        return self._queued_count

    def is_waiting(self, account_id: str, need: Need) -> bool:
        """Return whether such an execution of the account is already waiting."""
        account = self._accounts.get(account_id)
        return account is not None and need in account.lines

    def holds(self, execution: PlacedExecution) -> bool:
        """Return whether this execution waits here."""
        account = self._accounts.get(execution.account_id)
        line = None if account is None else account.lines.get(execution.need)
        return line is not None and execution in line.executions

    def counts(self) -> list[tuple[str, int, int]]:
        """Return each account's id, its queued and its running tasks."""
        return [
            (account.id, account.queued_count, account.running_count)
            for account in self._accounts.values()
        ]

    def queued_count(self, account_id: str) -> int:
        """Return how many executions of an account wait."""
        account = self._accounts.get(account_id)
        return 0 if account is None else account.queued_count

    def oldest(self, account_id: str | None = None) -> PlacedExecution | None:
        """Find the one that has waited longest, of an account or of all: looks at all lines."""
        accounts = self._accounts.values()
        lines = [
            line
            for account in accounts
            if account_id is None or account.id == account_id
            for line in account.lines.values()
        ]
        firsts = [line.executions.first() for line in lines]
        return min(firsts, key=lambda execution: execution.order, default=None)

    def any_of(self, account_id: str) -> PlacedExecution | None:
        """Return one that waits, of an account; None if none does."""
        account = self._accounts.get(account_id)
        line = None if account is None else next(iter(account.lines.values()), None)
        return None if line is None else line.executions.first()

    def suspend(self, account_id: str) -> None:
        """Stop taking what waits of an account; it can be removed."""
        self._suspended.add(account_id)
        account = self._accounts.get(account_id)
        if account is not None:
            for line in account.shown.values():
                line.entry = None
            self._wide.pop(account_id, None)
            self._unlooked.pop(account_id, None)

    def resume(self, account_id: str) -> None:
        """Take executions of an account again; nothing of it waits."""
        assert self.any_of(account_id) is None
        self._suspended.remove(account_id)

    def put(self, execution: PlacedExecution) -> None:
        """Queue an execution. Its account is not suspended."""
        assert execution.account_id not in self._suspended
        account = self._account(execution.account_id)
        if not account.queued_count:
            account.waiting_since = next(self._numbers)
        line = account.lines.get(execution.need)
        if line is None:
            line = account.lines[execution.need] = _Line(account, execution.need, self._round)
            if len(account.shown) < SHOWN_COUNT:
                self._show(line)
            else:
                account.behind[line.need] = line
                self._wide[account.id] = None
        line.executions.put(execution)
        account.queued_count += 1
        self._queued_count += 1

    def remove(self, execution: PlacedExecution) -> None:
        """Take out an execution that waits."""
        account = self._accounts[execution.account_id]
        self._take_out(account, execution)
        self._forget_if_idle(account)

    def take(self, fits: Fits, account_id: str | None = None) -> PlacedExecution | None:
        """Take the next one that fits, of one account or of all; it counts as running then."""
        turn = next(iter(self._wide), None) if account_id is None else account_id
        if turn is not None and turn in self._wide:
            self._bring_forward(turn, fits)
        account = self._next_account(fits) if account_id is None else self._accounts.get(account_id)
        if account is None or account.id in self._suspended:
            return None
        executions = [line.executions.first() for line in account.shown.values() if fits(line.need)]
        if not executions:
            return None
        execution = min(executions, key=lambda one: one.order)
        self._take_out(account, execution)
        account.waiting_since = next(self._numbers)
        self._add_running(account, 1)
        return execution

    @property
    def has_behind(self) -> bool:
        """Return whether executions wait that are not shown."""
        return bool(self._wide)

    def begin_round(self) -> None:
        """Note that a node is free for which nothing is shown; all that is behind is unlooked."""
        self._round += 1
        self._unlooked = self._wide.copy()

    def next_behind(self) -> tuple[str, Need] | None:
        """Return an account and what executions of it wait for that have not been looked at.

        They are shown from then on. The accounts take turns.
        """
        while self._unlooked:
            account = self._accounts[next(iter(self._unlooked))]
            line = next(iter(account.behind.values()))
            if line.looked_at == self._round:
                del self._unlooked[account.id]
                continue
            self._unlooked.move_to_end(account.id)
            self.show(account.id, line.need)
            return account.id, line.need
        return None

    def show(self, account_id: str, need: Need) -> bool:
        """Show the executions of an account that wait for this; return whether there are any.

        Those of a suspended account do not count.
        """
        account = self._accounts.get(account_id)
        line = None if account is None else account.lines.get(need)
        if line is None or account_id in self._suspended:
            return False
        if line.kind is None:
            self._swap(line, next(iter(line.account.shown.values()), line))
        return True

    def started(self, account_id: str) -> None:
        """Count an execution that runs without having waited."""
        account = self._account(account_id)
        account.waiting_since = next(self._numbers)
        self._add_running(account, 1)

    def ended(self, account_id: str) -> None:
        """Count an execution that has ended."""
        account = self._accounts[account_id]
        assert account.running_count > 0, "what ends has been started"
        self._add_running(account, -1)
        self._forget_if_idle(account)

    def _next_account(self, fits: Fits) -> _Account | None:
        firsts = [kind.first() for kind in self._kinds.values() if fits(kind.need)]
        accounts = [line.account for line in firsts if line is not None]
        return min(accounts, key=lambda account: account.standing, default=None)

    def _take_out(self, account: _Account, execution: PlacedExecution) -> None:
        line = account.lines[execution.need]
        line.executions.drop(execution)
        account.queued_count -= 1
        self._queued_count -= 1
        if len(line.executions):
            return
        del account.lines[execution.need]
        if line.kind is None:
            del account.behind[line.need]
            self._narrow(account)
        else:
            self._hide(line)

    def _show(self, line: _Line) -> None:
        kind = self._kinds.get(line.need)
        if kind is None:
            kind = self._kinds[line.need] = _Kind(line.need)
        line.kind = kind
        line.account.shown[line.need] = line
        kind.lines_count += 1
        kind.enter(line, next(self._numbers))

    def _hide(self, line: _Line) -> None:
        kind = line.kind
        assert kind is not None
        del line.account.shown[line.need]
        line.kind = line.entry = None
        kind.lines_count -= 1
        if not kind.lines_count:
            del self._kinds[line.need]

    def _swap(self, line: _Line, last: _Line) -> None:
        """Show a line from behind in place of another, unless there is room for both."""
        account = line.account
        if len(account.shown) >= SHOWN_COUNT:
            self._hide(last)
            last.looked_at = self._round
            account.behind[last.need] = last
        del account.behind[line.need]
        self._show(line)
        self._narrow(account)

    def _narrow(self, account: _Account) -> None:
        if not account.behind:
            self._wide.pop(account.id, None)
            self._unlooked.pop(account.id, None)

    def _bring_forward(self, account_id: str, fits: Fits) -> None:
        """Show another line of an account, in place of one that the node cannot run."""
        self._wide.move_to_end(account_id)
        account = self._accounts[account_id]
        line = next(iter(account.behind.values()))
        if account_id in self._unlooked and line.looked_at != self._round:
            return  # `next_behind` is about to
        if len(account.shown) < SHOWN_COUNT:
            self._swap(line, line)
            return
        last = next((one for one in account.shown.values() if not fits(one.need)), None)
        if last is not None:
            self._swap(line, last)

    def _add_running(self, account: _Account, change: int) -> None:
        account.running_count += change
        if account.id in self._suspended:
            return
        for line in account.shown.values():
            assert line.kind is not None
            line.kind.enter(line, next(self._numbers))

    def _account(self, account_id: str) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = _Account(account_id)
        return account

    def _forget_if_idle(self, account: _Account) -> None:
        if not account.queued_count and not account.running_count:
            del self._accounts[account.id]
