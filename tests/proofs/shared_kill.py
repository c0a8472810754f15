"""What `cluster_kill.py` does with nodes that share the groups: all serve, and one at a time ends.

Half of the clients ask the node that ends, the others one that goes on: those end with the first
refusal, as the former do with their node. Then all groups have owners among the others, everything
is compared there with what the clients were told, and the node comes back and gets groups again.
"""

import contextlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.helpers.server import free_ports
from tests.helpers.shared_nodes import HOST, write_secret
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.streams.stream_opening import cluster_book

from .cluster_kill import PATIENCE_S, ClusterProof, ProofEngine
from .journal import Journal, random_operation
from .kill import Victim
from .support import FAR_MS, NO_ANSWER, Client

_WRITES_COUNT = 40
"""Promises with so many ids are in all groups."""


def holders_of(url: str) -> Counter[str]:
    """Return how many groups nodes have; nothing if the engine does not say so now."""
    with contextlib.closing(cluster_book(url)) as book, contextlib.suppress(StreamUnreachable):
        return Counter(one.node for one in book.holders())
    return Counter()


class SharedProof(ClusterProof):
    """One run over the ends of many nodes that share groups."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        say: Callable[[str], object],
        engine: ProofEngine,
        nodes_count: int,
    ) -> None:
        secret = write_secret(directory)
        names = "abcdefgh"[:nodes_count]
        ports = free_ports(nodes_count)
        mesh = {
            name: ("--mesh-listen", f"{HOST}:{port}", "--cluster-secret-file", str(secret))
            for name, port in zip(names, ports, strict=True)
        }
        super().__init__(directory, seed, say, engine, nodes_count, mesh)
        self._url = engine.arguments[engine.arguments.index("--log") + 1]
        self._is_round_over = threading.Event()
        self._other = self._server
        """One that goes on in this round."""

    def run_all(self, rounds_count: int) -> None:
        """Run all rounds. Raises AssertionError at the first thing that is wrong."""
        try:
            for node in self._nodes:
                node.start_unready()
            self._wait_until_spread(self._nodes)
            self.run_rounds(rounds_count)
        finally:
            for node in self._nodes:
                node.__exit__(None, None, None)

    def _wait_until_spread(self, nodes: list[Victim]) -> None:
        """Wait until these nodes have as many groups each, and are ready."""
        names = {node.directory.name for node in nodes}

        def is_spread() -> bool:
            counts = holders_of(self._url)
            are_all = counts.total() == self._engine.groups_count
            return (
                are_all and {*counts} == names and max(counts.values()) - min(counts.values()) < 2
            )

        try:
            self._wait_until(is_spread, nodes[0])
        except AssertionError as error:
            error.add_note(f"groups of nodes: {dict(holders_of(self._url))}; wanted: {names}")
            raise
        for node in nodes:
            self._wait_until(lambda: self._is_ready(node), node)  # noqa: B023  it is over then

    def _round_of(self, number: int, end: str) -> None:
        ending = self._nodes[number % len(self._nodes)]
        others = [node for node in self._nodes if node is not ending]
        self._server, self._other = ending, self._random.choice(others)
        self._is_round_over.clear()
        journals, clients, workers = self._start_load(number, is_of_nodes=True)
        self._keep_short(self._other)
        begun_s = time.monotonic()
        self._end(ending, end)
        for node in others:
            self._wait_until(lambda: self._is_ready(node), node)  # noqa: B023  it is over then
        self.away_s.setdefault(end, []).append(time.monotonic() - begun_s)
        self._server = self._other
        self._is_round_over.set()
        if end == "halt":
            self._go_on(ending, f"s{number}")
        for thread in (*clients, *workers):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "it got neither an answer nor an end"
        self._engine.mend()
        # One that was halted may have groups again before the clients of this round have ended.
        present = self._nodes if end == "halt" else others
        self._wait_until_spread(present)  # a process that leaves its group closes its connections
        self._wait_until_writes(number)
        self.report.kills_count += end != "stop"
        self.report.doubts_count += sum(journal.doubt is not None for journal in journals)
        # A process whose group moves ends its connections, also the one that asks what there is.
        self._wait_until_spread(present)
        with self._asking() as http:
            self._settle(http, journals, stopped_well=False)
        if end == "kill with the disk":
            shutil.rmtree(ending.data)
        if end != "halt":
            ending.start_unready()
        self._wait_until_spread(self._nodes)

    def _wait_until_writes(self, number: int) -> None:
        """Wait until all groups take writes: a node may be ready, and have its engine no more."""
        ids = [f"w{number}.{place}" for place in range(_WRITES_COUNT)]

        def is_written() -> bool:
            with (
                contextlib.suppress(*NO_ANSWER),
                Client(self._server.url, timeout_s=PATIENCE_S) as http,
            ):
                status = http.call("POST", "/promises", {"id": ids[-1], "timeout": FAR_MS})[0]
                assert status in (201, 403, 503), status  # 403: an earlier try has made it
                return status != 503
            return False

        while ids:
            self._wait_until(is_written, self._server)
            ids.pop()

    def _is_ready(self, node: Victim) -> bool:
        """Return whether a node sees an owner of each group, which answers."""
        if not super()._is_ready(node):
            return False
        with contextlib.suppress(*NO_ANSWER), Client(node.url, timeout_s=PATIENCE_S) as http:
            return http.call("GET", "/promises?id=nothing*")[0] == 200  # all are asked
        return False

    def _go_on(self, owner: Victim, name: str) -> None:
        """Let a node go on that was halted: it must not tell of a state without what is new."""
        body = {"id": name, "timeout": FAR_MS}
        with Client(self._server.url, timeout_s=PATIENCE_S) as http:
            assert http.call("POST", "/promises", body)[0] == 201
        answers = self._asked_going_on(owner, name)
        assert answers, "it got neither an answer nor an end"
        assert answers[0] != 404, "a node has told of the past"

    def _load(self, journal: Journal, random: Random) -> None:
        """Send until the node is gone, or another one refuses something, or the round is over."""
        is_of_other = int(journal.client.rpartition("c")[2]) % 2
        node = self._other if is_of_other else self._server
        number = 0
        try:
            with Client(node.url, timeout_s=PATIENCE_S) as http:
                while journal.send(http, random_operation(journal, random, number)):
                    number += 1
                    if self._is_round_over.is_set():
                        return
        except Exception as error:
            self._ledger.problems.append(f"{journal.client}: {error!r}")
            raise
