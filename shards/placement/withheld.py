"""Function tasks that may not start, because their account is disabled.

They stay queued: what ends a queued task ends them too, and when the account is enabled they are
placed as if they had come then, the oldest first. What runs already is nothing to withhold.
"""

from collections.abc import Collection, Iterable
from typing import final

from .work import Work


@final
class Withheld:
    """Which accounts' tasks do not start, and those tasks."""

    def __init__(self) -> None:
        """Begin with none."""
        self._accounts: Collection[str] | None = ()
        self._works: dict[str, dict[str, Work]] = {}

    def __len__(self) -> int:
        """How many tasks are withheld."""
        return sum(map(len, self._works.values()))

    def reaches(self, account_id: str) -> bool:
        """Whether an account's tasks are withheld."""
        return self._accounts is None or account_id in self._accounts

    def change(self, accounts: Collection[str] | None) -> list[Work]:
        """Withhold the tasks of these accounts, or of all (None); which others may start now."""
        self._accounts = accounts
        freed = [account_id for account_id in self._works if not self.reaches(account_id)]
        works = [work for account_id in freed for work in self._works.pop(account_id).values()]
        return sorted(works, key=lambda work: work.order)

    def put(self, work: Work) -> None:
        """Keep a task."""
        self._works.setdefault(work.account_id, {})[work.promise_id] = work

    def holds(self, work: Work) -> bool:
        """Whether this task is withheld."""
        return self._works.get(work.account_id, {}).get(work.promise_id) is work

    def remove(self, work: Work) -> None:
        """Forget a task that is withheld."""
        works = self._works[work.account_id]
        del works[work.promise_id]
        if not works:
            del self._works[work.account_id]

    def count_of(self, account_id: str) -> int:
        """How many tasks of an account are withheld."""
        return len(self._works.get(account_id, ()))

    def oldest(self, account_id: str | None = None) -> Work | None:
        """The oldest, of one account or of all; looks at each."""
        accounts: Iterable[str] = self._works if account_id is None else (account_id,)
        works = (work for one in accounts for work in self._works.get(one, {}).values())
        return min(works, key=lambda work: work.order, default=None)

    def counts(self) -> list[tuple[str, int]]:
        """How many tasks of each account are withheld."""
        return [(account_id, len(works)) for account_id, works in self._works.items()]
