"""What the processes of a simulated server share: luck, a clock, and who watches them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random

import trio

from troth.persistence.placement import dealt_shards, groups_by_shard
from troth.shards.clock import SteadyClock
from troth.shards.placement.executions import PlacedExecution

from .faults import Faults
from .history import History
from .invariants import Watch
from .ledger import Ledger
from .plan import Plan
from .server import RULES, SHARD_COUNT, Server
from .steps import Steps
from .trace import Trace

EPOCH_MS = 1_780_000_000_000


class JumpingClock(SteadyClock):
    """The wall clock: runs with simulated time, is set forward, or stands still (set back)."""

    def __init__(self) -> None:
        self._offset_ms = EPOCH_MS
        self._last_ms = EPOCH_MS
        self._forward: list[tuple[float, int]] = []

    def now_ms(self) -> int:
        now_ms = self._offset_ms + int(trio.current_time() * 1000 + 1e-3)
        self._last_ms = max(self._last_ms, now_ms)
        return self._last_ms

    def jump(self, by_ms: int) -> None:
        """Set the clock. Set back, the server's time stands still until it has caught up."""
        self._offset_ms += by_ms
        if by_ms > 0:
            self._forward.append((trio.current_time(), by_ms))

    def passed_ms(self, duration_ms: int) -> int:
        """Return by how much it has moved while so much time has passed, at most."""
        since = trio.current_time() - duration_ms / 1000
        return duration_ms + sum(by_ms for on, by_ms in self._forward if on >= since)


class Surroundings(ABC):
    """What lives of processes share. `check_recovered` looks at each that has come up."""

    def __init__(self, plan: Plan, check_recovered: Callable[[Server, Ledger], None]) -> None:
        self.plan = plan
        self.trace = Trace()
        self.ledger = Ledger()
        self.clock = JumpingClock()
        self.check_recovered = check_recovered
        self.group_shards = dealt_shards(SHARD_COUNT, plan.groups_count)
        self.history = History(groups_by_shard(self.group_shards))
        self.faults = Faults(
            plan.seed, plan.without, plan.chances, lambda name: self.trace.note("fault", name)
        )
        self.watch = Watch(SHARD_COUNT, RULES, self.group_shards)
        self.steps = Steps()
        self.crashes_count = 0
        self.disk_failures_count = 0
        self.target_dead_until = 0.0
        self.begin_call: Callable[[Server, PlacedExecution], None] = lambda *_: None

    def random(self, name: str) -> Random:
        """A generator for one actor."""
        return Random(f"{self.plan.seed}/{name}")

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.faults.is_over

    @abstractmethod
    async def deliver(self, url: str, body: bytes) -> None:
        """A push on its way. Raises PushFailed."""
