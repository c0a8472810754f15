"""Streams in NATS JetStream: a frame is one message. Imported only when it is used.

The sequence of a message is the frame's number, and each is sent with the condition that the last
one is the number before (`Nats-Expected-Last-Sequence`). JetStream never gives a sequence twice,
also when what has it is trimmed, so that is the fence against an old owner as well.

JetStream refuses a frame because that very frame is on its way: a refusal says nothing. What is
shown may be old, if it is a leader that was cut off which shows it.
"""

import time
from base64 import b64decode
from typing import Any, Final, final

from troth.core.limits import (
    JETSTREAM_ANSWER_LIMIT_MS,
    JETSTREAM_BEHIND_MS,
    JETSTREAM_DOUBT_MS,
    STREAM_READ_LIMIT_BYTES,
)

from .jetstream_connection import (
    WRONG_LAST_SEQUENCE,
    JetStreamConnection,
    JetStreamRefusal,
)
from .jetstream_layout import EPOCH_HEADER, JetStreamLayout
from .jetstream_notes import last_message
from .jetstream_url import read_jetstream_url
from .stream import StreamUnreachable

_WINDOW_COUNT: Final = 3
"""How many frames are asked for one by one, before a consumer is made, which takes longer."""

_MISSES_COUNT: Final = 8
"""How often in a row a consumer may show nothing before it is given up: few frames come then."""

_LEADER_INTERVAL_S: Final = 30.0
"""How often who appends looks which server leads the stream."""

_READ_LIMIT_COUNT: Final = 1024
_CONSUMER_REST_NS: Final = 30_000_000_000  # without a question in that time, it is removed


@final
class JetStreamStream:
    """One group's stream in NATS. `url` is as in `jetstream_url.py`; raises StreamRefused.

    `replicas_count` is for a new stream; None means that of the one that is there, or the default.
    Without `may_make`, all of it was made before, with its cluster.
    """

    behind_ms = JETSTREAM_BEHIND_MS

    def __init__(
        self,
        url: str,
        group: int = 0,
        *,
        replicas_count: int | None = None,
        may_make: bool = True,
        answer_limit_ms: int = JETSTREAM_ANSWER_LIMIT_MS,
    ) -> None:
        read = read_jetstream_url(url)
        self.name = read.shown + (f" (group {group})" if group else "")
        self._connection = JetStreamConnection(read, answer_limit_ms)
        self._layout = JetStreamLayout(read.name, group)
        self._replicas_count = replicas_count
        self._may_make = may_make
        self._consumer: str | None = None
        self._consumer_number = 0
        """The number of the next frame that the consumer shows."""
        self._misses_count = 0
        self._leader_due_s = 0.0
        self._refused_number = 0
        """The number of the frame that was refused last; 0 if none was since one was stored."""
        self._refused_s = 0.0
        """Since when it has been refused by this server."""

    def found(self, identity: bytes) -> bytes:
        """Make the streams unless they are there; see `Stream.found`."""
        self._connection.meet_servers()
        return self._layout.found(
            self._connection, identity, self._replicas_count, may_make=self._may_make
        )

    def servers(self) -> tuple[str, ...]:
        """Return the names of the servers that have a copy; none if it is a single server."""
        cluster = self._info().get("cluster") or {}
        replicas = [str(one["name"]) for one in cluster.get("replicas") or ()]
        return (*([cluster["leader"]] if cluster.get("leader") else ()), *replicas)

    def append(self, number: int, epoch: int, frame: bytes, *, is_claim: bool) -> bool:
        """Publish a frame; see `Stream.append`. A claim is fenced by its number, as all are."""
        if not is_claim:  # which has to be quick
            self._go_to_leader()
        headers = {"Nats-Expected-Last-Sequence": str(number - 1), EPOCH_HEADER: str(epoch)}
        try:
            stored = self._connection.publish(self._layout.frames_subject, frame, headers)
        except JetStreamRefusal as error:
            if error.number == WRONG_LAST_SEQUENCE:
                self._note_refused(number)
                return False
            raise StreamUnreachable(str(error)) from error
        except StreamUnreachable:
            self._refused_number = 0  # another server is asked next
            raise
        self._refused_number = 0
        return stored == number

    def _note_refused(self, number: int) -> None:
        """Leave the server if it refuses a frame for long. Raises StreamUnreachable then.

        Who sends a frame again has looked, and was shown nothing in its place. A leader that was
        cut off from the other servers refuses for ten seconds what follows one that it could not
        replicate, and shows neither.
        """
        now_s = time.monotonic()
        if number != self._refused_number:
            self._refused_number, self._refused_s = number, now_s
        elif now_s >= self._refused_s + JETSTREAM_DOUBT_MS / 1000:
            self._refused_number = 0
            self._connection.leave("it refuses a frame, and shows none in its place")

    def _go_to_leader(self) -> None:
        """See to it that frames are sent to the server that leads the stream.

        Another one would hand each of them on, and its answer back.
        """
        now_s = time.monotonic()
        if now_s < self._leader_due_s:
            return
        self._leader_due_s = now_s + _LEADER_INTERVAL_S
        leader = (self._info().get("cluster") or {}).get("leader")
        if leader:
            self._connection.prefer(str(leader))

    def read(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return frames from a number on; see `Stream.read`."""
        frames = self._read_on(from_number)
        try:
            return frames or self._read_few(from_number)
        except JetStreamRefusal as error:
            raise StreamUnreachable(str(error)) from error

    def _read_few(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return the next frame that is there, and some that follow it without a gap."""
        call = f"STREAM.MSG.GET.{self._layout.frames}"
        subject = self._layout.frames_subject
        first = last_message(
            self._connection, self._layout.frames, {"seq": from_number, "next_by_subj": subject}
        )
        if first is None:
            return []
        self._consumer = None  # it is behind, if there is one
        frames = [_frame(first)]
        if frames[0][0] != from_number:
            return frames
        while len(frames) < _WINDOW_COUNT:
            # Mostly there are few: ever more are asked for.
            begin = from_number + len(frames)
            end = min(begin + 2 * len(frames), from_number + _WINDOW_COUNT)
            calls = [(call, {"seq": one}) for one in range(begin, end)]
            for answer in self._connection.api_each(calls):
                if "message" not in answer:
                    return frames
                frames.append(_frame(answer["message"]))
        self._begin_consumer(from_number + len(frames))
        return frames

    def _begin_consumer(self, number: int) -> None:
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": number,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _CONSUMER_REST_NS,
        }
        asked = {"stream_name": self._layout.frames, "config": config}
        made = self._connection.api(f"CONSUMER.CREATE.{self._layout.frames}", asked)
        self._consumer, self._consumer_number = str(made["name"]), number
        self._misses_count = 0

    def _read_on(self, from_number: int) -> list[tuple[int, bytes]]:
        """Return what the consumer shows next, if it stands at a number; else nothing."""
        consumer, self._consumer = self._consumer, None
        if consumer is None or self._consumer_number != from_number:
            return []
        asked = {
            "batch": _READ_LIMIT_COUNT,
            "max_bytes": STREAM_READ_LIMIT_BYTES,
            "no_wait": True,
        }
        call = f"CONSUMER.MSG.NEXT.{self._layout.frames}.{consumer}"
        frames: list[tuple[int, bytes]] = []
        for number, body in self._connection.fetch(call, asked, _READ_LIMIT_COUNT):
            if number != from_number + len(frames):
                return frames  # what is missing is asked for one by one
            frames.append((number, body))
        self._misses_count = 0 if frames else self._misses_count + 1
        if self._misses_count < _MISSES_COUNT:
            self._consumer, self._consumer_number = consumer, from_number + len(frames)
        return frames

    def first(self) -> int:
        """Return the number of the first frame; see `Stream.first`."""
        state = self._info()["state"]
        return int(state["first_seq"]) if state["messages"] else 0

    def _info(self) -> dict[str, Any]:
        try:
            return self._connection.api(f"STREAM.INFO.{self._layout.frames}")
        except JetStreamRefusal as error:
            raise StreamUnreachable(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _frame(message: dict[str, Any]) -> tuple[int, bytes]:
    """Return the number and the bytes of a frame."""
    return int(message["seq"]), b64decode(message.get("data", ""))
