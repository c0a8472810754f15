"""Waiting for the end of executions without asking again and again.

`expect` comes before the question whether the execution has ended already: so its end cannot fall
between question and wait. Waits are limited; beyond the limit, `expect` gives a wait that ends
immediately, and its client asks again as if it had not waited.
"""

from types import TracebackType
from typing import Self, final

import trio


@final
class Expectation:
    """One client that waits for one promise. A context manager, which gives the place up."""

    __slots__ = ("_endings", "_event", "_promise_id")

    def __init__(self, endings: "Endings", promise_id: str, event: trio.Event) -> None:
        """Use `Endings.expect` instead."""
        self._endings = endings
        self._promise_id = promise_id
        self._event = event

    def __enter__(self) -> Self:
        """Return the expectation; `Endings.expect` has taken its place already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait no more."""
        self._endings._forget(self._promise_id, self)

    async def wait(self, seconds: float) -> None:
        """Return when the promise has completed, the time is over, or the server stops."""
        with trio.move_on_after(seconds):
            await self._event.wait()


@final
class Endings:
    """The clients that wait for executions to end."""

    def __init__(self, *, limit_count: int) -> None:
        """Start without waiting clients."""
        self._limit_count = limit_count
        self._waiting: dict[str, dict[Expectation, trio.Event]] = {}
        self._is_closed = False
        self.waiting_count = 0

    def expect(self, promise_id: str) -> Expectation:
        """Begin to listen for a promise's end."""
        event = trio.Event()
        expectation = Expectation(self, promise_id, event)
        if self._is_closed or self.waiting_count >= self._limit_count:
            event.set()
        else:
            self._waiting.setdefault(promise_id, {})[expectation] = event
            self.waiting_count += 1
        return expectation

    def ended(self, promise_id: str) -> None:
        """Wake the tasks that wait for a promise, which has completed durably."""
        for event in self._waiting.get(promise_id, {}).values():
            event.set()

    def close(self) -> None:
        """End all waits: the server stops."""
        self._is_closed = True
        for events in self._waiting.values():
            for event in events.values():
                event.set()

    def _forget(self, promise_id: str, expectation: Expectation) -> None:
        expectations = self._waiting.get(promise_id)
        if expectations is None or expectations.pop(expectation, None) is None:
            return
        self.waiting_count -= 1
        if not expectations:
            del self._waiting[promise_id]
