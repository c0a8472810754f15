"""A log whose batches are frames of a stream that this node owns: `Log`, driven by `Ownership`.

`take_over` follows the stream until its owner has released it or is silent, claims it, and returns
when this node may answer. From then on `append` returns when its batch is durable, whatever the
engine answered: what is in doubt is read, and sent again if it is not there. If another node's
frame stands there instead, or nothing is known for too long, the log has failed for good.

Calls block; the writer's thread makes them. `may_answer` is for any thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, final

from troth.core.buckets import Buckets
from troth.core.limits import (
    STREAM_FRAME_LIMIT_BYTES,
    STREAM_LOOK_MS,
    STREAM_PATIENCE_MS,
    STREAM_SILENCE_MS,
)
from troth.persistence.errors import LogConflict, LogFailed, MemoryRanOut
from troth.persistence.wal.frames import join_records
from troth.persistence.wal.log import (
    BATCH_BOUNDS_COUNT,
    SYNC_BOUNDS_S,
    LogRecord,
    LogStatistics,
    NewRecord,
)

from .chain import Chain, ChainMark, StreamDamaged, StreamTrimmed, another_history
from .features import FEATURES, withheld_starts
from .ownership import Ownership, Standing
from .stream import Stream, StreamUnreachable
from .stream_frames import FrameKind, StreamFrame, decode_stream_frame, encode_stream_frame

LOOK_INTERVAL_S: Final = STREAM_LOOK_MS / 1000
"""How often a node that waits looks at the stream, however much is appended."""

_READ_ON_COUNT: Final = 64
_READ_ON_BYTES: Final = 1 << 20
"""With so much in one piece, the next one is read immediately."""

_RETRY_FIRST_S: Final = 0.005
_RETRY_LIMIT_S: Final = 1.0
_RELEASE_PATIENCE_MS: Final = 2_000
_MARKS_LIMIT_COUNT: Final = 4096
_MARK_FRAMES_COUNT: Final = 64


class Deposed(LogFailed):
    """Another node owns the stream now."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"another server has taken over {name}, because this one was silent for too long. "
            "Nothing acknowledged is lost. Start this server again: it stands by until the other "
            "one ends."
        )


Answer = TypeVar("Answer")


@final
class StreamLog:
    """The log of one group in one stream.

    `boot_ms` counts durations and never steps; `now_ms` is the time of day. `node` is what others
    are told of this one. `mark` is where to begin reading. As long as `may_claim` says no, the node
    only follows, even if no node owns the stream; `look_s` says when it looks again. `ended` gives
    the incarnations of processes that are known to be gone: for those, nothing has to be waited
    for. `features` says what may be written (`features.py`).
    """

    def __init__(
        self,
        stream: Stream,
        *,
        node: str,
        incarnation: int,
        boot_ms: Callable[[], int],
        now_ms: Callable[[], int],
        sleep_s: Callable[[float], None],
        mark: ChainMark | None = None,
        patience_ms: int = STREAM_PATIENCE_MS,
        silence_ms: int = STREAM_SILENCE_MS,
        may_claim: Callable[[], bool] = lambda: True,
        look_s: Callable[[], float] = lambda: LOOK_INTERVAL_S,
        ended: Callable[[], frozenset[int]] = frozenset,
        features: int = FEATURES,
    ) -> None:
        """Begin nothing yet; an owner that says nothing for `silence_ms` is replaced."""
        self._silence_ms = silence_ms
        self._stream = stream
        self._may_claim = may_claim
        self._look_s = look_s
        self._ended = ended
        self._heard_of: int | None = None
        """The incarnation of the process that sent the last frame that was read."""
        self.agree(features)
        self._node = node
        self._incarnation = incarnation
        self._boot_ms = boot_ms
        self._now_ms = now_ms
        self._sleep_s = sleep_s
        self._patience_ms = patience_ms
        self.mark = mark
        self.told_ms: Callable[[], int] = lambda: 0
        """The latest time that this node's clients and other groups were told, as its owner."""
        self.waits_for: str | None = None
        """The name of the owner that this node stands by for, if it does."""
        self.read_bytes = 0
        """Bytes of frames that were read, as long as this node follows."""
        self.skew_ms = 0
        """How far the owner's clock was ahead of this node's when it was last heard."""
        self._owner = ""
        self._chain = Chain(stream.name, *(mark or ()))
        self._own = Ownership(number=self._chain.number, epoch=self._chain.epoch)
        if mark is not None:
            self._own = Ownership(
                number=mark.number, epoch=mark.epoch, is_free=False, heard_ms=boot_ms()
            )
        self._durable_sequence = 0
        self._reachable_since_ms = 0
        """Since when the engine answers this node, as far as it was away."""
        self._failure: LogFailed | None = None
        self._closed = False
        self._lock = threading.Lock()  # one thread at a time talks to the engine
        self._marks_lock = threading.Lock()
        self._marks: deque[ChainMark] = deque()
        self._appends_count = 0
        self._records_count = 0
        self._bytes_appended = 0
        self._durations_s = Buckets(SYNC_BOUNDS_S)
        self._batches_records = Buckets(BATCH_BOUNDS_COUNT)

    @property
    def next_sequence(self) -> int:
        """The number the next record will get."""
        return self._chain.next_sequence

    @property
    def durable_sequence(self) -> int:
        """The number of the last record that is durable; for any thread."""
        return self._durable_sequence

    @property
    def time_ms(self) -> int:
        """The owner's time in the last frame that is known, in ms since 1970."""
        return self._chain.time_ms

    @property
    def silence_ms(self) -> int:
        """Return how long ago the owner was heard or, if it is this node, has sent something."""
        own = self._own
        since_ms = own.heard_ms if own.standing is Standing.FOLLOWING else own.sent_ms
        return max(self._boot_ms() - since_ms, 0) if since_ms else 0

    @property
    def is_following(self) -> bool:
        """Return whether this node reads, and does not try to own the stream yet."""
        return self._own.standing is Standing.FOLLOWING

    @property
    def number(self) -> int:
        """The number of the last frame that is known."""
        return self._chain.number

    @property
    def epoch(self) -> int:
        """The number of owners that the stream has had, this one included."""
        return self._own.epoch

    def may_answer(self) -> bool:
        """Return whether clients may be answered now from the state that the log has led to."""
        return self._own.may_answer(self._boot_ms())

    def agree(self, features: int) -> None:
        """Begin to write what came with `features` too; for any thread."""
        self._withheld = withheld_starts(features)

    # Becoming the owner

    def check_mark(self, directory: str, pause: Callable[[], None]) -> None:
        """Raise StreamDamaged unless the stream is the one that the mark was taken from.

        `directory` is what holds the mark. An engine that shows less may be behind for a while; so
        it is looked at again. Raises LogFailed too.
        """
        mark = self.mark
        assert mark is not None
        gives_up_ms = self._boot_ms() + self._stream.behind_ms
        while not (shown := self._read(mark.number, pause)) and self._boot_ms() < gives_up_ms:
            # The directory may have begun with a snapshot that another server of the engine gave.
            pause()
            self._sleep_s(LOOK_INTERVAL_S)
        decoded = decode_stream_frame(shown[0][1]) if shown else None
        if decoded is None or (decoded[0].number, decoded[1]) != (mark.number, mark.checksum):
            raise another_history(self._stream.name, mark.number, directory)
        self._heard_of = decoded[0].incarnation
        with self._marks_lock:
            self._marks.append(mark)

    def first(self, pause: Callable[[], None]) -> int:
        """Return the number of the first frame that was not trimmed. Raises LogFailed."""
        return self._ask(self._stream.first, pause)

    def take_over(self, pause: Callable[[], None]) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records, those to come too, until this node owns the stream and may answer.

        `pause` is called now and then and may raise. Raises StreamDamaged, and LogFailed if the
        engine cannot be reached for too long.
        """
        while self._own.standing is Standing.FOLLOWING:
            ended = self._ended()  # before it is read: those have written nothing since
            frames = self._read(self._chain.number + 1, pause)
            yield from self._received(frames, pause)
            if self._heard_of in ended:
                self._own = self._own.owner_has_ended()
            pause()
            if len(frames) >= _READ_ON_COUNT or (frames and self.waits_for is None):
                continue  # there may be more
            if sum(len(data) for _, data in frames) >= _READ_ON_BYTES:
                continue
            is_silent = self._boot_ms() >= self._silent_since_ms + self._silence_ms
            if (self._own.is_free or is_silent) and self._may_claim():
                self._claim(pause)
                continue
            if not self._own.is_free:
                self.waits_for = self._owner or "a server of an unknown name"
            self._sleep_s(self._look_s())
        self.waits_for = None
        while self._own.durable_number < self._own.number or not self.may_answer():
            if self._boot_ms() >= self._own.alive_due_ms:
                self._put(FrameKind.ALIVE, b"", pause=pause)
            else:
                pause()
                self._sleep_s(min(LOOK_INTERVAL_S, self._wait_s()))

    def _received(
        self, frames: Sequence[tuple[int, bytes]], pause: Callable[[], None]
    ) -> Iterator[tuple[int, LogRecord]]:
        """Take the next frames; yield their records."""
        for number, data in frames:
            self._check_not_trimmed(number, pause)
            frame, records = self._chain.read(number, data)
            self._own = self._own.received(frame, self._boot_ms())
            self._heard_of = frame.incarnation
            self.read_bytes += len(data)
            if self.waits_for is not None:  # it reads what was just written
                self.skew_ms = frame.time_ms - self._now_ms()
            if frame.kind is FrameKind.OWNER:
                self._owner = frame.payload.decode(errors="replace")
            first = self._chain.next_sequence - len(records)
            yield from enumerate(records, first)
            self._note_mark(frame)

    @property
    def _silent_since_ms(self) -> int:
        """The time from which on the owner could have been heard, and was not."""
        return max(self._own.heard_ms, self._reachable_since_ms)

    def _check_not_trimmed(self, number: int, pause: Callable[[], None]) -> None:
        """Raise StreamTrimmed if the next frames are gone, as they may be for one who is slow."""
        expected = self._chain.number + 1
        if number > expected:
            first = self.first(pause)
            if first > expected:
                raise StreamTrimmed(self._stream.name, expected, first)

    def _claim(self, pause: Callable[[], None]) -> None:
        """Try to become the owner; then the frame that claims is the last one."""
        frame = self._frame(FrameKind.OWNER, self._node.encode(), epoch=self._own.epoch + 1)
        self._own = self._own.claim(frame, self._boot_ms())
        self._settle(frame, pause)

    def _wait_s(self) -> float:
        """Return how long it is until the owner has to say something."""
        return max(self._own.alive_due_ms - self._boot_ms(), 1) / 1000

    # Appending

    def append(self, batch: Sequence[NewRecord], expected_sequence: int) -> int:
        """Make a batch durable and return its last record's sequence; see `Log.append`."""
        self._check_usable()
        if not batch:
            raise ValueError("a batch holds at least one record")
        if self._withheld and any(body.startswith(self._withheld) for _, _, body in batch):
            raise ValueError("a batch holds a kind of record that not all nodes can read")
        if expected_sequence != self.next_sequence:
            raise LogConflict(expected_sequence, self.next_sequence)
        last = self._chain.shard_sequences
        grown: dict[int, int] = {}
        for shard, shard_sequence, _ in batch:
            if shard_sequence <= grown.get(shard, last.get(shard, 0)):
                raise ValueError(f"record {shard_sequence} of shard {shard} comes too late")
            grown[shard] = shard_sequence
        payload = join_records(batch)
        started_ms = self._boot_ms()
        try:
            self._put_batch(payload, len(batch))
        except MemoryError as error:  # perhaps a part stands there
            raise self._fail(MemoryRanOut("while a batch was written to the log")) from error
        last.update(grown)
        self._durable_sequence = self.next_sequence - 1
        self._appends_count += 1
        self._records_count += len(batch)
        self._bytes_appended += len(payload)
        self._durations_s.add((self._boot_ms() - started_ms) / 1000)
        self._batches_records.add(len(batch))
        return self.next_sequence - 1

    def _put_batch(self, payload: bytes, record_count: int) -> None:
        """Append a batch, in as many frames as it needs; return when all are durable."""
        limit = STREAM_FRAME_LIMIT_BYTES
        last_start = (len(payload) - 1) // limit * limit
        for start in range(0, last_start, limit):
            self._put(FrameKind.PART, payload[start : start + limit])
        self._put(FrameKind.RECORDS, payload[last_start:], record_count=record_count)
        while self._own.durable_number < self._own.number:
            self._put(FrameKind.ALIVE, b"")

    def seal(self) -> float | None:
        """Say that this node still owns the stream, if it is time; return when it will be, in s.

        Raises LogFailed.
        """
        self._check_usable()
        while self._boot_ms() >= self._own.alive_due_ms:
            self._put(FrameKind.ALIVE, b"")
        return self._wait_s()

    def _frame(
        self, kind: FrameKind, payload: bytes, *, epoch: int, record_count: int = 0
    ) -> StreamFrame:
        chain = self._chain
        return StreamFrame(
            kind=kind,
            number=chain.number + 1,
            epoch=epoch,
            incarnation=self._incarnation,
            time_ms=max(self._now_ms(), self.told_ms(), chain.time_ms),
            next_sequence=chain.next_sequence + record_count,
            record_count=record_count,
            previous_checksum=chain.checksum,
            payload=payload,
        )

    def _put(
        self,
        kind: FrameKind,
        payload: bytes,
        *,
        record_count: int = 0,
        pause: Callable[[], None] | None = None,
        patience_ms: int | None = None,
    ) -> None:
        """Append one frame; return when it is known to stand in the stream. Raises LogFailed."""
        frame = self._frame(kind, payload, epoch=self._own.epoch, record_count=record_count)
        self._own = self._own.append(frame, self._boot_ms())
        self._settle(frame, pause or _go_on, patience_ms)

    def _settle(
        self, frame: StreamFrame, pause: Callable[[], None], patience_ms: int | None = None
    ) -> None:
        """Send what is in flight, and find out what has become of it. Raises LogFailed."""
        data, checksum = encode_stream_frame(frame)
        gives_up_ms = self._boot_ms() + (self._patience_ms if patience_ms is None else patience_ms)
        problem = "it refuses what it should take"
        delay_s = 0.0
        while self._own.is_to_send or self._own.is_in_doubt:
            try:
                self._try(frame, data)
            except StreamUnreachable as error:
                problem = str(error)
                if self._own.is_to_send:
                    self._own = self._own.unanswered()
            except StreamDamaged as error:
                raise self._fail(LogFailed(str(error))) from error
            if self._own.is_to_send or (self._own.is_in_doubt and delay_s):
                if self._boot_ms() >= gives_up_ms:
                    raise self._fail(self._lost(problem))
                self._sleep_s(delay_s)
            delay_s = min(max(2 * delay_s, _RETRY_FIRST_S), _RETRY_LIMIT_S)
            pause()
        if self._own.standing is Standing.DEPOSED:
            raise self._fail(Deposed(self._stream.name))
        if self._own.standing is not Standing.FOLLOWING:
            self._chain.follow(frame, checksum)
            self._note_mark(frame)

    def _try(self, frame: StreamFrame, data: bytes) -> None:
        """Send what is in flight, or look what stands in its place. Raises StreamUnreachable."""
        if self._own.is_to_send:
            is_claim = frame.kind is FrameKind.OWNER
            with self._lock:
                is_durable = self._stream.append(frame.number, frame.epoch, data, is_claim=is_claim)
            self._own = self._own.acknowledged() if is_durable else self._own.unanswered()
            return
        with self._lock:
            shown = self._stream.read(frame.number)
        if not shown:
            self._own = self._own.found(None)
            return
        # If another owner has gone on for long, a later frame is the first that is still there.
        decoded = decode_stream_frame(shown[0][1])
        if decoded is None:
            raise StreamDamaged(self._stream.name, shown[0][0], "it is not what was written")
        self._own = self._own.found(decoded[0])

    def _read(self, from_number: int, pause: Callable[[], None]) -> list[tuple[int, bytes]]:
        """Read frames, trying again for a while. Raises LogFailed."""
        return self._ask(lambda: self._stream.read(from_number), pause)

    def _ask(self, question: Callable[[], Answer], pause: Callable[[], None]) -> Answer:
        """Ask the engine, trying again for a while. Raises LogFailed."""
        gives_up_ms = self._boot_ms() + self._patience_ms
        delay_s = _RETRY_FIRST_S
        while True:
            try:
                with self._lock:
                    answer = question()
                if delay_s > _RETRY_FIRST_S:  # the owner could not be heard either
                    self._reachable_since_ms = self._boot_ms()
                return answer
            except StreamUnreachable as error:
                if self._boot_ms() >= gives_up_ms:
                    raise self._lost(str(error)) from error
            pause()
            self._sleep_s(delay_s)
            delay_s = min(2 * delay_s, _RETRY_LIMIT_S)

    # The rest of `Log`

    def read(
        self, from_sequence: int, mark: ChainMark | None = None
    ) -> Iterator[tuple[int, LogRecord]]:
        """Yield all records from a sequence up to what was durable at the call, with sequences.

        `mark` is a place before it; without one the stream is read from its first frame, which must
        not be trimmed then. Raises StreamDamaged or LogFailed.
        """
        until_number = self._own.durable_number
        chain = Chain(self._stream.name, *(mark or ()))
        while chain.number < until_number:
            for number, data in self._read(chain.number + 1, _go_on):
                _, records = chain.read(number, data)
                first = chain.next_sequence - len(records)
                for sequence, record in enumerate(records, first):
                    if sequence >= from_sequence:
                        yield sequence, record
                if number == until_number:
                    return

    def trim(self, to_sequence: int) -> None:
        """Keep everything: another node may have to begin with the first record."""

    def mark_before(self, sequence: int) -> ChainMark | None:
        """Return a place from which on all records from a sequence on stand; None if unknown.

        Earlier ones are forgotten.
        """
        marks = self._marks
        with self._marks_lock:
            while len(marks) > 1 and marks[1].next_sequence <= sequence:
                marks.popleft()
            return marks[0] if marks and marks[0].next_sequence <= sequence else None

    def _note_mark(self, frame: StreamFrame) -> None:
        is_due = frame.number < _MARK_FRAMES_COUNT or frame.number % _MARK_FRAMES_COUNT == 0
        if is_due and frame.kind is not FrameKind.PART:
            with self._marks_lock:
                if len(self._marks) >= _MARKS_LIMIT_COUNT:  # keep every other one
                    self._marks = deque([*self._marks][::2])
                self._marks.append(self._chain.mark)

    def close(self, *, keeps_ownership: bool = False) -> None:
        """Release the stream, so that the next owner need not wait, and the connection.

        A process that `keeps_ownership` leaves that to the one that knows that it has ended.
        """
        if self._closed:
            return
        self._closed = True
        own = self._own
        may_release = own.standing is Standing.OWNING and self._boot_ms() >= own.serves_from_ms
        try:
            # After a failure half a batch may be the end.
            if may_release and not keeps_ownership and self._failure is None:
                self._put(FrameKind.RELEASED, b"", patience_ms=_RELEASE_PATIENCE_MS)
        except LogFailed:
            pass  # then the next owner waits
        finally:
            with self._lock:
                self._stream.close()

    def statistics(self) -> LogStatistics:
        """Return a snapshot; may be called from any thread and after a failure."""
        return LogStatistics(
            next_sequence=self.next_sequence,
            epoch=self.epoch,
            appends_count=self._appends_count,
            records_count=self._records_count,
            bytes_appended=self._bytes_appended,
            syncs_count=self._appends_count,
            syncs_s=self._durations_s,
            batches_records=self._batches_records,
            failed=self._failure is not None,
        )

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise LogFailed("the log is closed")

    def _fail(self, failure: LogFailed) -> LogFailed:
        self._failure = failure
        return failure

    def _lost(self, problem: str) -> LogFailed:
        return LogFailed(
            f"{self._stream.name} has not answered for {self._patience_ms // 1000} s: {problem}. "
            "Nothing acknowledged is lost. Start the server again when that works; it will "
            "find out whether the last batch is durable."
        )


def _go_on() -> None:
    pass
