"""What the processes of a server ask and tell one another besides commands for shards.

Each subject has a module of its own in this room, with its kinds of calls and notes
(`shards/mesh/calls.py`) and their handlers; this one lists them. `register` runs once in each
process of several, when its parts are made: before a link is up, so no call comes too early.
"""

from troth.http.api.context import Api
from troth.http.bulk.progress import share_progress
from troth.http.metrics.of_processes import MetricsOfAll
from troth.shards.gathered.debugging import STOPPED
from troth.shards.gathered.retention import AllSweepers
from troth.shards.gathered.watches import OtherWatchers
from troth.shards.gathered.whole import AllProcesses
from troth.shards.mesh.calls import ProcessCalls


def register(calls: ProcessCalls, api: Api) -> None:
    """Register all handlers of a process."""
    api.whole = AllProcesses(calls, api.shards, api.series)
    api.other_watchers = OtherWatchers(calls, api.shards.watch)
    api.scrape = MetricsOfAll(calls, api.metrics).render
    api.sweeper = AllSweepers(calls)
    share_progress(calls, api)
    if not api.settings.debug_operations:
        # Process 0 may have begun with other settings, while one after the other is replaced.
        calls.hear(STOPPED, lambda *_: None)
