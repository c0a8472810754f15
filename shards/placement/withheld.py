"""Executions that may not start, because their account is disabled.

They stay queued: what ends a queued execution ends them too. When the account is enabled they are
placed as if they had come then, the oldest first. Executions that run already are not affected.

An account may have a hundred thousand, so they move in slices. What is promised holds from the
first one on:

- When an account is disabled, its queues are suspended immediately. Then what waits there is
  *gathered* here. What comes to the account in the meantime is kept here, too.
- When an account is enabled, its executions are *released*. What comes in the meantime is kept
  behind them.
- When it is disabled during that, what was released and has not started is gathered again. When it
  is enabled while it is gathered, that is finished first: so the oldest is still the first.
"""

from collections.abc import Callable, Collection
from typing import Final, final

from .call_gates import CallGates
from .execution_queues import ExecutionQueues
from .executions import PlacedExecution
from .oldest_first import OldestFirst

SLICE_COUNT: Final = 50  # executions that move before others get their turn


@final
class Withheld:
    """The accounts whose executions do not start, and these executions."""

    def __init__(
        self,
        queues: ExecutionQueues,
        gates: CallGates,
        place: Callable[[PlacedExecution], None],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """Begin with none.

        `place` starts or queues an execution that may start; `call_soon` calls an action when
        others have had their turn.
        """
        self._queues = queues
        self._gates = gates
        self._place = place
        self._call_soon = call_soon
        self._disabled: frozenset[str] | None = frozenset()
        self._kept: dict[str, OldestFirst] = {}
        self._kept_count = 0
        # Accounts that move; the value says nothing. An account is in one of the two at most.
        self._gathered: dict[str, None] = {}
        self._released: dict[str, None] = {}
        self._is_moving = False

    def __len__(self) -> int:
        """Return how many executions are withheld."""
        return self._kept_count

    @property
    def is_moving(self) -> bool:
        """Return whether executions of any account are being gathered or released."""
        return bool(self._gathered or self._released)

    def is_disabled(self, account_id: str) -> bool:
        """Return whether an account's executions may not start."""
        return self._disabled is None or account_id in self._disabled

    def reaches(self, account_id: str) -> bool:
        """Return whether an execution that comes to an account now is to be kept here."""
        return (
            self.is_disabled(account_id)
            or account_id in self._gathered
            or account_id in self._released
        )

    def change(self, accounts: Collection[str] | None) -> None:
        """Withhold the executions of these accounts, and of no others.

        None stands for all accounts; that is how it may begin, before there are any executions.
        """
        before, self._disabled = self._disabled, None if accounts is None else frozenset(accounts)
        if accounts is None:
            assert not self._kept_count
            assert not len(self._queues)
            assert not self._gates.waiting_count
            return
        disabled = accounts if before is None else [one for one in accounts if one not in before]
        for account_id in disabled:
            self._released.pop(account_id, None)
            waits = self._queues.any_of(account_id) or self._gates.oldest(account_id)
            if waits is not None and account_id not in self._gathered:
                self._gathered[account_id] = None
                self._queues.suspend(account_id)
                self._gates.suspend(account_id)
        enabled = self._kept if before is None else before
        for account_id in enabled:
            if account_id not in accounts:
                self._release(account_id)
        if not self._is_moving:
            self._move()

    def _release(self, account_id: str) -> None:
        if account_id in self._kept and account_id not in self._gathered:
            self._released[account_id] = None

    def _move(self) -> None:
        """Move a slice: of each account one execution after the other."""
        for _ in range(SLICE_COUNT):
            if self._gathered:
                self._gather_one()
            elif self._released:
                self._release_one()
            else:
                break
        self._is_moving = self.is_moving
        if self._is_moving:
            self._call_soon(self._move)

    def _gather_one(self) -> None:
        account_id = next(iter(self._gathered))
        execution = self._queues.any_of(account_id)
        if execution is not None:
            self._queues.remove(execution)
            self.put(execution)
            return
        execution = self._gates.oldest(account_id)
        if execution is not None:
            self._gates.remove(execution)
            self.put(execution)
            return
        del self._gathered[account_id]
        self._queues.resume(account_id)
        self._gates.resume(account_id)
        if not self.is_disabled(account_id):
            self._release(account_id)

    def _release_one(self) -> None:
        account_id = next(iter(self._released))
        del self._released[account_id]
        kept = self._kept.get(account_id)
        if kept is None:
            return  # what was left has ended
        execution = kept.first()
        self.remove(execution)
        self._place(execution)
        if account_id in self._kept:
            self._released[account_id] = None  # behind the others

    def put(self, execution: PlacedExecution) -> None:
        """Keep an execution."""
        self._kept.setdefault(execution.account_id, OldestFirst()).put(execution)
        self._kept_count += 1

    def holds(self, execution: PlacedExecution) -> bool:
        """Return whether this execution is kept here."""
        kept = self._kept.get(execution.account_id)
        return kept is not None and execution in kept

    def remove(self, execution: PlacedExecution) -> None:
        """Forget an execution that is kept here."""
        kept = self._kept[execution.account_id]
        kept.drop(execution)
        self._kept_count -= 1
        if not len(kept):
            del self._kept[execution.account_id]

    def count_of(self, account_id: str) -> int:
        """Return how many executions of an account are withheld."""
        return len(self._kept.get(account_id, ()))

    def oldest(self, account_id: str | None = None) -> PlacedExecution | None:
        """Return the oldest, of one account or of all."""
        if account_id is not None:
            kept = self._kept.get(account_id)
            return None if kept is None else kept.first()
        firsts = [kept.first() for kept in self._kept.values()]
        return min(firsts, key=lambda execution: execution.order, default=None)

    def counts(self) -> list[tuple[str, int]]:
        """Return how many executions of each account are withheld."""
        return [(account_id, len(kept)) for account_id, kept in self._kept.items()]
