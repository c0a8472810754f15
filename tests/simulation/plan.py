"""What one run is: everything that decides it, as a value that a command line can name."""

from dataclasses import dataclass
from random import Random
from typing import Final

STEPS_COUNT: Final = 800
GROUPS_LIMIT_COUNT: Final = 4
PACES: Final = (1.0, 10.0, 100.0, 1_000.0)
"""How long everybody rests between requests: from a busy minute to a quiet day."""
PACES_OF_GROUPS: Final = (1.0, 1.0, 10.0)
"""With several groups, whose links say something all the time."""
PACES_OF_NODES: Final = (1.0, 1.0, 10.0)
"""With several nodes, who do that too."""

CRONS: Final = {
    1.0: "*/5 * * * * *",
    10.0: "30 * * * * *",
    100.0: "0 */5 * * * *",
    1_000.0: "@hourly",
}
"""How often the schedule runs, by pace."""


@dataclass(frozen=True)
class Plan:
    """One run. `steps_count` requests are made in trouble; `without` is left out.

    `without` names faults (`power_cut`), occurrences of faults (`power_cut#3`) and kinds of clients
    (`client:lock`). A log that checkpoints trim is not checked as a whole at the end.
    """

    seed: int
    steps_count: int = STEPS_COUNT
    without: frozenset[str] = frozenset()
    reboots_after_disk_failure: bool = True
    makes_checkpoints: bool = True
    trims_log: bool = True
    pace: float = 1.0
    groups_count: int = 1
    nodes_count: int = 0
    """If there are any, they have one log in a stream, or share groups if there are several."""
    chances: tuple[tuple[str, float], ...] = ()
    """Probabilities instead of those in the table of faults."""

    @property
    def patience(self) -> float:
        """How much rarer than in a busy minute faults are, and what the server does by itself."""
        return float(self.pace**0.7)

    def __str__(self) -> str:
        """The arguments that name this run."""
        parts = [f"--seed {self.seed} --steps {self.steps_count}"]
        if self.groups_count > 1:
            parts.append(f"--groups {self.groups_count}")
        if self.nodes_count:
            parts.append(f"--nodes {self.nodes_count}")
        if self.without:
            parts.append(f"--without {','.join(sorted(self.without))}")
        parts += [f"--chance {name}={number:g}" for name, number in self.chances]
        return " ".join(parts)


def plan_of(
    seed: int,
    steps_count: int = STEPS_COUNT,
    without: frozenset[str] = frozenset(),
    chances: tuple[tuple[str, float], ...] = (),
    groups_count: int = 1,
    nodes_count: int = 0,
) -> Plan:
    """The run of a seed: the seed also decides the setting.

    With 0 groups it decides their number as well, which is two at least. Several nodes share them.
    """
    random = Random(f"{seed}/plan")
    paces = PACES if groups_count == 1 else PACES_OF_GROUPS
    if nodes_count:
        paces = PACES_OF_NODES
    return Plan(
        seed,
        steps_count,
        without,
        reboots_after_disk_failure=random.random() < 0.6,
        makes_checkpoints=random.random() < 0.7,
        trims_log=random.random() < 0.7,
        pace=random.choice(paces),
        groups_count=groups_count or random.randint(2, GROUPS_LIMIT_COUNT),
        nodes_count=nodes_count,
        chances=chances,
    )
