"""A server whose day always begins at the same time, and passes quickly at first.

`python -m tests.ui.pictures.clock BEGAN serve …` is `troth serve …` with another clock: when the
machine's monotonic clock said `BEGAN`, it was `START_MS`. For `FAST_S` seconds it then runs
`RATE` times as fast, so that charts have their minutes; after that, as all clocks do. The wall
clock, the monotonic one and that of trio agree, so the server sees no jump.
"""

import functools
import sys
import time
from datetime import UTC, datetime
from typing import Final, final

import trio

START_MS: Final = int(datetime(2026, 10, 14, 9, 35, tzinfo=UTC).timestamp()) * 1000
RATE: Final = 6
FAST_S: Final = 56.0


@final
class QuickClock(trio.abc.Clock):
    """The time since `began_s`, in seconds, first quick and then usual; also a clock for trio."""

    def __init__(self, began_s: float) -> None:
        """Begin when the machine's monotonic clock says, or said, `began_s`."""
        self._began_s = began_s

    def start_clock(self) -> None:
        """Do nothing: it runs already."""

    def current_time(self) -> float:
        """Return the seconds since its beginning."""
        real_s = time.monotonic() - self._began_s
        return min(real_s, FAST_S) * (RATE - 1) + real_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep, in seconds of the machine; trio looks again after that."""
        left_s = deadline - self.current_time()
        return left_s / RATE if time.monotonic() - self._began_s < FAST_S else left_s

    def now_ms(self) -> int:
        """Return the time, in ms since 1970."""
        return START_MS + int(self.current_time() * 1000)


def main(began_s: float, arguments: list[str]) -> None:
    """Run the command `troth` by this clock."""
    clock = QuickClock(began_s)

    def monotonic_ns(clock_id: int) -> int:
        return int(clock.current_time() * 1_000_000_000)

    time.time = lambda: clock.now_ms() / 1000
    time.time_ns = lambda: clock.now_ms() * 1_000_000
    time.clock_gettime_ns = monotonic_ns
    vars(trio)["run"] = functools.partial(trio.run, clock=clock)
    from troth.cli.command import main as command

    sys.argv = ["troth", *arguments]
    command()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
