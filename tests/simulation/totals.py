"""What many runs amount to: simulated hours, crashes, operations, and each fault by name."""

from collections import Counter

from .faults import (
    MOMENTS_OF_NODES,
    MOMENTS_OF_SHARERS,
    NOT_OF_NODES,
    OF_ENGINES,
    OF_LINKS,
    ONLY_BETWEEN,
    TABLE,
)
from .plan import Plan
from .simulation import Outcome


class Totals:
    """Sums over runs."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.simulated_s = 0.0
        self._could_be: set[str] = set()

    def add(self, outcome: Outcome) -> None:
        """Count a run that was right."""
        self.faults += outcome.faults
        self._could_be |= possible_faults(outcome.plan)
        self.simulated_s += outcome.simulated_s
        self.sums += Counter(
            {
                "runs": 1,
                "lives": outcome.lives_count,
                "crashes": outcome.crashes_count,
                "failures of the disk": outcome.disk_failures_count,
                "requests": outcome.requests_count,
                "answers": outcome.answers_count,
                "durable records": outcome.records_count,
                "checkpoints": outcome.checkpoints_count,
                "schedule slots": outcome.slots_count,
                "promises deleted by retention": outcome.deleted_count,
                "function tasks finished": outcome.executed_count,
                "promises of workflows ended": outcome.flows_count,
                "listeners told": outcome.unblocked_count,
                "bulk jobs ended": outcome.jobs_count,
                "snapshots of several groups": outcome.snapshots_count,
                "operations with an explanation": outcome.judged_count,
                "states of followers compared": outcome.comparisons_count,
                "steps of the scheduler": outcome.steps_count,
            }
        )

    @property
    def never_happened(self) -> list[str]:
        """The faults of the table that no run has met, but could have."""
        return [name for name in self._possible if not self.faults[name]]

    @property
    def _possible(self) -> list[str]:
        return [name for name in TABLE if name in self._could_be]

    def report(self, wall_s: float) -> str:
        """All numbers, for people."""
        lines = [f"{self.simulated_s / 3600:.1f} hours simulated in {wall_s:.0f} s:"]
        lines += [f"{count:10,} {name}" for name, count in self.sums.items()]
        lines.append(f"{self.faults.total():10,} faults:")
        lines += [f"{self.faults[name]:14,} {name}" for name in self._possible]
        return "\n".join(lines)


def possible_faults(plan: Plan) -> set[str]:
    """The names of faults that a run can meet."""
    left_out: set[str] = set()
    has_groups, has_nodes = plan.groups_count > 1, plan.nodes_count > 0
    if has_nodes:
        left_out |= {*NOT_OF_NODES, *ONLY_BETWEEN} - ({*OF_LINKS} if has_groups else set())
        left_out |= {*(MOMENTS_OF_NODES if has_groups else MOMENTS_OF_SHARERS)}
    else:
        left_out |= {*MOMENTS_OF_NODES, *MOMENTS_OF_SHARERS, *OF_ENGINES}
        left_out |= set() if has_groups else {*ONLY_BETWEEN}
    return {*TABLE} - left_out
