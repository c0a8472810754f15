"""The messages of a shard that other shards have not yet acknowledged."""

from collections.abc import Iterator
from itertools import takewhile
from typing import final

from troth.core import records as r

Posted = tuple[int, int, r.ShardMessage]
"""A target shard, the message's number there, and the message."""


@final
class Outbox:
    """One shard's messages to others, by target; those to one shard have increasing numbers."""

    __slots__ = ("_resumed", "_waiting", "sequences")

    def __init__(self) -> None:
        self.sequences: dict[int, int] = {}
        """The last number that was used, by target."""
        self._waiting: dict[int, dict[int, r.ShardMessage]] = {}
        self._resumed: dict[str, int] = {}

    def __iter__(self) -> Iterator[Posted]:
        """Yield all messages; those to one shard in the order of their numbers."""
        for target, messages in self._waiting.items():
            for sequence, message in messages.items():
                yield target, sequence, message

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._waiting.values()))

    def find(self, target: int, sequence: int) -> r.ShardMessage | None:
        """Return a message that is not yet acknowledged."""
        return self._waiting.get(target, {}).get(sequence)

    def first(self, target: int) -> int | None:
        """Return the number of the oldest message to a shard."""
        return next(iter(self._waiting.get(target, ())), None)

    def resumes_for(self, promise_id: str) -> bool:
        """Return whether a message tells a root that a promise has completed."""
        return promise_id in self._resumed

    def post(self, target: int, message: r.ShardMessage) -> int:
        """Add a message; return its number."""
        sequence = self.sequences.get(target, 0) + 1
        self.sequences[target] = sequence
        self.put_back(target, sequence, message)
        return sequence

    def put_back(self, target: int, sequence: int, message: r.ShardMessage) -> None:
        """Add a message that has its number, later than all others to that shard."""
        self._waiting.setdefault(target, {})[sequence] = message
        if isinstance(message, r.ResumeMessage):
            promise_id = message.callback.promise_id
            self._resumed[promise_id] = self._resumed.get(promise_id, 0) + 1

    def acknowledge(self, target: int, until: int) -> list[int]:
        """Forget the messages to a shard up to a number; return which they were."""
        waiting = self._waiting.get(target, {})
        gone = list(takewhile(lambda sequence: sequence <= until, waiting))
        for sequence in gone:
            message = waiting.pop(sequence)
            if isinstance(message, r.ResumeMessage):
                self._forget_resumed(message.callback.promise_id)
        if not waiting:
            self._waiting.pop(target, None)
        return gone

    def _forget_resumed(self, promise_id: str) -> None:
        count = self._resumed.pop(promise_id) - 1
        if count:
            self._resumed[promise_id] = count
