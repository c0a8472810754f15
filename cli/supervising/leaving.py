"""A process whose group goes to another node: it ends, and is started again to stand by.

It finishes what clients have in flight while its group still answers, then it releases the group,
which the other node waits for.
"""

from typing import final

from .children import Child
from .lives import Life


@final
class Leaving:
    """The way of one process to its end. `ends_s` is when clients are waited for no longer."""

    def __init__(self, child: Child, life: Life, ends_s: float) -> None:
        self.child = child
        self._life = life
        self._ends_s = ends_s
        self._is_told = False
        child.tell({"tell": "drain"})

    def go_on(self, now_s: float) -> None:
        """Do what can be done now."""
        if not self._is_told and (self.child.has_drained or now_s >= self._ends_s):
            self._is_told = True
            self._life.told_to_stop()
            self.child.tell({"tell": "stop", "is_left": True})
