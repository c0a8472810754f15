"""A stream of the live feed, and the channel of streams with the same rights on a topic.

Nothing waits for a client that reads slowly. A stream keeps the newest event of each topic, and the
ids that have changed, at most as many as it watches. `skipped` tells it how many events of each
topic it did not read in time.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, final

import orjson
import trio
from msgspec import Struct

from troth.http.api.streams import ReadyEventStream
from troth.http.wire.json_text import dump

WATCHED_LIMIT_COUNT: Final = 50
"""How many promises a stream may watch."""


class Topic(StrEnum):
    """A subject of events, at most one a second."""

    COUNTERS = "counters"
    QUEUES = "queues"
    FAILURES = "failures"
    BULK = "bulk"


@final
class FeedStream(ReadyEventStream):
    """One client's stream. `closed` is called once, when it is closed."""

    def __init__(
        self, keep_alive_ms: int, now_ms: Callable[[], int], closed: Callable[["FeedStream"], None]
    ) -> None:
        """Begin with nothing to tell."""
        super().__init__(keep_alive_ms)
        self._now_ms = now_ms
        self._closed = closed
        self._newest: dict[Topic, bytes] = {}
        self._skipped: dict[str, int] = {}
        self._changed: dict[str, None] = {}
        self._told = trio.Event()
        self.skipped_total_count = 0

    def tell(self, topic: Topic, event: bytes) -> None:
        """Keep the newest event of a topic, replacing one that was not read yet."""
        if topic in self._newest:
            self._skipped[topic.value] = self._skipped.get(topic.value, 0) + 1
            self.skipped_total_count += 1
        self._newest[topic] = event
        self._wake()

    def tell_change(self, promise_id: str) -> None:
        """Note that a watched promise has changed."""
        self._changed[promise_id] = None
        self._wake()

    def _wake(self) -> None:
        self._told.set()
        if self._ready is not None:
            self._ready()

    async def _receive(self) -> list[bytes] | None:
        while not self._told.is_set():
            await self._told.wait()
        return self._receive_now()

    def _receive_now(self) -> list[bytes] | None:
        if not self._told.is_set():
            return []
        self._told = trio.Event()
        events = list(self._newest.values())
        self._newest.clear()
        if self._skipped:
            events.insert(0, event_of("skipped", orjson.dumps(self._skipped)))
            self._skipped.clear()
        if self._changed:
            body = orjson.dumps({"ids": list(self._changed)})
            events.append(event_of("changed", dated(body, self._now_ms())))
            self._changed.clear()
        return events

    def _events(self, messages: list[bytes]) -> bytes:
        return b"".join(messages)

    def _confirm(self) -> None:
        """Do nothing: what was not read is dropped."""

    def close(self) -> None:
        """Leave the feed."""
        self._closed(self)


def event_of(name: str, body: bytes) -> bytes:
    """Return an event of a stream. The body is JSON, which has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), body)


def dated(body: bytes, at_ms: int) -> bytes:
    """Return a JSON object with the time as its first key. It has other keys already."""
    return b'{"at":%d,%b' % (at_ms, body[1:])


@final
class Channel:
    """A topic for all streams with the same rights; events are encoded once for all of them."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.streams: dict[FeedStream, None] = {}
        self._body = self._event = b""

    def join(self, stream: FeedStream) -> None:
        """Add a stream, and send it the newest event immediately."""
        self.streams[stream] = None
        if self._event:
            stream.tell(self.topic, self._event)

    def tell(self, told: Struct, at_ms: int) -> None:
        """Send an event to all streams, if anything has changed."""
        body = dump(told)
        if body == self._body:
            return
        self._body = body
        self._event = event_of(self.topic, dated(body, at_ms))
        for stream in self.streams:
            stream.tell(self.topic, self._event)


def leave_all(channels: Iterable[Channel], stream: FeedStream) -> None:
    """Remove a stream from its channels."""
    for channel in channels:
        channel.streams.pop(stream, None)
