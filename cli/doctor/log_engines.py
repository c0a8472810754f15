"""What `troth doctor` says of whatever keeps the log: its answers, clock, and newest snapshot."""

import time
from collections.abc import Callable
from statistics import median
from typing import Final

from .findings import Finding, ok, warning

ASKED_COUNT: Final = 20
"""How many questions the time of an answer is measured with."""

SLOW_ANSWER_MS: Final = 10.0
OLD_SNAPSHOT_S: Final = 3 * 3600


def examine_answers(subject: str, name: str, ask: Callable[[], object], advice: str) -> Finding:
    """Say how fast something answers; `advice` is given if that is slow. Raises what `ask` does."""
    durations_ms = []
    for _ in range(ASKED_COUNT):
        begun_s = time.perf_counter()
        ask()
        durations_ms.append((time.perf_counter() - begun_s) * 1000)
    found = f"{name} answers in {median(durations_ms):.2f} ms"
    if median(durations_ms) > SLOW_ANSWER_MS:
        return warning(subject, found, advice)
    return ok(subject, found)


def differing_clock(subject: str, ahead_s: float) -> Finding:
    """Warn of a clock that differs by so much from that of this machine."""
    return warning(
        subject,
        f"it differs by {ahead_s:+.1f} s from this machine's",
        "after a takeover timers may be off: synchronize the clocks of all machines",
    )


def examine_age(found: str, age_s: float | None) -> Finding:
    """Say what the log has; warn if the newest snapshot's mark is old. None: there is no mark."""
    if age_s is not None and age_s > OLD_SNAPSHOT_S:
        return warning(
            "log",
            f"{found}; the newest snapshot's mark is {age_s / 3600:.0f} h old",
            "if a server runs, its log says why it takes none; without one, nothing is wrong",
        )
    return ok("log", found)
