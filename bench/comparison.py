"""Deciding whether two series of runs differ: Mann-Whitney's test, and a bootstrap of the ratio.

The test gives the probability that two series of the same source are as well separated as these
two. It assumes nothing about how results are distributed, but needs at least 4 runs on each side:
with 3, no outcome is rarer than 1 in 10.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Final

from .results import Report, RunRecord, ScenarioRecord

SIGNIFICANT: Final = 0.05
_RESAMPLES: Final = 4000


@dataclass(frozen=True)
class Verdict:
    """One quantity of one scenario, before and now."""

    title: str
    quantity: str
    before: float
    now: float
    ratio_low: float
    ratio_high: float
    """The ratio now/before lies between these with 95 % confidence."""
    probability: float
    """Of a difference at least as clear if nothing has changed."""
    can_tell: bool
    """Whether there were enough runs for any difference to be significant."""
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """Now over before."""
        return self.now / self.before if self.before else math.inf

    @property
    def text(self) -> str:
        """The verdict in words."""
        if not self.can_tell:
            return "too few runs to tell"
        if self.probability > SIGNIFICANT:
            return "no significant difference"
        return "better" if (self.ratio > 1) == self.more_is_better else "worse"


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided probability of a difference like this if both come from the same source.

    Exact up to 20 values without ties, else by the normal approximation with its correction for
    ties. 1.0 if a series is empty.
    """
    m, n = len(first), len(second)
    if not m or not n:
        return 1.0
    wins = sum((a > b) + (a == b) / 2 for a in first for b in second)
    joined = sorted([*first, *second])
    ties = [joined.count(value) for value in set(joined)]
    if max(ties) == 1 and m + n <= 20:
        low = int(min(wins, m * n - wins))
        below = sum(_arrangements(m, n, u) for u in range(low + 1))
        return min(1.0, 2 * below / math.comb(m + n, m))
    total = m + n
    spread = m * n / 12 * (total + 1 - sum(t**3 - t for t in ties) / (total * (total - 1)))
    if spread <= 0:
        return 1.0  # all values are the same
    distance = max(0.0, abs(wins - m * n / 2) - 0.5)
    return min(1.0, math.erfc(distance / math.sqrt(2 * spread)))


@cache
def _arrangements(m: int, n: int, u: int) -> int:
    """Count the orders of m and n values in which exactly u pairs have the first value larger."""
    if u < 0:
        return 0
    if m == 0 or n == 0:
        return int(u == 0)
    # The largest of all is of the first series and beats all n, or of the second and beats none.
    return _arrangements(m - 1, n, u - n) + _arrangements(m, n - 1, u)


def ratio_interval(
    before: Sequence[float], now: Sequence[float], seed: int = 1
) -> tuple[float, float]:
    """Return the 95 % confidence interval of the ratio of the medians, now/before."""
    source = random.Random(seed)  # noqa: S311
    ratios = []
    for _ in range(_RESAMPLES):
        old = median(source.choices(before, k=len(before)))
        new = median(source.choices(now, k=len(now)))
        ratios.append(new / old if old else math.inf)
    ratios.sort()
    return ratios[int(_RESAMPLES * 0.025)], ratios[int(_RESAMPLES * 0.975)]


def compare(before: Report, now: Report) -> list[Verdict]:
    """Judge every scenario that both reports have with the same connections and rate."""
    known = {one.key: one for one in before.scenarios}
    pairs = [(known[one.key], one) for one in now.scenarios if one.key in known]
    return [verdict for old, new in pairs for verdict in _judge(old, new)]


def _judge(old: ScenarioRecord, new: ScenarioRecord) -> list[Verdict]:
    verdicts = []
    for quantity, more_is_better in (
        ("operations/s", True),
        ("share of echo", True),
        ("p50 ms", False),
        ("p99 ms", False),
    ):
        before = [value for run in old.runs if (value := _value(run, quantity)) is not None]
        now = [value for run in new.runs if (value := _value(run, quantity)) is not None]
        if not before or not now or (new.rate is not None and more_is_better):
            continue  # with a given rate, throughput says nothing
        low, high = ratio_interval(before, now)
        clearest = 2 / math.comb(len(before) + len(now), len(now))
        verdicts.append(
            Verdict(
                *(new.title, quantity, median(before), median(now), low, high),
                probability=mann_whitney(before, now),
                can_tell=clearest <= SIGNIFICANT,
                more_is_better=more_is_better,
            )
        )
    return verdicts


def _value(run: RunRecord, quantity: str) -> float | None:
    if quantity == "operations/s":
        return run.throughput
    if quantity == "share of echo":
        return run.echo_share
    return run.latency_ms[quantity.removesuffix(" ms")]
