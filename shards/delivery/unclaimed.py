"""Messages that have reached a worker, which has not claimed their tasks yet.

A worker that dies has lost what it was sent, and the server learns of it when the connection ends:
the tasks then go to another worker, without waiting for the claim time to run out. If the server
itself ended the stream, in passing, the worker still has the messages. They count as lost only if
it does not connect again within `RETURN_MS`.
"""

from collections.abc import Callable
from typing import Final, final

from troth.core.commands import Command
from troth.core.workflow_commands import RetryExecute
from troth.shards.alarms import Alarm, Alarms

from .shipments import Shipment

RETURN_MS: Final = 5_000

Holder = tuple[str, str]
"""A connection: its group and id."""


@final
class Unclaimed:
    """The unclaimed tasks of each connection; `report` asks for the message of one again."""

    def __init__(self, alarms: Alarms, report: Callable[[Command], None]) -> None:
        self._alarms = alarms
        self._report = report
        self._by_holder: dict[Holder, dict[str, tuple[str, int]]] = {}
        self._holders: dict[str, Holder] = {}
        self._away: dict[Holder, Alarm] = {}

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return len(self._holders)

    def add(self, shipment: Shipment, holder: Holder) -> None:
        """Note a message that was written to a connection."""
        self.forget(shipment.id)
        tasks = self._by_holder.setdefault(holder, {})
        tasks[shipment.id] = shipment.subject, shipment.counter
        self._holders[shipment.id] = holder

    def forget(self, key: str) -> None:
        """Drop a task: it was claimed, or has ended, or its message goes out again."""
        holder = self._holders.pop(key, None)
        if holder is None:
            return
        tasks = self._by_holder[holder]
        del tasks[key]
        if not tasks:
            del self._by_holder[holder]

    def came(self, group: str, connection_id: str) -> None:
        """Note that a connection is there, again or still."""
        if not self._away:
            return
        alarm = self._away.pop((group, connection_id), None)
        if alarm is not None:
            alarm.cancel()

    def ended(self, holder: Holder, *, is_coming_back: bool) -> None:
        """Ask for the messages of a connection that has ended, immediately or if it stays away."""
        if holder not in self._by_holder:
            return
        if not is_coming_back:
            self._lose(holder)
        elif holder not in self._away:
            self._away[holder] = self._alarms.call_after(RETURN_MS, lambda: self._lose(holder))

    def _lose(self, holder: Holder) -> None:
        self._away.pop(holder, None)
        for key, (subject, version) in self._by_holder.pop(holder, {}).items():
            del self._holders[key]
            self._report(RetryExecute(subject, version))
