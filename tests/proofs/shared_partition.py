"""What `partition.py` does with nodes that share the groups: each serves, and is cut off in turn.

Three nodes own a group each. A trouble cuts machines off from others, halts a node or sets clocks,
and says which nodes lose touch with what keeps the log. All the time a writer makes promises of all
groups at each node, and a prober asks each node for one that was acknowledged before, by a request
of its own and by `POST /`. Then:

- no node says that there is no such promise: that would be told from the past;
- a node that has lost touch answers nothing after 3 s: requests are refused, `POST /` waits; but
  one that still reaches the other nodes may hand on what they answer;
- within 15 s of the end of the trouble all groups take writes;
- what all clients saw has an order that explains it.

Before the next trouble all nodes have as many groups again.
"""

import contextlib
import itertools
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tests.helpers.shared_nodes import write_secret
from troth.persistence.placement import DEFAULT_RULE, by_rule, groups_by_shard
from troth.shards.streams.stream_opening import cluster_book

from .namespaces import Machines
from .partition import (
    CLOCK_S,
    HALT_S,
    PATIENCE_S,
    PORT,
    PROBE_INTERVAL_S,
    SILENT_AFTER_S,
    TROUBLE_S,
    Cuts,
    Findings,
    PartitionedEngine,
    PartitionedNode,
    PartitionProof,
    Probe,
    all_both,
)
from .shared_kill import holders_of
from .support import FAR_MS, NO_ANSWER, Client

MESH_PORT: Final = PORT + 2
VERSION: Final = "2026-04-01"
LONG_S: Final = 35.0
"""Longer than `POST /` waits."""
FLAPS_COUNT: Final = 3
FLAP_S: Final = 3.0
USE_INTERVAL_S: Final = 0.2
ANSWER_LIMIT_S: Final = 5.0
ENVELOPE_LIMIT_S: Final = 45.0
ENVELOPE_WAIT_S: Final = 30.0
MARGIN_S: Final = 5.0
"""How much longer than it may an answer takes on a machine that does much else."""

TROUBLES: Final = (
    "a node and all others",
    "a node and all others, for long",
    "a node with a machine of the engine and all others",
    "from a node to all others",
    "from all others to a node",
    "a node and the engine",
    "the engine and all nodes",
    "the nodes from each other",
    "from a node to another node",
    "a node and all others, flapping",
    "a node is halted",
    "two clocks are set",
)
TROUBLES_OF_SERVERS: Final = (
    "the leader of a stream and the other servers",
    "from the leader of a stream to the other servers",
    "the servers of the engine from each other",
)


class Trouble(NamedTuple):
    """Cuts, and the nodes that lose touch with the log by them, for a time."""

    cuts: Cuts
    cut_off: Sequence[PartitionedNode]
    duration_s: float


class Write(NamedTuple):
    """A promise that a node has made, and said so."""

    node: str
    group: int
    asked_s: float
    answered_s: float


@dataclass
class SharedFindings(Findings):
    """The same; times without writes are of the group that had the longest."""

    all_nodes_healed_s: list[float] = field(default_factory=list)
    """After how long every node took writes of all groups."""
    envelope_waits_s: list[float] = field(default_factory=list)
    """How long nodes that had lost touch let requests of `POST /` wait before they refused."""
    envelope_answers: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        """One line."""
        text = f"{super().__str__()}; all nodes within {max(self.all_nodes_healed_s):.1f} s"
        if self.envelope_answers:
            text += f"; POST / asked then: {_counted(self.envelope_answers)}"
        if self.envelope_waits_s:
            waits = sorted(self.envelope_waits_s)
            text += f", refused after {waits[0]:.1f} to {waits[-1]:.1f} s"
        return text


def _counted(statuses: Counter[int]) -> str:
    return ", ".join(f"{count}x {status}" for status, count in sorted(statuses.items()))


class SharedPartitionProof(PartitionProof):
    """One run."""

    troubles_passed_on = frozenset({"a node and the engine"})
    """A connection that was made while the node had no group is passed on to an owner for good."""

    @staticmethod
    def arguments_of_all(directory: Path) -> tuple[str, ...]:
        """Return arguments that all nodes have; the cluster's secret is in the directory."""
        return ("--cluster-secret-file", str(write_secret(directory)))

    @staticmethod
    def arguments_of_one(address: str) -> tuple[str, ...]:
        """Return arguments of the node at an address."""
        return ("--mesh-listen", f"{address}:{MESH_PORT}")

    def __init__(
        self,
        network: Machines,
        nodes: list[PartitionedNode],
        seed: int,
        engine: PartitionedEngine,
    ) -> None:
        super().__init__(network, nodes, seed, engine)
        with contextlib.closing(cluster_book(engine.url)) as book:
            description = network.within("clients", book.description)
        assert description is not None
        group_shards = description.identity.group_shards
        self._groups_count = len(group_shards)
        self._group_of_shard = groups_by_shard(group_shards)
        self._shard_of = by_rule(DEFAULT_RULE, sum(group_shards))
        self._writes: list[Write] = []
        self._newest: dict[int, str] = {}
        """A promise of each group that was acknowledged."""
        self._envelopes: dict[str, list[Probe]] = {node.name: [] for node in nodes}
        self._turns: Counter[str] = Counter()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What can happen to the nodes and to what keeps the logs."""
        is_one = len(self._engine.machines) == 1
        return TROUBLES if is_one else (*TROUBLES, *TROUBLES_OF_SERVERS)

    def _others(self) -> list[Callable[[], None]]:
        """Return what else is done in threads, besides clients' requests."""
        groups = range(self._groups_count)
        return [
            *(partial(self._use, node, group) for node in self._nodes for group in groups),
            *(partial(self._ask_envelopes, node) for node in self._nodes),
        ]

    def _node_for(self, random: Random) -> PartitionedNode:
        """Return the node that a client asks: any."""
        return random.choice(self._nodes)

    # Rounds

    def _run_rounds(self, rounds_count: int) -> None:
        self._wait_until_spread()
        self._wait_for_writes(time.monotonic())
        for number in range(rounds_count):
            name = self.chosen[number % len(self.chosen)]
            lasted_s = self._round(name)
            found = self.findings[name]
            print(
                f"round {number + 1}, {name}, for {lasted_s:.1f} s: no writes for "
                f"{found.without_owner_s[-1]:.1f} s, healed within {found.healed_s[-1]:.1f} s",
                flush=True,
            )

    def _round(self, trouble: str) -> float:
        """Bring a trouble once; return for how long, in s."""
        found = self.findings.setdefault(trouble, SharedFindings())
        assert isinstance(found, SharedFindings)
        began_s = time.monotonic()
        cut_off = self._bring(trouble)
        ended_s = time.monotonic()
        healed_s = self._wait_for_writes(ended_s)
        found.healed_s.append(min_of_all(healed_s, self._groups_count) - ended_s)
        found.all_nodes_healed_s.append(max(healed_s.values()) - ended_s)
        found.without_owner_s.append(self._longest_without_writes(began_s))
        for node in cut_off:
            self._judge(found, trouble, node)
        self._wait_until_spread()
        return ended_s - began_s

    def _judge(self, found: Findings, trouble: str, node: PartitionedNode) -> None:
        """Look at what a node has said that had lost touch."""
        super()._judge(found, trouble, node)
        assert isinstance(found, SharedFindings)
        began_s, ended_s = self._cut_s
        for probe in [*self._envelopes[node.name]]:
            if not began_s <= probe.asked_s < ended_s:
                continue
            if probe.answered_s < began_s + SILENT_AFTER_S:
                continue
            found.envelope_answers[probe.status] += 1
            waited_s = probe.answered_s - probe.asked_s
            if probe.status == 503:
                found.envelope_waits_s.append(waited_s)
            is_early = probe.answered_s < ended_s and 0 < probe.status < 500
            is_early &= trouble not in self.troubles_passed_on
            if is_early or waited_s > ENVELOPE_WAIT_S + MARGIN_S:
                self.problems.append(f"{trouble}: {node.name} answered POST / {probe}")

    def _bring(self, trouble: str) -> list[PartitionedNode]:
        """Bring trouble for a while, and end it; who had lost touch with the log all the time."""
        node = self._nodes[self._turns[trouble] % len(self._nodes)]
        self._turns[trouble] += 1
        random = self._random
        if trouble == "a node is halted":
            _halt(node, random.uniform(*HALT_S))
            return []
        if trouble == "two clocks are set":
            for one in random.sample(self._nodes, 2):
                if one.clock is not None:
                    one.clock.set(random.choice((-CLOCK_S, CLOCK_S)))
            time.sleep(random.uniform(*TROUBLE_S))
            return []
        brought = self._trouble_of(trouble, node)
        if trouble.endswith("flapping"):
            for _ in range(FLAPS_COUNT):
                self._cut_for(FLAP_S, brought.cuts)
                time.sleep(FLAP_S)
            return []
        self._cut_for(brought.duration_s, brought.cuts)
        return [*brought.cut_off]

    def _trouble_of(self, trouble: str, node: PartitionedNode) -> Trouble:
        """Return the cuts of a trouble of this node."""
        random = self._random
        servers = self._engine.machines
        names = [one.name for one in self._nodes]
        others = [one for one in names if one != node.name]
        duration_s = LONG_S if trouble.endswith("for long") else random.uniform(*TROUBLE_S)
        if trouble in TROUBLES_OF_SERVERS:
            cuts = self._cuts_of_servers(trouble)
            has_majority = not trouble.startswith("the servers")
            return Trouble(cuts, () if has_majority else self._nodes, duration_s)
        if trouble.startswith("a node with a machine"):
            machine = servers[self._nodes.index(node) % len(servers)]
            rest = [one for one in servers if one != machine]
            cut_off = [node] if rest else [one for one in self._nodes if one is not node]
            return Trouble(all_both([node.name, machine], [*others, *rest]), cut_off, duration_s)
        ways: dict[str, tuple[Cuts, Sequence[PartitionedNode]]] = {
            "from a node to all others": (
                [(node.name, one) for one in (*servers, *others)],
                [node],
            ),
            "from all others to a node": (
                [(one, node.name) for one in (*servers, *others)],
                [node],
            ),
            "a node and the engine": (all_both([node.name], servers), [node]),
            "the engine and all nodes": (all_both(names, servers), self._nodes),
            "the nodes from each other": ([*itertools.permutations(names, 2)], []),
            "from a node to another node": ([(node.name, random.choice(others))], []),
        }
        alone = (all_both([node.name], (*servers, *others)), [node])
        return Trouble(*ways.get(trouble, alone), duration_s)

    def _longest_without_writes(self, since_s: float) -> float:
        """Return the longest time in which no write of a group was acknowledged."""
        longest_s = 0.0
        for group in range(self._groups_count):
            at_s = sorted(
                one.answered_s
                for one in [*self._writes]
                if one.group == group and one.answered_s > since_s
            )
            gaps = (after - before for before, after in itertools.pairwise([since_s, *at_s]))
            longest_s = max(longest_s, *gaps)
        return longest_s

    def _wait_for_writes(self, since_s: float) -> dict[tuple[str, int], float]:
        """Wait until each node has taken writes of all groups; when it did the first of each."""
        wanted_count = len(self._nodes) * self._groups_count
        ends_s = since_s + PATIENCE_S
        while True:
            first: dict[tuple[str, int], float] = {}
            for one in [*self._writes]:
                if one.asked_s >= since_s:
                    first.setdefault((one.node, one.group), one.answered_s)
            if len(first) == wanted_count:
                return first
            assert time.monotonic() < ends_s, (first, [node.log()[-2500:] for node in self._nodes])
            time.sleep(0.05)

    def _wait_until_spread(self) -> None:
        """Wait until nodes have as many groups each."""
        ends_s = time.monotonic() + PATIENCE_S
        while not self._network.within("clients", self._is_spread):
            assert time.monotonic() < ends_s, [node.log()[-2500:] for node in self._nodes]
            time.sleep(0.2)

    def _is_spread(self) -> bool:
        counts = holders_of(self._engine.url)
        return (
            counts.total() == self._groups_count
            and len(counts) == min(len(self._nodes), self._groups_count)
            and max(counts.values()) - min(counts.values()) < 2
        )

    # In threads

    def _id_in(self, group: int, word: str) -> str:
        """Return a new id that lives in a group."""
        while True:
            made = f"{word}/{secrets.token_hex(6)}"
            if self._group_of_shard[self._shard_of(made)] == group:
                return made

    def _use(self, node: PartitionedNode, group: int) -> None:
        """Make promises of a group at a node, and ask it for one that any node has acknowledged."""
        self._network.enter("clients")
        with Client(node.url, timeout_s=ANSWER_LIMIT_S) as http:
            while not self._ended.wait(USE_INTERVAL_S):
                with contextlib.suppress(*NO_ANSWER):
                    self._write_at(http, node, group)
                identifier, asked_s, status = self._newest.get(group), time.monotonic(), 0
                if identifier is None:
                    continue
                with contextlib.suppress(*NO_ANSWER):
                    status, _ = http.call("GET", f"/promises/{identifier}")
                self._note(self._probes[node.name], node, asked_s, status)

    def _write_at(self, http: Client, node: PartitionedNode, group: int) -> None:
        """Make a promise, and note it if that is acknowledged. Raises what is in NO_ANSWER."""
        made = self._id_in(group, f"written-{node.name}")
        asked_s = time.monotonic()
        if http.call("POST", "/promises", {"id": made, "timeout": FAR_MS})[0] == 201:
            self._newest[group] = made
            self._writes.append(Write(node.name, group, asked_s, time.monotonic()))

    def _ask_envelopes(self, node: PartitionedNode) -> None:
        """Do as `_probe`, by `POST /`."""
        self._network.enter("clients")
        while not self._ended.wait(PROBE_INTERVAL_S * 5):
            for identifier in [*self._newest.values()]:
                asked_s, status = time.monotonic(), 0
                asked = {
                    "kind": "promise.get",
                    "head": {"corrId": "probe", "version": VERSION},
                    "data": {"id": identifier},
                }
                with (
                    Client(node.url, timeout_s=ENVELOPE_LIMIT_S) as http,
                    contextlib.suppress(*NO_ANSWER),
                ):
                    status, answer = http.call("POST", "/", asked)
                    status = answer["head"]["status"] if status == 200 else status
                self._note(self._envelopes[node.name], node, asked_s, status)

    def _note(
        self, probes: list[Probe], node: PartitionedNode, asked_s: float, status: int
    ) -> None:
        probes.append(Probe(asked_s, time.monotonic(), status))
        if status == 404:
            self.problems.append(f"{node.name} has told of the past: {probes[-1]}")


def min_of_all(healed_s: dict[tuple[str, int], float], groups_count: int) -> float:
    """Return when the last group had taken a write, at whatever node."""
    return max(
        min(at_s for (_, one), at_s in healed_s.items() if one == group)
        for group in range(groups_count)
    )


def _halt(node: PartitionedNode, duration_s: float) -> None:
    """Halt all processes of a node for a while."""
    halted = [node.process_id, *node.child_ids()]
    for one in halted:
        os.kill(one, signal.SIGSTOP)
    time.sleep(duration_s)
    for one in halted:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGCONT)
