"""Looking at a bucket again and again: each look asks only for what was written since the last one.

NATS gives each value that is written a higher sequence, so one question for the first one after
those that are known says that nothing is new, which is mostly so. Keys that were removed, and a
bucket that was set back, are noticed when all is read again.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, final

from .jetstream_connection import JetStreamConnection
from .jetstream_notes import Note, Notes, read_listed, written_ms

WHOLE_INTERVAL_MS: Final = 10_000
"""How often all of a bucket is read."""


class WatchedNote(NamedTuple):
    """A value, and when it was written on the clock of the watch."""

    note: Note
    written_at_ms: int


@final
class NotesWatch:
    """All values of a bucket as of the last look. `clock_ms` never steps.

    Ages are counted from when a value was first seen: what another server's clock says does not
    matter then.
    """

    def __init__(
        self,
        connection: JetStreamConnection,
        notes: Notes,
        clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._connection = connection
        self._notes = notes
        self._clock_ms = clock_ms
        self._known: dict[str, WatchedNote] = {}
        self._revision = 0
        self._whole_due_ms = 0
        self._ahead_ms = 0
        """How far the time of day of NATS is ahead of `clock_ms`."""

    def now_ms(self) -> int:
        """Return about the time of day of the server that leads the bucket, in ms since 1970."""
        return self._clock_ms() + self._ahead_ms

    def age_ms(self, one: WatchedNote) -> int:
        """Return how long ago a value was written."""
        return max(self._clock_ms() - one.written_at_ms, 0)

    def look(self) -> Mapping[str, WatchedNote]:
        """Return all values by key. Raises StreamUnreachable or JetStreamRefusal."""
        if self._clock_ms() >= self._whole_due_ms:
            self._read_whole()
        else:
            while (following := self._notes.next_after(self._revision)) is not None:
                key, note = following
                self._known[key] = WatchedNote(note, self._clock_ms())
                self._revision = note.revision
        return self._known

    def _read_whole(self) -> None:
        listed = self._connection.api(*self._notes.listing(""))
        now_ms, at_ms = written_ms(listed["ts"]), self._clock_ms()
        (found,) = read_listed(self._connection, [self._notes], [listed])
        self._known = {
            key: self._seen(key, note, at_ms - max(now_ms - note.written_ms, 0))
            for key, note in found.items()
        }
        self._revision = int(listed["state"]["last_seq"])
        self._ahead_ms = now_ms - at_ms
        self._whole_due_ms = at_ms + WHOLE_INTERVAL_MS

    def _seen(self, key: str, note: Note, written_at_ms: int) -> WatchedNote:
        """Return a value, with the time that was noted when it was first seen."""
        known = self._known.get(key)
        if known is not None and known.note.revision == note.revision:
            return known
        return WatchedNote(note, written_at_ms)
