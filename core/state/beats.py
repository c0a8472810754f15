"""Heartbeats under way: those of processes that hold too many leases for one step.

A heartbeat renews what a process holds at the time of its first step, or what it names. Until its
last slice, a lease that ends in the meantime counts as renewed for every command that looks at it;
these notes say so. They are only in memory; what is decided by them is written down like any
renewal.
"""

from typing import final

from msgspec import Struct

from troth.core.limits import lease_end, saturating_add
from troth.core.workflows import NamedBeat, WorkflowTask


class Beat(Struct, frozen=True):
    """A heartbeat at a time, for what begins with `id_prefix`."""

    at: int
    id_prefix: str


@final
class Beats:
    """The heartbeats under way, by process, in the order in which they came."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[str, list[Beat]] = {}

    def begin(self, process_id: str, beat: Beat) -> None:
        """Note a heartbeat that is not finished."""
        self._under_way.setdefault(process_id, []).append(beat)

    def end(self, process_id: str, beat: Beat) -> None:
        """Forget it, if it was not forgotten with all others."""
        beats = self._under_way.get(process_id, [])
        if beat in beats:
            beats.remove(beat)
        if not beats:
            self._under_way.pop(process_id, None)

    def clear(self) -> None:
        """Forget all: their times mean nothing since the clock was set back."""
        self._under_way.clear()

    def last(self, process_id: str | None, name: str, end: int, ttl: int) -> int | None:
        """Return when a lease was last renewed that would end at `end`, or None if it was not."""
        at = None
        if process_id is not None:
            for beat in self._under_way.get(process_id, ()):
                if end > beat.at and name.startswith(beat.id_prefix):
                    at = beat.at
                    end = max(end, saturating_add(at, ttl))
        return at


@final
class NamedBeats:
    """The heartbeats under way that name workflow tasks, by process, in their order."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[str, list[NamedBeat]] = {}

    def begin(self, process_id: str, beat: NamedBeat) -> None:
        """Note a heartbeat that is not finished."""
        self._under_way.setdefault(process_id, []).append(beat)

    def end(self, process_id: str, beat: NamedBeat) -> None:
        """Forget it, if it was not forgotten with all others."""
        beats = [one for one in self._under_way.get(process_id, ()) if one is not beat]
        if beats:
            self._under_way[process_id] = beats
        else:
            self._under_way.pop(process_id, None)

    def clear(self) -> None:
        """Forget all: their times mean nothing since the clock was set back."""
        self._under_way.clear()

    def last(self, task: WorkflowTask, end: int) -> int | None:
        """Return when a lease was last renewed that would end at `end`, or None if it was not."""
        at = None
        for beat in self._under_way.get(task.pid or "", ()):
            if end > beat.at and beat.versions.get(task.id) == task.version:
                at = beat.at
                end = max(end, lease_end(at, task.ttl))
        return at
