"""What the processes of a server ask and tell one another besides commands for shards.

Each subject has a module of its own in this room, with its kinds of calls and notes
(`shards/mesh/calls.py`) and their handlers; this one lists them. `register` runs once in each
process of several, when its parts are made: before a link is up, so no call comes too early.
"""

from troth.http.api.context import Api
from troth.shards.mesh.calls import ProcessCalls


def register(calls: ProcessCalls, api: Api) -> None:
    """Register all handlers of a process."""
