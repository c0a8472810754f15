"""What one load process is asked to do: plain values that travel to it as JSON."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Final, Literal, Self

Distribution = Literal["sequential", "uniform", "zipf"]
Arrivals = Literal["even", "poisson"]

DISTRIBUTIONS: Final = ("sequential", "uniform", "zipf")
FAR_AWAY_MS: Final = 9_999_999_999_999
"""A time-out that no benchmark lives to see (the year 2286)."""


@dataclass(frozen=True)
class Workload:
    """One scenario against one server, for one process that makes load."""

    scenario: str
    host: str
    port: int
    poll_host: str
    poll_port: int
    poll_prefix: str = ""
    """What stands before `/{group}/{id}` in the address of a stream."""
    run: str = "b"
    """Begins every id, so that no two runs meet."""
    process: int = 0
    """The number of this load process; it is part of the ids, too."""
    connections: int = 64
    duration_s: float = 5.0
    warm_up_s: float = 1.0
    rate: float | None = None
    """Operations a second (open loop); None: as fast as the answers come (closed loop)."""
    arrivals: Arrivals = "even"
    operation_limit: int | None = None
    """End after this many operations, whatever the time."""
    payload_bytes: int = 200
    keys: int = 1000
    """How many things there are to read or to search."""
    keys_run: str = "b"
    """Begins the ids of those."""
    distribution: Distribution = "sequential"
    fan_out: int = 100
    holders: int = 1000
    """How many processes hold a task each and send heartbeats."""
    mix: dict[str, float] = field(default_factory=dict)
    tagged: bool = False
    timeout_ms: int = FAR_AWAY_MS
    """When created promises time out, Unix milliseconds."""
    spread_ms: int = 0
    """Timeouts are spread evenly over this time."""
    request_timeout_s: float = 10.0
    seed: int = 1
    authorization: str | None = None
    cpu: int | None = None
    """The core to stay on; None: any."""

    def to_json(self) -> str:
        """Return all of it on one line."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises TypeError or ValueError for anything else."""
        return cls(**json.loads(text))
