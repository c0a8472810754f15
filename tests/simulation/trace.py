"""What happened in a run, line by line: the tail is for people, the hash for comparing runs."""

import hashlib
from collections import deque

import trio

TAIL_COUNT = 60


class Trace:
    """Lines with the simulated time in front. Two runs of one seed give the same hash."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._tail: deque[str] = deque(maxlen=TAIL_COUNT)
        self.lines_count = 0

    def note(self, who: str, what: str) -> None:
        """Add a line."""
        line = f"{trio.current_time():10.4f} {who:12} {what}"
        self._hash.update(line.encode() + b"\n")
        self._tail.append(line)
        self.lines_count += 1

    @property
    def hash(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()

    def tail(self) -> str:
        """The last lines, for the message of a failure."""
        return "\n".join(self._tail)
