"""Faults between groups that the simulation finds by itself, whatever tests of their own find.

They are those that the design of several processes names, and some that it names for nodes. Each is
planted once more, and a seed of the simulation of several groups, or of nodes that share them, has
to fail: no test there knows of the fault.
"""

from dataclasses import replace
from typing import Final

from .copy_faults import COPY_FAULTS
from .fault import Fault
from .home_faults import HOME_FAULTS
from .mesh_faults import MESH_FAULTS
from .stream_faults import STREAM_FAULTS

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

_SHARED_TEST: Final = (
    "tests/simulation/cluster/test_shared.py::test_nodes_that_share_groups_keep_their_promises"
)

_SHARED_NAMES: Final = (
    "messages to other groups do not say when they were sent",
    "time goes back at a takeover",
)
"""Those that nodes which share groups can meet, and processes of one machine cannot."""

_KNOWN: Final = {
    one.name: one for one in (*MESH_FAULTS, *HOME_FAULTS, *COPY_FAULTS, *STREAM_FAULTS)
}


def _planted_again(kind: str, name: str, test: str) -> Fault:
    """Return a known fault for a simulation that has to find it."""
    return replace(
        _KNOWN[name],
        name=f"{kind}: {name}",
        tests=(test,),
        is_quick=False,
        limit_s=_LIMIT_S,
        all_seeds=True,
    )


SIMULATED_FAULTS: tuple[Fault, ...] = (
    *(_planted_again("simulated", name, _TEST) for name in _NAMES),
    *(_planted_again("simulated nodes that share", name, _SHARED_TEST) for name in _SHARED_NAMES),
)
