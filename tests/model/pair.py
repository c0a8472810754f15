"""Server and reference side by side: do one thing with both, compare, remember it.

What was done is data, so that a history that ended in a difference can be played again, and made
shorter as long as it still does (`shrunk`).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from .objects import Json
from .operators import About
from .questions import WholeReference
from .wire import CLAIM_TIMEOUT_MS, START_MS, URL, WATCHED, Wire, running

Action = tuple[Any, ...]
"""("time", until), ("ask", name, arguments), or a report on a message: (verb, task id, counter)."""


Start = Callable[[int], AbstractAsyncContextManager[Wire]]
"""Starts a server with a number of shards."""


class DifferenceError(AssertionError):
    """Server and reference do not agree."""


class Pair:
    """The two, and what was done with them."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.reference = WholeReference(START_MS, URL, CLAIM_TIMEOUT_MS, shard_of=wire.shard_of)
        self.actions: list[Action] = []

    async def do(self, action: Action) -> tuple[str, int] | None:
        """Do it; of a request, the state that it met and the code. Raises DifferenceError."""
        self.actions.append(action)
        before = [self.reference.about(one) for one in WATCHED]
        outcome = None
        match action:
            case ("time", until):
                await self._pass_time(until)
            case ("ask", name, arguments):
                expected = self.reference.ask(name, arguments)
                answer = await self.wire.ask(name, arguments)
                found, wanted = (
                    plain(one, is_ordered=self.wire.is_ordered)
                    for one in (answer.body, expected.body)
                )
                if (answer.code, found) != (expected.code, wanted):
                    raise DifferenceError(f"{name}: {answer} instead of {expected}")
                outcome = expected.met, expected.code
            case (verb, task_id, counter):
                if task_id in self.reference.tasks:
                    getattr(self.reference, verb)(task_id, counter)
                    await getattr(self.wire, verb)(task_id, counter)
        sent, due = self.wire.under_way(), self.reference.under_way()
        if sent != due:
            raise DifferenceError(f"messages under way: {sent} instead of {due}")
        if self.wire.has_feed:
            await self._compare_events(before)
        return outcome

    async def _compare_events(self, before: list[About]) -> None:
        """What the live feed tells of the watched promises is what has changed."""
        told = await self.wire.changed()
        after = [self.reference.about(one) for one in WATCHED]
        for identifier, earlier, later in zip(WATCHED, before, after, strict=True):
            if earlier.itself != later.itself and identifier not in told:
                raise DifferenceError(f"{identifier} has changed, and the feed says nothing")
            if earlier == later and identifier in told:
                raise DifferenceError(f"the feed says that {identifier} has changed")

    async def _pass_time(self, until: int) -> None:
        """Deadline by deadline: the reference does not say what comes of several at once."""
        while (following := self.reference.next_deadline()) is not None and following < until:
            self.reference.pass_time(following)
            await self.wire.pass_time(following)
        self.reference.pass_time(until)
        await self.wire.pass_time(until)


async def difference(
    actions: Sequence[Action], shard_count: int, begin: Start = running
) -> str | None:
    """What a new server and a new reference disagree about after these actions; None if nothing."""
    async with begin(shard_count) as wire:
        pair = Pair(wire)
        for action in actions:
            try:
                await pair.do(action)
            except DifferenceError as error:
                return str(error)
    return None


async def shrunk(
    actions: Sequence[Action], shard_count: int, begin: Start = running
) -> list[Action]:
    """Fewer of the actions that end in a difference too: none of them can be left out."""
    kept = list(actions)
    length = len(kept)
    while length:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + length :]
            if await difference(fewer, shard_count, begin) is not None:
                kept = fewer
            else:
                start += length
        length //= 2
    return kept


def plain(body: Json | None, *, is_ordered: bool = True) -> Json | None:
    """An answer without the order of promises that schedules made in the same millisecond.

    Over groups, all that was made in one has no order that is promised.
    """
    if not is_ordered and body is not None and body.keys() <= {"promises", "schedules"}:
        return {
            kind: sorted(rows, key=lambda one: (-one["createdOn"], one["id"]))
            for kind, rows in body.items()
        }
    if body is None or "promises" not in body or not isinstance(body["promises"], list):
        return body

    def moment(promise: Json) -> tuple[int, str]:
        is_run = "resonate:schedule" in promise.get("tags", {})
        return -promise["createdOn"], promise["id"] if is_run else ""

    ordered: list[Json] = []
    for promise in body["promises"]:
        place = len(ordered)
        while place and moment(promise)[1] and moment(ordered[place - 1])[1]:
            if moment(ordered[place - 1]) <= moment(promise):
                break
            place -= 1
        ordered.insert(place, promise)
    return {"promises": ordered}
