"""What a node that stands by does besides reading: it says so, and knows when to catch up."""

from collections.abc import Callable
from typing import final

import structlog

from troth.core.limits import (
    STREAM_READ_CHECKPOINT_BYTES,
    STREAM_SEEN_MS,
    STREAM_SKEW_LIMIT_MS,
    STREAM_UPKEEP_MS,
)
from troth.persistence.streams.stream_log import StreamLog

log = structlog.get_logger("troth.shards.streams")


@final
class Following:
    """What a node does besides reading: it tells of its standing, and says when to catch up."""

    def __init__(self, stream_log: StreamLog, boot_ms: Callable[[], int]) -> None:
        self._log = stream_log
        self._boot_ms = boot_ms
        self._has_told = False
        self._has_warned = False
        self._due_ms = self._boot_ms() + STREAM_UPKEEP_MS
        self._due_bytes = STREAM_READ_CHECKPOINT_BYTES
        self._seen_ms = 0

    def tell(self) -> None:
        """Log what an operator should know, once."""
        owner, skew_ms = self._log.waits_for, self._log.skew_ms
        if owner is not None and not self._has_told:
            self._has_told = True
            log.info("standing by until the owner of the log is gone", owner=owner)
        if abs(skew_ms) > STREAM_SKEW_LIMIT_MS and not self._has_warned:
            self._has_warned = True
            log.warning(
                "the clocks of this server and of the owner of the log differ; after a takeover "
                "timers are late or early by that much",
                skew_ms=skew_ms,
                owner=owner,
            )

    def is_to_be_seen(self) -> bool:
        """Return whether it is time to say that this node is there, and has read all there is."""
        if not self._log.is_following or self._log.waits_for is None:
            return False
        now_ms = self._boot_ms()
        if now_ms < self._seen_ms + STREAM_SEEN_MS:
            return False
        self._seen_ms = now_ms
        return True

    def is_due(self) -> bool:
        """Return whether it is time to catch up; not while this node is about to take over."""
        if not self._log.is_following:
            return False
        now_ms = self._boot_ms()
        if now_ms < self._due_ms and self._log.read_bytes < self._due_bytes:
            return False
        self._due_ms = now_ms + STREAM_UPKEEP_MS
        self._due_bytes = self._log.read_bytes + STREAM_READ_CHECKPOINT_BYTES
        return True
