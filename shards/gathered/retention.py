"""Retention of a server of several processes, on demand: each process sweeps its own shards."""

from collections.abc import Sequence
from typing import Final, final

from msgspec import Struct

from troth.core.retention_rules import RetentionRule
from troth.shards.errors import OutOfReach
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.upkeep.retention import Outcome, RetentionStatistics, Sweeper

from .asking import ask_all


class RulesAsked(Struct, frozen=True, array_like=True):
    """The rules of a dry run; None for those of the server."""

    rules: tuple[RetentionRule, ...] | None


SWEEP: Final = ProcessCall("retention.sweep", type(None), Outcome)
DRY_RUN: Final = ProcessCall("retention.dry-run", RulesAsked, Outcome)


@final
class AllSweepers:
    """Sweeps all processes; `own` sweeps this one, once it has started. See `Sweeper`."""

    def __init__(self, calls: ProcessCalls) -> None:
        self.own: Sweeper | None = None
        self._calls = calls
        calls.handle(SWEEP, self._sweep_own)
        calls.handle(DRY_RUN, self._dry_run_own)

    @property
    def rules(self) -> tuple[RetentionRule, ...]:
        """The rules of the server."""
        return self._started.rules

    @property
    def _started(self) -> Sweeper:
        if self.own is None:
            raise OutOfReach  # this process is about to serve
        return self.own

    async def _sweep_own(self, _process: int, _asked: None) -> Outcome:
        return await self._started.sweep()

    async def _dry_run_own(self, _process: int, asked: RulesAsked) -> Outcome:
        return await self._started.dry_run(asked.rules)

    async def sweep(self) -> Outcome:
        """Delete everything that the rules reach now. Raises ShardsError."""
        return _together(await ask_all(self._calls, SWEEP, None))

    async def dry_run(self, rules: tuple[RetentionRule, ...] | None = None) -> Outcome:
        """Count what rules would delete. Raises ShardsError."""
        return _together(await ask_all(self._calls, DRY_RUN, RulesAsked(rules)))

    def statistics(self) -> RetentionStatistics:
        """Return the counters of this process."""
        return self._started.statistics()


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    counts = zip(*(one.counts for one in outcomes), strict=True)
    return Outcome(
        tuple(map(sum, counts)),
        sum(one.waiting_count for one in outcomes),
        max(one.duration_ms for one in outcomes),
    )
