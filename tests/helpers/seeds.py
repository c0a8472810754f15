"""How many seeds random tests run: a part of them in `make test`, all of them in `make seeds`.

Such a test carries the marker `seeds`. Where a test must have seen something, it goes on until it
has, whatever number this gives.
"""

import os
from typing import Final

VARIABLE: Final = "TESTS_SEEDS"
RUNS_ALL: Final = os.environ.get(VARIABLE) == "all"


def seeds_count(some_count: int, all_count: int) -> int:
    """Return how many seeds are run: `all_count` in `make seeds`, else `some_count`."""
    assert 0 < some_count < all_count
    return all_count if RUNS_ALL else some_count


def seeds(first: int, some_count: int, all_count: int) -> range:
    """Return the seeds to run, from `first` on; see `seeds_count`."""
    return range(first, first + seeds_count(some_count, all_count))
