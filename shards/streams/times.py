"""What the storage of a stream knows of time, and how it waits for an engine that is away."""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import trio

from troth.core.limits import STREAM_PATIENCE_MS, STREAM_SILENCE_MS
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

_RETRY_S: Final = 0.5

Answer = TypeVar("Answer")


def boot_ms() -> int:
    """Return a time in ms that never steps, and counts on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


def _rest(duration_s: float) -> None:
    """Block for a while, in a thread that is not the event loop's, or before there is a loop."""
    threading.Event().wait(duration_s)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Times(NamedTuple):
    """What a storage knows of time: durations, the time of day, and how to let time pass.

    `check_ends` is called in between, and raises if the server is to end. An owner that is silent
    for `silence_ms` is replaced.
    """

    boot_ms: Callable[[], int] = boot_ms
    now_ms: Callable[[], int] = _now_ms
    sleep_s: Callable[[float], None] = _rest
    check_ends: Callable[[], None] = trio.from_thread.check_cancelled
    silence_ms: int = STREAM_SILENCE_MS


MACHINE_TIMES: Final = Times()


def asked(
    question: Callable[[], Answer],
    name: str,
    patience_ms: int = STREAM_PATIENCE_MS,
    times: Times = MACHINE_TIMES,
) -> Answer:
    """Ask the engine, again and again for a while. Raises StreamRefused."""
    gives_up_ms = times.boot_ms() + patience_ms
    while True:
        try:
            return question()
        except StreamUnreachable as error:
            if times.boot_ms() >= gives_up_ms:
                raise StreamRefused(f"{name} cannot be reached: {error}.") from error
        times.sleep_s(_RETRY_S)
