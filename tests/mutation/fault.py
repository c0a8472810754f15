"""What a planted fault is.

`old` has to be in the file exactly once; choose it short, and so that a change around it does not
touch it. A fault whose text is gone is an error of the list that has it, not a fault that was
caught.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One planted fault. `tests` are what pytest is given; they run for at most `limit_s`.

    With `all_seeds` random tests run with all their seeds, until one finds it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    is_quick: bool = False
    limit_s: int = 120
    all_seeds: bool = False


def fault(name: str, file: str, old: str, new: str, *tests: str, is_quick: bool = False) -> Fault:
    """A fault, with the tests by their path within `tests/`."""
    return Fault(name, file, old, new, tuple(f"tests/{test}" for test in tests), is_quick)
