"""Every fault that a run can meet: its name, how probable it is, and at what.

Nothing goes wrong in a simulation unless `Faults.strikes` or `Faults.moment` has said so. Each name
has a generator of its own, named after the seed, and each time a fault strikes it has a number: so
a fault, or one occurrence of it (`power_cut#3`), can be left out of a run and the rest stays random
in the same way. That is what `shrinking.py` does.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, NamedTuple


class Fault(NamedTuple):
    """`probability` is that of one draw; `at` says what is drawn for."""

    probability: float
    at: str
    meaning: str


MOMENT: Final = "moment"
"""Moments of trouble come every few seconds, and each brings one fault."""

BETWEEN: Final = "moment between groups"
"""The same, only if there are several groups: moments that concern more than one process."""

OF_NODES: Final = "moment of nodes"
"""The same, with several nodes on a stream, instead of the first kind."""

OF_SHARERS: Final = "moment of nodes that share"
"""The same, with several nodes that share groups, instead of the first two kinds."""

TABLE: Final[dict[str, Fault]] = {
    # How lives of the server end
    "power_cut": Fault(0.05, MOMENT, "between two steps of anything"),
    "power_cut_in_disk_operation": Fault(0.09, MOMENT, "in one of the next disk operations"),
    "power_cut_within_batch": Fault(0.08, MOMENT, "one shard's records are written, others not"),
    "power_cut_at_await": Fault(0.09, MOMENT, "after any step of any task, some steps later"),
    "power_cut_in_checkpoint": Fault(0.06, MOMENT, "just before or after the next commit"),
    "kill": Fault(0.03, MOMENT, "`kill -9`: the machine stays"),
    "kill_at_await": Fault(0.07, MOMENT, "`kill -9` after any step of any task"),
    "clean_stop": Fault(0.05, MOMENT, "asked to stop, in time or not"),
    "power_cut_while_starting": Fault(0.05, "start", "in a disk operation of recovery"),
    # Disks
    "sync_fails": Fault(0.06, MOMENT, "EIO or ENOSPC; what was written may be there or not"),
    "write_fails": Fault(0.06, MOMENT, "half of a write, a create or a rename"),
    "disk_full": Fault(0.06, MOMENT, "no byte more, for some seconds"),
    "disk_slow": Fault(0.06, MOMENT, "syncs take up to 0.2 s, until it is fast again"),
    "disk_fast": Fault(0.03, MOMENT, "the end of being slow"),
    "checkpoint_fails": Fault(0.04, MOMENT, "the next commit is refused"),
    "checkpoint_done_but_failed": Fault(0.04, MOMENT, "the next commit is done, and said to fail"),
    "start_fails": Fault(0.10, "start", "a sync fails during recovery"),
    "log_rots": Fault(0.08, "start", "a bit of a confirmed frame; must be refused, then restored"),
    "checkpoint_rots": Fault(0.08, "start", "a bit of a row; must be refused, then restored"),
    "unsynced_lost": Fault(0.25, "power cut", "nothing that was not synced survives"),
    "unsynced_torn": Fault(0.50, "power cut", "parts of it survive: cut, or some sectors"),
    # Clocks
    "clock_forward": Fault(0.05, MOMENT, "set up to 30 s ahead"),
    "clock_back": Fault(0.05, MOMENT, "set up to 20 s back"),
    # The network between clients and the server
    "request_lost": Fault(0.01, "request", "never arrives"),
    "request_late": Fault(0.03, "request", "overtaken by later ones"),
    "request_doubled": Fault(0.01, "request", "arrives again within a second"),
    "answer_lost": Fault(0.03, "request", "done, but its client is told of a failure"),
    "client_vanishes": Fault(0.02, "request", "hangs up before the answer"),
    # Receivers of messages
    "push_lost": Fault(0.03, "push", "looks delivered and is not"),
    "push_refused": Fault(0.07, "push", "refused at once"),
    "push_late": Fault(0.05, "push", "arrives seconds later, after others"),
    "push_doubled": Fault(0.10, "push", "arrives twice"),
    "push_answer_lost": Fault(0.10, "push", "arrives, and looks refused"),
    "push_hangs": Fault(0.03, "push", "no answer until the sender gives up"),
    "target_dead": Fault(0.03, MOMENT, "every push is refused for some seconds"),
    "subscriber_hangs_up": Fault(0.05, "message", "after it was written, before it was confirmed"),
    # Workers, and nodes that run functions
    "worker_dies": Fault(0.03, "step of a worker", "and comes back as another process"),
    "worker_hangs": Fault(0.03, "message", "for up to 30 s, with its connection open"),
    "worker_returns": Fault(0.05, "workflow", "given back undone"),
    "stream_rotates": Fault(0.05, "message", "a worker's stream ends in passing, by the server"),
    "worker_dawdles": Fault(0.05, "task", "holds it for three leases, with heartbeats"),
    "node_dies": Fault(0.02, "step of a node", "with all that it runs"),
    "node_silent": Fault(0.06, "function task", "no report until the lease is lost"),
    "node_returns": Fault(0.05, "function task", "given back undone"),
    "stream_ends": Fault(0.05, "order", "a node's stream ends before the order was written"),
    "call_hangs": Fault(0.10, "call", "an HTTP function answers after its time"),
    # Several groups: a process for each, and links between them
    "kill_of_all": Fault(0.06, BETWEEN, "`kill -9` of all processes"),
    "power_cut_of_all": Fault(0.06, BETWEEN, "all processes lose power"),
    "link_breaks": Fault(0.28, BETWEEN, "one link, with all that is on its way, for up to 5 s"),
    "process_cut_off": Fault(0.20, BETWEEN, "all links of a process, for up to 8 s"),
    "process_hangs": Fault(0.20, BETWEEN, "its links say and hear nothing, for up to 6 s"),
    "link_slow": Fault(0.20, BETWEEN, "one link, up to a second a piece, for up to 10 s"),
    "piece_late": Fault(0.005, "piece of a link", "up to 1.5 s"),
    "end_unheard": Fault(0.30, "end of a process", "its links do not end, they are silent"),
    # Several nodes on one stream, and the engine that keeps it
    "owner_killed": Fault(0.12, OF_NODES, "`kill -9` of the owner"),
    "owner_killed_at_await": Fault(0.10, OF_NODES, "`kill -9` after any step of any task"),
    "owner_killed_with_disk": Fault(0.06, OF_NODES, "its directory is gone as well"),
    "owner_stopped": Fault(0.08, OF_NODES, "asked to stop, in time or not"),
    "node_killed": Fault(0.10, OF_NODES, "`kill -9` of any node, which may stand by"),
    "node_halted": Fault(0.16, OF_NODES, "SIGSTOP for up to 20 s, mostly of the owner"),
    "cut_from_stream": Fault(0.16, OF_NODES, "a node, for up to 20 s, mostly the owner"),
    "cut_from_clients": Fault(0.04, OF_NODES, "a node, for up to 10 s"),
    "leader_lost": Fault(0.12, OF_NODES, "no leader for 4 to 9 s; the old one may not know"),
    "node_clock_set": Fault(0.06, OF_NODES, "of one node, by up to 4.8 s"),
    # Several nodes that share groups
    "group_owner_killed": Fault(0.12, OF_SHARERS, "`kill -9` of one process that owns a group"),
    "group_owner_killed_at_await": Fault(0.10, OF_SHARERS, "the same after any step of any task"),
    "group_owner_stopped": Fault(0.06, OF_SHARERS, "asked to stop, in time or not"),
    "sharer_killed": Fault(0.08, OF_SHARERS, "`kill -9` of all processes of a node"),
    "sharer_killed_with_disk": Fault(0.05, OF_SHARERS, "its directory is gone as well"),
    "sharer_halted": Fault(0.13, OF_SHARERS, "SIGSTOP of a node for up to 20 s"),
    "sharer_cut_from_streams": Fault(0.10, OF_SHARERS, "a node, for up to 20 s"),
    "sharer_cut_from_clients": Fault(0.03, OF_SHARERS, "a node, for up to 10 s"),
    "sharer_cut_from_others": Fault(0.08, OF_SHARERS, "its links to other nodes, for up to 10 s"),
    "way_cut": Fault(0.08, OF_SHARERS, "from one node to another, and not back, for up to 10 s"),
    "way_slow": Fault(0.05, OF_SHARERS, "up to a second a piece, for up to 10 s"),
    "stream_leader_lost": Fault(0.06, OF_SHARERS, "one group's, for 4 to 9 s"),
    "sharer_clock_set": Fault(0.06, OF_SHARERS, "of one node, by up to 4.8 s"),
    # The engine that keeps streams
    "append_lost": Fault(0.002, "append", "never arrives"),
    "append_late": Fault(0.02, "append", "lands up to 8 s later"),
    "append_refused": Fault(0.02, "append", "because that very proposal is on its way"),
    "append_unreplicated": Fault(0.03, "append", "shown, not acknowledged, gone with its leader"),
    "append_answer_late": Fault(0.01, "append", "it stands there; that is heard up to 4.5 s later"),
    "append_answer_lost": Fault(0.01, "append", "it stands there, and nobody says so"),
    "replica_rots": Fault(0.0004, "read", "a bit of a frame that is shown"),
}

MOMENTS: Final = tuple(name for name, fault in TABLE.items() if fault.at == MOMENT)
MOMENTS_BETWEEN: Final = tuple(name for name, fault in TABLE.items() if fault.at == BETWEEN)
MOMENTS_OF_NODES: Final = tuple(name for name, fault in TABLE.items() if fault.at == OF_NODES)
MOMENTS_OF_SHARERS: Final = tuple(name for name, fault in TABLE.items() if fault.at == OF_SHARERS)
OF_ENGINES: Final = (
    *("append_lost", "append_late", "append_refused", "append_answer_late"),
    *("append_unreplicated", "append_answer_lost", "replica_rots"),
)
"""What only a run meets whose log is in a stream."""
NOT_OF_NODES: Final = (
    *MOMENTS,
    *("power_cut_while_starting", "start_fails", "log_rots", "checkpoint_rots"),
    *("unsynced_lost", "unsynced_torn"),
)
"""What a run with several nodes on a stream does not meet."""
OF_LINKS: Final = ("piece_late", "end_unheard")
"""What a run with one group does not meet, however many nodes it has."""
ONLY_BETWEEN: Final = (*MOMENTS_BETWEEN, *OF_LINKS)
"""What only a run with several groups on one machine meets, but for those of links."""
for _names in (MOMENTS, MOMENTS_BETWEEN, MOMENTS_OF_NODES, MOMENTS_OF_SHARERS):
    assert 0.99 < sum(TABLE[name].probability for name in _names) < 1.01, "each moment brings one"


class Faults:
    """The luck of one run. `note` is told what strikes."""

    def __init__(
        self,
        seed: int,
        without: frozenset[str] = frozenset(),
        chances: tuple[tuple[str, float], ...] = (),
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Leave out the faults, or numbered occurrences of faults, in `without`.

        `chances` replace probabilities of the table.
        """
        self._chances = {name: fault.probability for name, fault in TABLE.items()} | dict(chances)
        self.counts: Counter[str] = Counter()
        self.struck: list[str] = []
        self.is_over = False
        self._without = without
        self._note = note
        self._randoms = {name: Random(f"{seed}/{name}") for name in TABLE}
        self._moments = Random(f"{seed}/{MOMENT}")
        self._moments_between = Random(f"{seed}/{BETWEEN}")
        self._moments_of_nodes = Random(f"{seed}/{OF_NODES}")
        self._numbers: Counter[str] = Counter()

    def random(self, name: str) -> Random:
        """The generator for the details of a fault."""
        return self._randoms[name]

    def strikes(self, name: str) -> bool:
        """Draw for a fault: whether it happens here."""
        if self.is_over or self._randoms[name].random() >= self._chances[name]:
            return False
        return self._happens(name)

    def missed(self, name: str) -> None:
        """What was about to happen found nothing to happen to."""
        self.counts[name] -= 1

    def moment(self, names: tuple[str, ...] = MOMENTS) -> str | None:
        """The fault that a moment of trouble brings; None if that one is left out."""
        weights = [self._chances[name] for name in names]
        if not any(weights):
            return None
        luck = self._moments if names is MOMENTS else self._moments_between
        if names in (MOMENTS_OF_NODES, MOMENTS_OF_SHARERS):
            luck = self._moments_of_nodes
        (name,) = luck.choices(names, weights)
        return name if self._happens(name) else None

    def _happens(self, name: str) -> bool:
        self._numbers[name] += 1
        occurrence = f"{name}#{self._numbers[name]}"
        if name in self._without or occurrence in self._without:
            return False
        self.counts[name] += 1
        self.struck.append(occurrence)
        self._note(occurrence)
        return True


def parse_chances(given: Iterable[str]) -> tuple[tuple[str, float], ...]:
    """Probabilities from words like `kill=0`. Raises ValueError."""
    chances = []
    for word in given:
        name, _, number = word.partition("=")
        if name not in TABLE:
            raise ValueError(f"{name!r} is no fault; there are: {', '.join(TABLE)}")
        chances.append((name, float(number)))
    return tuple(chances)
