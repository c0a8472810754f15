"""What an engine keeps of a cluster, for those who look at it through a server.

The engine is asked at most every few seconds, however many look, and only while they do.
"""

import time
from collections.abc import Callable
from typing import Final, final

import trio

from troth.persistence.streams.cluster import ClusterBook, WholeCluster, whole_cluster
from troth.shards.threads import in_thread

FRESH_S: Final = 5.0
"""How long what was found is shown again."""


@final
class ClusterView:
    """What is kept of a cluster, a few seconds old at most; `now_s` measures these."""

    def __init__(self, book: ClusterBook, now_s: Callable[[], float] = time.monotonic) -> None:
        self._book = book
        self._now_s = now_s
        self._asking = trio.Lock()
        self._found: WholeCluster | None = None
        self._found_at_s = 0.0

    async def __call__(self) -> WholeCluster:
        """Return what is kept now. Raises StreamUnreachable or StreamRefused."""
        async with self._asking:
            now_s = self._now_s()
            if self._found is None or now_s >= self._found_at_s + FRESH_S:
                self._found = await in_thread(self._ask)
                self._found_at_s = now_s
            return self._found

    def _ask(self) -> WholeCluster:
        try:
            return whole_cluster(self._book)
        finally:
            self._book.close()  # no connection is kept for those who may not look again
