"""Faults between groups that the simulation finds by itself, whatever tests of their own find.

They are those that the design of several processes names. Each is planted once more, and a seed of
the simulation of several groups has to fail: no test there knows of the fault.
"""

from dataclasses import replace
from typing import Final

from .copy_faults import COPY_FAULTS
from .fault import Fault
from .home_faults import HOME_FAULTS
from .mesh_faults import MESH_FAULTS

_TEST: Final = "tests/simulation/test_groups.py::test_several_groups_keep_their_promises"
_LIMIT_S: Final = 3_600
"""All seeds end before that: a test that has no end counts as one that notices."""

_NAMES: Final = (
    "a message leaves before its outbox record is durable",
    "a snapshot without the barrier: messages pass it",
    "a pass does not keep a task held",
    "that an answer is written is not told to the group that has the messages",
    "a change of the catalog is answered before all processes have it",
    "a stream is given to a process that is not its home",
    "a promise is deleted without asking other groups",
    "retention does not heed what other groups still need",
    "process 0 is not told that an execution of another group has ended",
)

_KNOWN: Final = {one.name: one for one in (*MESH_FAULTS, *HOME_FAULTS, *COPY_FAULTS)}

SIMULATED_FAULTS: tuple[Fault, ...] = tuple(
    replace(
        _KNOWN[name],
        name=f"simulated: {name}",
        tests=(_TEST,),
        is_quick=False,
        limit_s=_LIMIT_S,
        all_seeds=True,
    )
    for name in _NAMES
)
