"""When retention runs, and what it has done: this asks, and the shards delete.

Every `interval_ms` a *sweep* goes through the shards one after the other and asks each for slices
until nothing is left that its rules reach. A slice is a command like any other: it waits its turn
in the mailbox, and the next one is asked for only when its record is durable, after a pause as long
as the slice took, times `PAUSE_FACTOR`. So a sweep of millions is slow, and hardly delays requests.
A dry run counts in the same way and changes nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import structlog
import trio

from troth.core.commands import SLICE_START, Command, CountRetained, Retain, Slice
from troth.core.limits import RETENTION_SCAN_COUNT, RETENTION_SLICE_COUNT
from troth.core.replies import Reply, Retained
from troth.core.retention_rules import RetentionRule
from troth.shards.errors import Overloaded, ShardsError

PAUSE_FACTOR: Final = 3
"""How much longer a sweep rests after a slice than the slice took."""

PAUSE_LIMIT_S: Final = 0.25
OVERLOADED_PAUSE_S: Final = 1.0

log = structlog.get_logger("troth.retention")


class Asked(Protocol):
    """The part of `shards.Shards` that a sweep needs."""

    @property
    def own_indexes(self) -> Sequence[int]:
        """The indexes of the shards of this process, which sweeps them; others sweep theirs."""
        ...  # pragma: no cover

    async def ask_shard(self, index: int, command: Command) -> Reply:
        """Make one shard carry out a command. Raises ShardsError."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep did or would do: promises by rule, those that wait, and how long it took."""

    counts: tuple[int, ...]
    waiting_count: int
    duration_ms: int

    @property
    def total_count(self) -> int:
        """The number of promises that were or would be deleted."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class RetentionStatistics:
    """`deleted_total_count` has a number for each rule, by its text."""

    rules_count: int
    sweeps_total_count: int
    deleted_total_count: tuple[tuple[str, int], ...]
    waiting_count: int
    last_sweep_on_ms: int
    last_sweep_duration_ms: int


@final
class Sweeper:
    """Carries out the retention rules of one server. `names` are the rules' texts, in order."""

    def __init__(
        self,
        shards: Asked,
        rules: tuple[RetentionRule, ...],
        names: tuple[str, ...],
        *,
        interval_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        assert len(rules) == len(names)
        self.rules = rules
        self.names = names
        self._shards = shards
        self._interval_ms = interval_ms
        self._now_ms = now_ms
        self._running = trio.Lock()
        self._deleted = [0] * len(rules)
        self._sweeps_count = 0
        self._last_on_ms = 0
        self._last = Outcome((0,) * len(rules), 0, 0)

    async def run(self) -> None:
        """Sweep until canceled, or until the shards answer no more."""
        if not self.rules:
            return
        while True:
            await trio.sleep(self._interval_ms / 1000)
            try:
                await self.sweep()
            except ShardsError as error:
                # The server is stopping, or its log has failed: other code ends it.
                log.debug("a sweep was broken off", reason=str(error))
                return

    async def sweep(self) -> Outcome:
        """Delete everything that the rules reach now. Raises ShardsError."""
        async with self._running:

            def note(done: Retained) -> None:
                for place, count in enumerate(done.deleted_counts):
                    self._deleted[place] += count

            command = Retain(RETENTION_SLICE_COUNT, RETENTION_SCAN_COUNT)
            outcome = await self._through(len(self.rules), lambda _: command, note)
            self._sweeps_count += 1
            self._last_on_ms = self._now_ms()
            self._last = outcome
            if outcome.total_count:
                log.info(
                    "retention has deleted promises",
                    deleted=dict(zip(self.names, outcome.counts, strict=True)),
                    waiting=outcome.waiting_count,
                    duration_ms=outcome.duration_ms,
                )
            return outcome

    async def dry_run(self, rules: tuple[RetentionRule, ...] | None = None) -> Outcome:
        """Count what rules (those of the server, unless given) would delete. Raises ShardsError."""
        chosen = self.rules if rules is None else rules
        return await self._through(
            len(chosen), lambda start: CountRetained(chosen, start, RETENTION_SCAN_COUNT)
        )

    async def _through(
        self,
        rules_count: int,
        command: Callable[[Slice], Command],
        note: Callable[[Retained], None] | None = None,
    ) -> Outcome:
        """Ask every shard for slices until it has no more."""
        began = time.monotonic()
        counts = [0] * rules_count
        waiting_count = 0
        for index in self._shards.own_indexes:
            start: Slice | None = SLICE_START
            while start is not None:
                slice_began = trio.current_time()
                done = await self._slice(index, command(start))
                if note is not None:
                    note(done)
                for place, count in enumerate(done.deleted_counts):
                    counts[place] += count
                waiting_count += done.waiting_count
                start = done.following
                if start is not None:
                    took_s = trio.current_time() - slice_began
                    await trio.sleep(min(took_s * PAUSE_FACTOR, PAUSE_LIMIT_S))
        duration_ms = int((time.monotonic() - began) * 1000)
        return Outcome(tuple(counts), waiting_count, duration_ms)

    async def _slice(self, index: int, command: Command) -> Retained:
        while True:
            try:
                reply = await self._shards.ask_shard(index, command)
            except Overloaded:
                # Clients come first.
                await trio.sleep(OVERLOADED_PAUSE_S)
                continue
            return reply.retained or Retained((), 0, None)

    def statistics(self) -> RetentionStatistics:
        """Return counters for metrics."""
        return RetentionStatistics(
            len(self.rules),
            self._sweeps_count,
            tuple(zip(self.names, self._deleted, strict=True)),
            self._last.waiting_count,
            self._last_on_ms,
            self._last.duration_ms,
        )
