"""In which order several processes run all tests, so that none is left with a long one at the end.

xdist gives each process an even share of the tests, in their order, and moves what is left of a
share from its end. So each share begins with what takes long, or with what uses the same servers,
databases or browser: one process has these, one after the other, and the many short tests fill what
is left. What mostly waits is in one share, beside what needs a core all the time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

BEGINNINGS: Final = (
    ("streams", "persistence/streams", "deploy", "cli/supervising", "clients", "sdks"),
    ("ui", "examples", "http/documents"),
    ("proofs", "catalogue", "http/processes", "bench", "simulation"),
)
"""The folders that each share begins with."""


def in_shares(folders: Sequence[str], shares_count: int) -> list[int]:
    """Return the places of tests in the order in which they are to run, by their folders.

    A folder's tests stay in their order.
    """
    beginnings: list[list[int]] = [[] for _ in range(shares_count)]
    others: list[int] = []
    parts = {name: number for number, names in enumerate(BEGINNINGS) for name in names}
    begun: dict[str, list[int]] = {name: [] for name in parts}
    for place, folder in enumerate(folders):
        name = next((one for one in _and_above(folder) if one in parts), None)
        (others if name is None else begun[name]).append(place)
    for name, places in begun.items():
        beginnings[parts[name] % shares_count] += places
    ordered: list[int] = []
    for number, places in enumerate(beginnings):
        left_count = len(folders) - len(ordered)
        share_count = left_count // (shares_count - number)
        filling_count = max(share_count - len(places), 0)
        ordered += [*places, *others[:filling_count]]
        del others[:filling_count]
    return ordered + others


def _and_above(folder: str) -> list[str]:
    """Return a folder and those that it is in."""
    path = Path(folder)
    return [one.as_posix() for one in (path, *path.parents)]
