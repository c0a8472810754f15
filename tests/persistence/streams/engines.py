"""Engines that keep streams, for tests that hold for all of them: how to make clients of each."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from tests.twins.simulated_keeping import SimulatedKeeping
from tests.twins.simulated_stream import SimulatedClock, SimulatedEngine, SimulatedStream
from troth.persistence.streams.jetstream_keeping import JetStreamKeeping
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.postgres_keeping import PostgresKeeping
from troth.persistence.streams.postgres_stream import PostgresStream
from troth.persistence.streams.stream import Stream, StreamKeeping
from troth.persistence.streams.stream_log import StreamLog


def boot_ms() -> int:
    """Return a time in ms that never steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def now_ms() -> int:
    """Return the time of day in ms."""
    return time.time_ns() // 1_000_000


class Engine(Protocol):
    """What keeps one group's stream. Each call makes another client of it."""

    def stream(self) -> Stream: ...  # pragma: no cover

    def keeping(self) -> StreamKeeping: ...  # pragma: no cover

    def log(self, stream: Stream, incarnation: int) -> StreamLog: ...  # pragma: no cover


@dataclass
class RealEngine:
    """A stream in a real engine, in real time."""

    stream: Callable[[], Stream]
    keeping: Callable[[], StreamKeeping]

    def log(self, stream: Stream, incarnation: int) -> StreamLog:
        """Return a log on a stream that is made if need be."""
        stream.found(b"who it is")
        return StreamLog(
            stream,
            node=f"n{incarnation}",
            incarnation=incarnation,
            boot_ms=boot_ms,
            now_ms=now_ms,
            sleep_s=time.sleep,
        )


@dataclass
class TwinEngine:
    """A simulated stream, in simulated time."""

    engine: SimulatedEngine = field(default_factory=SimulatedEngine)
    clock: SimulatedClock = field(default_factory=SimulatedClock)

    def __post_init__(self) -> None:
        self._keeping = SimulatedKeeping(self.engine)

    def stream(self) -> Stream:
        """Return a client without faults."""
        return SimulatedStream(self.engine, Random(0), self.clock)

    def keeping(self) -> StreamKeeping:
        """Return what all share."""
        return self._keeping

    def log(self, stream: Stream, incarnation: int) -> StreamLog:
        """Return a log on a stream."""
        stream.found(b"who it is")
        return StreamLog(
            stream,
            node=f"n{incarnation}",
            incarnation=incarnation,
            boot_ms=self.clock.boot_ms,
            now_ms=self.clock.now_ms,
            sleep_s=self.clock.sleep_s,
        )


def postgres_engine(url: str, group: int) -> RealEngine:
    """Return a group's stream in a PostgreSQL database."""
    return RealEngine(
        lambda: PostgresStream(url, group),
        lambda: PostgresKeeping(url, group, answer_limit_ms=10_000),
    )


def jetstream_engine(url: str, group: int) -> RealEngine:
    """Return a group's stream in a single NATS server."""
    return RealEngine(
        lambda: JetStreamStream(url, group, replicas_count=1, answer_limit_ms=10_000),
        lambda: JetStreamKeeping(url, group, answer_limit_ms=10_000),
    )
