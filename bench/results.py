"""Results as they are stored, compared and shown: plain records that go through JSON.

The file's form is versioned by `FORMAT`. All durations are milliseconds, all rates a second.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from .ceilings import Ceilings
from .client import BenchError
from .histogram import Histogram
from .load import SLOT_S, Run

FORMAT: Final = 1
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
CURVE_PERCENTILES: Final = (
    *(0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99),
    *(99.995, 99.999),
)


def milliseconds(duration_ns: float) -> float:
    """Convert nanoseconds to milliseconds, rounded to what a report can use."""
    return round(duration_ns / 1e6, 4)


def percentiles_ms(histogram: Histogram) -> dict[str, float]:
    """Return the usual summary of latencies: p50, p90, p99, p99.9, mean, max."""
    named = {
        f"p{percent:g}": milliseconds(histogram.percentile(percent)) for percent in PERCENTILES
    }
    return {**named, "mean": milliseconds(histogram.mean), "max": milliseconds(histogram.maximum)}


@dataclass
class RunRecord:
    """One run of one scenario, with the ceilings measured right before it."""

    throughput: float
    latency_ms: dict[str, float]
    curve_ms: list[tuple[float, float]]
    """Percent and latency, for a plot."""
    steps_ms: dict[str, dict[str, float]]
    errors: dict[str, int]
    unfinished: int
    timeline: list[tuple[float, float, float, bool]]
    """Seconds, operations a second, p99 in ms, measured or warm-up."""
    checkpoints_s: list[float]
    server_share: float | None
    """Of one core."""
    server_memory_bytes: int | None
    generator_share: float
    generator_limits: bool
    echo_throughput: float | None = None
    echo_p50_ms: float | None = None
    echo_generator_limits: bool | None = None
    disk_operations: float | None = None
    """A second, if all connections share each fdatasync."""
    sync_p50_ms: float | None = None
    """Of one operation's bytes."""

    @property
    def echo_share(self) -> float | None:
        """The throughput as a share of the echo ceiling."""
        return self.throughput / self.echo_throughput if self.echo_throughput else None

    @property
    def processor_us(self) -> float | None:
        """The processor time of the server's processes for one operation."""
        if self.server_share is None or not self.throughput:
            return None
        return self.server_share / self.throughput * 1e6

    @property
    def disk_share(self) -> float | None:
        """The throughput as a share of what the disk allows."""
        return self.throughput / self.disk_operations if self.disk_operations else None


@dataclass
class ScenarioRecord:
    """All runs of one scenario with the same options."""

    scenario: str
    connections: int
    rate: float | None
    options: dict[str, Any]
    runs: list[RunRecord] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, float | None]:
        """The key that comparable records share."""
        return self.scenario, self.connections, self.rate

    @property
    def title(self) -> str:
        """Its name in tables."""
        loop = "" if self.rate is None else f" at {self.rate:,.0f}/s"
        return f"{self.scenario}, {self.connections} conn.{loop}"

    @property
    def typical(self) -> RunRecord:
        """The run with the median throughput (the lower of the two in the middle)."""
        ordered = sorted(self.runs, key=lambda one: one.throughput)
        return ordered[(len(ordered) - 1) // 2]


@dataclass
class Report:
    """Everything one call of the tool has measured."""

    environment: dict[str, Any]
    scenarios: list[ScenarioRecord] = field(default_factory=list)
    studies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Name of the study, then its rows: what was varied and what was seen, by column."""

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises OSError."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises BenchError for anything else."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise ValueError(f"its format is {stored['format']}, this program reads {FORMAT}")
            scenarios = [
                ScenarioRecord(**{**one, "runs": [RunRecord(**run) for run in one["runs"]]})
                for one in stored["scenarios"]
            ]
            return cls(stored["environment"], scenarios, stored["studies"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BenchError(f"{path} has no results of troth bench: {error}") from error


def record(run: Run, ceilings: Ceilings | None, *, open_loop: bool) -> RunRecord:
    """Make a run's record."""
    made = RunRecord(
        throughput=run.throughput,
        latency_ms=percentiles_ms(run.latency),
        curve_ms=[
            (percent, milliseconds(run.latency.percentile(percent)))
            for percent in CURVE_PERCENTILES
            if run.latency.count * (100 - percent) >= 100
        ],
        steps_ms={name: percentiles_ms(one) for name, one in sorted(run.steps.items())},
        errors=dict(run.errors),
        unfinished=run.unfinished,
        timeline=[
            (
                slot.at_s,
                slot.latency.count / SLOT_S,
                milliseconds(slot.latency.percentile(99)),
                slot.measured,
            )
            for _, slot in sorted(run.slots.items())
        ],
        checkpoints_s=run.checkpoints_s,
        server_share=run.server_share,
        server_memory_bytes=run.server_memory_bytes,
        generator_share=run.generator_share,
        generator_limits=run.generator_limits(open_loop=open_loop),
    )
    if ceilings is not None:
        made.echo_throughput = ceilings.echo.throughput
        made.echo_p50_ms = milliseconds(ceilings.echo.latency.percentile(50))
        made.echo_generator_limits = ceilings.echo.generator_limits(open_loop=False)
        made.disk_operations = ceilings.disk_operations
        made.sync_p50_ms = milliseconds(ceilings.sync_one.percentile(50))
    return made


def median_of(values: list[float | None]) -> float | None:
    """Return the median of those that are known, or None if none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
