"""What the workers' streams speak, told to all processes: any of them may be asked by a worker,
and any of them may have its streams.

A process tells it before it answers the request that it has seen it by. A note that is lost comes
again when the link has come up, with all others that this process remembers.
"""

from collections.abc import Callable
from typing import Final, final

from msgspec import Struct

from troth.shards.delivery.dialects import Dialect
from troth.shards.delivery.polls import Polls

from .calls import ProcessCalls, ProcessNote

SLICE_COUNT: Final = 500
"""So many are told in one note."""


class _Decision(Struct, frozen=True, array_like=True, gc=False):
    """What the streams of an id speak, in one group or in all."""

    group: str | None
    connection_id: str
    dialect: Dialect


_DECIDED: Final = ProcessNote("dialects", tuple[_Decision, ...])


@final
class DialectNotes:
    """Keeps `polls` informed of what other processes have seen, and them of what it has.

    `hurry` sends what links have to say without waiting for the end of a pass.
    """

    def __init__(self, calls: ProcessCalls, polls: Polls, hurry: Callable[[], None]) -> None:
        self._calls = calls
        self._polls = polls
        self._hurry = hurry
        polls.when_decided = self._tell
        calls.hear(_DECIDED, self._hear)
        calls.when_linked.append(self._tell_all)

    def _tell(self, connection_id: str, dialect: Dialect, group: str | None) -> None:
        self._calls.note_all(_DECIDED, (_Decision(group, connection_id, dialect),))
        self._hurry()

    def _tell_all(self, process: int) -> None:
        known = [_Decision(*key, one) for key, one in self._polls.decided.items()]
        for start in range(0, len(known), SLICE_COUNT):
            self._calls.note(process, _DECIDED, tuple(known[start : start + SLICE_COUNT]))

    def _hear(self, process: int, decisions: tuple[_Decision, ...]) -> None:  # noqa: ARG002
        for one in decisions:
            self._polls.learn(one.connection_id, one.dialect, one.group)
