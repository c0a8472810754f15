"""What a simulated node has besides its server: clocks, a directory, and its troubles."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from tests.simulation.server import ALONE
from troth.core.limits import STREAM_DRIFT_PERCENT
from troth.shards.streams.stream_storage import StreamStorage

from .engine import EngineClient

if TYPE_CHECKING:
    from .cluster_world import ClusterWorld

WALL_MS: Final = 1_780_000_000_000
SKEW_LIMIT_MS: Final = 2_400
"""Two clocks differ by less than 5 s: beyond that time may go back at a takeover."""


class Node:
    """One node of a cluster. Its clocks run wrong within what the design allows."""

    group = 0
    place = ALONE

    def __init__(self, world: "ClusterWorld", name: str, directory: Path) -> None:
        self.world = world
        self.name = self.node_name = name
        self.home = self.directory = directory
        """Where the node's files are, and those of this process."""
        self.engine = world.engine
        self.random = world.random(f"node {name}")
        self.opened: StreamStorage | None = None
        self.client: EngineClient | None = None
        self.cut_until_s = 0.0
        self.client_cut_until_s = 0.0
        self.halted_until_s = 0.0
        drift = STREAM_DRIFT_PERCENT / 100
        self._rate = 1 + self.random.uniform(-drift, drift) * 0.999
        self._booted_ms = self.random.randrange(1_000, 10**9)
        self._skew_ms = self.random.randint(-SKEW_LIMIT_MS, SKEW_LIMIT_MS)

    def boot_ms(self) -> int:
        """Durations, a little too long or too short."""
        return self._booted_ms + int(trio.current_time() * 1000 * self._rate)

    def wall_ms(self) -> int:
        """The time of day, as this node knows it."""
        return WALL_MS + self._skew_ms + self.world.all_ahead_ms + self.passed_ms()

    @staticmethod
    def passed_ms() -> int:
        """The time since the run began."""
        return int(trio.current_time() * 1000 + 1e-3)

    def jump(self, random: Random) -> None:
        """Set the clock, to something wrong again."""
        self._skew_ms = random.randint(-SKEW_LIMIT_MS, SKEW_LIMIT_MS)

    def is_cut(self) -> bool:
        """Whether it is cut off from the stream."""
        return trio.current_time() < self.cut_until_s

    async def until_awake(self) -> None:
        """Wait until the node is not halted."""
        while trio.current_time() < self.halted_until_s:  # noqa: ASYNC110 - it may grow
            await trio.sleep_until(self.halted_until_s)

    async def rest(self, duration_s: float) -> None:
        """Let time pass for the node's own code, which stands still while it is halted."""
        await trio.sleep(duration_s)
        await self.until_awake()
