"""Executions that may not start, because their account is disabled.

They stay queued: what ends a queued execution ends them too. When the account is enabled they are
placed as if they had come then, the oldest first. Executions that run already are not affected.
"""

from collections.abc import Collection, Iterable
from typing import final

from .executions import PlacedExecution


@final
class Withheld:
    """The accounts whose executions do not start, and these executions' tasks."""

    def __init__(self) -> None:
        """Begin with none."""
        self._accounts: Collection[str] | None = ()
        self._executions: dict[str, dict[str, PlacedExecution]] = {}

    def __len__(self) -> int:
        """Return how many executions are withheld."""
        return sum(map(len, self._executions.values()))

    def reaches(self, account_id: str) -> bool:
        """Return whether an account's executions are withheld."""
        return self._accounts is None or account_id in self._accounts

    def change(self, accounts: Collection[str] | None) -> list[PlacedExecution]:
        """Withhold those of these accounts, or of all (None); return which others may start."""
        self._accounts = accounts
        freed = [account_id for account_id in self._executions if not self.reaches(account_id)]
        executions = [
            execution
            for account_id in freed
            for execution in self._executions.pop(account_id).values()
        ]
        return sorted(executions, key=lambda execution: execution.order)

    def put(self, execution: PlacedExecution) -> None:
        """Keep a task."""
        self._executions.setdefault(execution.account_id, {})[execution.promise_id] = execution

    def holds(self, execution: PlacedExecution) -> bool:
        """Return whether this execution is withheld."""
        return self._executions.get(execution.account_id, {}).get(execution.promise_id) is execution

    def remove(self, execution: PlacedExecution) -> None:
        """Forget an execution that is withheld."""
        executions = self._executions[execution.account_id]
        del executions[execution.promise_id]
        if not executions:
            del self._executions[execution.account_id]

    def count_of(self, account_id: str) -> int:
        """Return how many executions of an account are withheld."""
        return len(self._executions.get(account_id, ()))

    def oldest(self, account_id: str | None = None) -> PlacedExecution | None:
        """Return the oldest, of one account or of all; looks at each."""
        accounts: Iterable[str] = self._executions if account_id is None else (account_id,)
        executions = (
            execution for one in accounts for execution in self._executions.get(one, {}).values()
        )
        return min(executions, key=lambda execution: execution.order, default=None)

    def counts(self) -> list[tuple[str, int]]:
        """Return how many executions of each account are withheld."""
        return [
            (account_id, len(executions)) for account_id, executions in self._executions.items()
        ]
