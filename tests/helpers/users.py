"""Users that nodes run functions as, if root runs the tests: others for each process of tests.

Several such processes may run at the same time, and a function may kill everything of its user.
"""

import os
from typing import Final

_EACH_COUNT: Final = 100_000
_FIRST: Final = 10_000_000 + _EACH_COUNT * (os.getpid() % 10_000)

UID_BASE: Final = _FIRST
"""The first of the users of a test's first node. A node has a thousand; the next has the next."""

ONE_USER: Final = _FIRST + _EACH_COUNT - 1
"""Who runs a node that has no users of its own to give."""
