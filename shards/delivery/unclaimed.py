"""Messages that have reached a worker, which has not claimed their tasks yet.

A worker that dies has lost what it was sent, and the server learns of it when the connection ends:
the tasks then go to another worker, without waiting for the claim time to run out. If the server
itself ended the stream, in passing, the worker still has the messages. They count as lost only if
it does not connect again within `RETURN_MS`.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final, final

from troth.core.commands import Command
from troth.core.workflow_commands import RetryExecute
from troth.shards.alarms import Alarm, Alarms

from .shipments import Shipment

RETURN_MS: Final = 5_000
SLICE_COUNT: Final = 100  # messages that are asked for again before other work gets its turn

Holder = tuple[str, str]
"""A connection: its group and id."""
_Tasks = dict[str, tuple[str, int]]
"""What one connection has, or had: subjects and versions, by key."""


@final
class Unclaimed:
    """The unclaimed tasks of each connection; `report` asks for the message of one again."""

    def __init__(self, alarms: Alarms, report: Callable[[Command], None]) -> None:
        self._alarms = alarms
        self._report = report
        self._by_holder: dict[Holder, _Tasks] = {}
        self._tasks_with: dict[str, _Tasks] = {}
        self._away: dict[Holder, Alarm] = {}

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return len(self._tasks_with)

    def add(self, shipment: Shipment, holder: Holder) -> None:
        """Note a message that was written to a connection."""
        self.forget(shipment.id)
        tasks = self._by_holder.setdefault(holder, {})
        tasks[shipment.id] = shipment.subject, shipment.counter
        self._tasks_with[shipment.id] = tasks

    def forget(self, key: str) -> None:
        """Drop a task: it was claimed, or has ended, or its message goes out again."""
        tasks = self._tasks_with.pop(key, None)
        if tasks is not None:
            del tasks[key]

    def came(self, group: str, connection_id: str) -> None:
        """Note that a connection is there again."""
        if not self._away:
            return
        alarm = self._away.pop((group, connection_id), None)
        if alarm is not None:
            alarm.cancel()

    def ended(self, holder: Holder, *, is_coming_back: bool) -> None:
        """Ask for the messages of a connection that has ended, immediately or if it stays away."""
        if not self._by_holder.get(holder):
            self._by_holder.pop(holder, None)
            return
        if not is_coming_back:
            self._lose(holder)
        elif holder not in self._away:
            self._away[holder] = self._alarms.call_after(RETURN_MS, lambda: self._lose(holder))

    def _lose(self, holder: Holder) -> None:
        self._away.pop(holder, None)
        self._ask_for_some(self._by_holder.pop(holder, {}))

    def _ask_for_some(self, lost: _Tasks) -> None:
        """Ask for a slice; what is withdrawn before its turn comes is not asked for."""
        for key, (subject, version) in list(islice(lost.items(), SLICE_COUNT)):
            del lost[key]
            del self._tasks_with[key]
            self._report(RetryExecute(subject, version))
        if lost:
            self._alarms.call_after(0, lambda: self._ask_for_some(lost))
