"""How likely each fault is, by its name; while all is calm none strikes.

Those of the first group are tried whenever they could strike; those of the second strike one after
the other, with `mean_pause_s` between them, each as often as its weight says.
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Chances:
    """Probabilities (0 to 1), weights, and a time in seconds."""

    # What may happen to any step, message or start
    worker_dies: float = 0.03
    worker_hangs: float = 0.03
    worker_outlives_its_lease: float = 0.05
    subscriber_hangs_up: float = 0.05
    answer_is_lost: float = 0.03
    push_is_refused: float = 0.10
    push_comes_late_and_looks_refused: float = 0.05
    push_looks_refused: float = 0.05
    push_is_doubled: float = 0.10
    disk_fails_while_starting: float = 0.15

    # What strikes now and then, by weight
    mean_pause_s: float = 4
    cut_power: float = 1
    cut_power_while_writing: float = 1
    kill: float = 1
    fail_disk: float = 1
    stop: float = 1
    jump: float = 1
    change_pace: float = 1


def parse_chances(given: list[str]) -> Chances:
    """Chances from words like `kill=0`. Raises ValueError."""
    names = {field.name for field in fields(Chances)}
    chances = Chances()
    for word in given:
        name, _, number = word.partition("=")
        if name not in names:
            raise ValueError(f"{name!r} is no chance; there are: {', '.join(sorted(names))}")
        chances = replace(chances, **{name: float(number)})
    return chances
