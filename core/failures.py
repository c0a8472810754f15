"""What went wrong since the start, for operators: the last failures of each kind, in memory.

Each kind has its own ring, so that a flood of one hides none of another. What is noted here was
decided by live commands, never by reading the log back. Nothing depends on it.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection
from enum import StrEnum
from itertools import islice, takewhile
from typing import Final, NamedTuple, final

from .catalog import EXECUTION_PREFIX
from .executions import ERROR_KEY
from .model import Promise, PromiseState, Task, TaskState, Value

FAILURES_LIMIT_COUNT: Final = 1_000
"""How many failures of a kind are kept."""

REASON_LIMIT_CHARACTERS: Final = 200

_GROUP_BITS: Final = 10
"""The numbers of several groups are milliseconds and a group: below 2**53, which JavaScript knows
exactly, until 2248."""

PARAM_LIMIT_CHARACTERS: Final = 4 << 10
"""How much of a param is kept, in base64: 4 MiB for as many promises as are kept."""

_FAILED_STATES: Final = frozenset({PromiseState.REJECTED, PromiseState.REJECTED_TIMEDOUT})


class FailureKind(StrEnum):
    """What failed."""

    PROMISE = "promise"
    LEASE = "lease"
    SENDING = "sending"
    FUNCTION = "function"
    BUILD = "build"
    LOGIN = "login"


class Failure(NamedTuple):
    """One failure. `number` counts them; `subject` is an id, or who tried to log in.

    `about` is the receiver, process or account concerned; it may be empty. Of a promise `param` is
    kept, in base64, from which readers learn its function; empty if it is long.
    """

    number: int
    at: int
    kind: FailureKind
    subject: str
    reason: str
    about: str
    param: str = ""


@final
class Failures:
    """The last failures of each kind, and how many there were since the start (`totals`).

    Those of one `group` of several have numbers that are in the order of time over all groups.
    """

    def __init__(self, limit_count: int = FAILURES_LIMIT_COUNT, group: int | None = None) -> None:
        self.totals: Counter[FailureKind] = Counter()
        self._kept = {kind: deque[Failure](maxlen=limit_count) for kind in FailureKind}
        self._group = group
        self._number = 0

    @property
    def last_number(self) -> int:
        """The number of the newest failure; 0 if there was none."""
        return self._number

    def note(
        self,
        kind: FailureKind,
        at: int,
        subject: str,
        reason: str,
        about: str = "",
        param: str = "",
    ) -> None:
        """Note a failure."""
        self._number = self._next_number(at)
        self.totals[kind] += 1
        reason = reason[:REASON_LIMIT_CHARACTERS]
        self._kept[kind].append(Failure(self._number, at, kind, subject, reason, about, param))

    def _next_number(self, at: int) -> int:
        if self._group is None:
            return self._number + 1
        last_ms = self._number >> _GROUP_BITS
        return max(at, last_ms + 1) << _GROUP_BITS | self._group

    def note_completion(self, promise: Promise, state: PromiseState, value: Value, at: int) -> None:
        """Note a promise that is rejected or times out; other states are no failures."""
        if state not in _FAILED_STATES:
            return
        if promise.id.startswith(EXECUTION_PREFIX):
            reason = (value.headers or {}).get(ERROR_KEY, state.value)
            subject = promise.id.removeprefix(EXECUTION_PREFIX)
            self.note(FailureKind.FUNCTION, at, subject, reason)
        else:
            data = promise.param.data or ""
            param = data if len(data) <= PARAM_LIMIT_CHARACTERS else ""
            self.note(FailureKind.PROMISE, at, promise.id, state.value, param=param)

    def note_lease(self, task: Task, at: int) -> None:
        """Note a task that goes out again, since its lease or the time to claim it ran out."""
        is_held = task.state is TaskState.CLAIMED
        reason = "the lease ran out" if is_held else "was not claimed in time"
        about = task.process_id if is_held and task.process_id is not None else ""
        self.note(FailureKind.LEASE, at, task.id, reason, about)

    def last_of(self, kind: FailureKind) -> Failure | None:
        """Return the newest failure of a kind; None if none is kept."""
        kept = self._kept[kind]
        return kept[-1] if kept else None

    def later_than(self, number: int) -> list[Failure]:
        """Return all that are kept of those after a number, the oldest first."""
        later = [
            one
            for kept in self._kept.values()
            for one in takewhile(lambda one: one.number > number, reversed(kept))
        ]
        return sorted(later, key=lambda one: one.number)

    def newest(
        self,
        kinds: Collection[FailureKind],
        limit_count: int,
        before: int | None = None,
        admits: Callable[[Failure], bool] = lambda _: True,
    ) -> tuple[list[Failure], bool]:
        """Return the newest of some kinds, newest first, and whether there are more.

        `before` is a number: only earlier ones are wanted.
        """
        found: list[Failure] = []
        for kind in FailureKind:
            if kind in kinds:
                wanted = (
                    one
                    for one in reversed(self._kept[kind])
                    if (before is None or one.number < before) and admits(one)
                )
                found.extend(islice(wanted, limit_count + 1))
        found.sort(key=lambda one: -one.number)
        return found[:limit_count], len(found) > limit_count
