"""When messages between shards were sent: what they lead to has no time below that."""

from collections.abc import Mapping
from typing import final

from troth.core import records as r
from troth.persistence.inspection.log_records import record_time_ms


@final
class SentTimes:
    """The times of messages that no shard has applied yet, as durable records say them."""

    def __init__(self) -> None:
        self._reached_ms: dict[int, int] = {}
        """The time of each shard's last record that says one."""
        self._sent_ms: dict[tuple[int, int, int], int] = {}

    def note(
        self, shard: int, record: r.Record, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """Note a record, and what a shard had sent to each of the others before and after it."""
        time_ms = record_time_ms(record) or self._reached_ms.get(shard, 0)
        self._reached_ms[shard] = time_ms
        for target, last in after.items():
            for sequence in range(before.get(target, 0) + 1, last + 1):
                self._sent_ms[shard, target, sequence] = time_ms

    def take(self, source: int, target: int, sequence: int) -> int:
        """Return when a message was sent that is applied now, in ms."""
        return self._sent_ms.pop((source, target, sequence))
