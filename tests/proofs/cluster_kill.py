"""Proof: the owner of a log is killed or halted under load, and another node goes on with it.

    python -m tests.proofs.cluster_kill --nodes 2 --rounds 30 --engine postgres --seed 1
    python -m tests.proofs.cluster_kill --nodes 2 --rounds 8 --groups 2 --seed 1
    python -m tests.proofs.cluster_kill --nodes 3 --rounds 8 --groups 4 --shared --seed 1
    python -m tests.proofs.cluster_kill --nodes 2 --rounds 30 --engine nats --seed 1
    python -m tests.proofs.cluster_kill --nodes 2 --rounds 16 --engine nats --groups 2 --seed 1

As `kill.py`, with nodes that have one log, or those of several groups, in an engine, which the
proof starts for itself: a PostgreSQL server, or three NATS servers. One of the nodes owns the log,
the others stand by. Each round ends the owner at a random moment: by kill -9, also with its disk,
by SIGSTOP until another has taken over, or by SIGTERM. With NATS also by kill -9 of it and of NATS
servers at the same moment: the one that leads the stream, the same and its disk, two of three, or
all. Then everything is compared, at the new owner, with what the clients were told. A node that was
halted is asked for what it cannot know, before it goes on. How long there was no owner is reported.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.helpers.nats import nats_cluster
from tests.helpers.postgres import postgres_server
from troth.shards.streams.stream_opening import cluster_book, new_cluster

from .journal import Journal, is_unknown, random_operation
from .kill import ARGUMENTS, Proof, Victim
from .support import FAR_MS, NO_ANSWER, Client
from .workers import Worker

PATIENCE_S: Final = 120.0
"""For a machine on which much else runs; the report says what it was."""
STEP_S: Final = 0.01
ENDS: Final = ("kill", "halt", "kill with the disk", "stop")
_HARMLESS: Final = {"/tasks/complete", "/tasks/heartbeat", "/locks/acquire"}
"""What journals ask with to find out what there is."""
OUTAGE_S: Final = 2.0
"""How long no majority of the servers of an engine runs."""

_OWNED: Final = re.compile(r"^troth_stream_owner\S* 1\.0$", re.MULTILINE)
_NO_SNAPSHOT: Final = re.compile(r"^troth_stream_snapshots_total\S* 0\.0$", re.MULTILINE)

STANDS_BY: Final = "standing by until the owner"


def _nothing() -> None:
    pass


class ProofEngine(NamedTuple):
    """What keeps the log. `arguments` tell a node of it; a new log is in it.

    `own_ends` are what can happen to it when an owner is killed, and `mend` puts that right.
    """

    arguments: Sequence[str]
    own_ends: Mapping[str, Callable[[], None]] = MappingProxyType({})
    mend: Callable[[], None] = _nothing
    groups_count: int = 1


class PatientClient(Client):
    """A client that asks again while nothing was done, and whenever asking again does no harm.

    On a busy machine an owner may be too slow, and lose its group, whenever it is asked.
    """

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """As `Client.call`."""
        ends_s = time.monotonic() + PATIENCE_S
        is_harmless = method == "GET" or path in _HARMLESS
        while True:
            try:
                status, answer = super().call(method, path, body, headers)
            except NO_ANSWER:
                if not is_harmless or time.monotonic() > ends_s:
                    raise
            else:
                is_refusal = status == 503 and (is_harmless or not is_unknown(status, answer))
                if not is_refusal or time.monotonic() > ends_s:
                    return status, answer
            time.sleep(STEP_S)


class ClusterProof(Proof):
    """One run over the ends of many owners of one log."""

    _worker_patience_s = PATIENCE_S

    def __init__(
        self,
        directory: Path,
        seed: int,
        say: Callable[[str], object],
        engine: ProofEngine,
        nodes_count: int,
        own_arguments: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Start nothing yet. `own_arguments` are those of nodes by their names."""
        self._engine = engine
        shared = ARGUMENTS if engine.groups_count == 1 else _without(ARGUMENTS, "--shards")
        arguments = (*_without(shared, "--segment-bytes"), *engine.arguments)
        super().__init__(directory / "a", seed, say, arguments)
        names = "abcdefgh"[:nodes_count]
        self._nodes = [
            Victim(directory / name, *arguments, "--node", name, *own_arguments.get(name, ()))
            for name in names
        ]
        self._server = self._nodes[0]
        self.away_s: dict[str, list[float]] = {}
        """How long there was no owner that answered, by the way in which the last one ended."""

    def run_all(self, rounds_count: int) -> None:
        """Run all rounds. Raises AssertionError at the first thing that is wrong."""
        try:
            self._server.start()
            for node in self._nodes[1:]:
                self._stand_by(node)
            self.run_rounds(rounds_count)
        finally:
            for node in self._nodes:
                node.__exit__(None, None, None)

    def run_rounds(self, rounds_count: int) -> None:
        """Run the rounds, then see that all that was begun comes to its end."""
        ends = (*ENDS, *self._engine.own_ends)
        for number in range(rounds_count):
            end = ends[number % len(ends)]
            self._round_of(number, end)
            self._say(f"round {number + 1}, {end}: {self.report}")
        self._drain()
        with self._asking() as http:
            self._verify(http, self._journals)
            self._verify_slots(http)
        self.report.leases_count = len(self._ledger.leases)
        self.report.redelivered_count = self._ledger.redelivered_count

    def _stand_by(self, node: Victim) -> None:
        """Start a node, and wait until it reads what the owner writes."""
        begun_count = _stood_by_count(node)
        node.start_unready()
        expected_count = begun_count + self._engine.groups_count
        self._wait_until(lambda: _stood_by_count(node) >= expected_count, node)
        with Client(node.url, timeout_s=PATIENCE_S) as http:
            status, answer = http.call("GET", "/promises/any")
            assert (status, answer["error"]["code"]) == (503, 50305), "it answers nothing yet"

    def _round_of(self, number: int, end: str) -> None:
        owner = self._server
        journals, clients, workers = self._start_load(number, is_of_nodes=True)
        self._keep_short(owner)
        begun_s = time.monotonic()
        status = self._end(owner, end)
        self._server = self._next_owner(owner)
        self.away_s.setdefault(end, []).append(time.monotonic() - begun_s)
        if end == "halt":
            self._go_on(owner, f"s{number}")
        for thread in (*clients, *workers):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "it got neither an answer nor an end"
        self.report.kills_count += end != "stop"
        self.report.doubts_count += sum(journal.doubt is not None for journal in journals)
        with self._asking() as http:
            self._settle(http, journals, stopped_well=status == 0)
        self._engine.mend()
        if end == "kill with the disk":
            shutil.rmtree(owner.data)
        self._stand_by(owner)

    def _go_on(self, owner: Victim, name: str) -> None:
        """Let a node go on that was halted, with a question that waits in its socket.

        It must not tell of a state without what the new owner has acknowledged.
        """
        body = {"id": name, "timeout": FAR_MS}
        with Client(self._server.url, timeout_s=PATIENCE_S) as http:
            assert http.call("POST", "/promises", body)[0] == 201
        answers = self._asked_going_on(owner, name)
        assert answers, "it got neither an answer nor an end"
        assert answers[0] != 404, "a node has told of the past"
        assert owner.wait(PATIENCE_S) != 0
        assert "another server has taken over" in owner.log().lower()

    def _asked_going_on(self, owner: Victim, name: str) -> list[int | str]:
        """Let a node go on, with a question for a promise in its socket; what it answers."""
        answers: list[int | str] = []

        def ask() -> None:
            try:
                with Client(owner.url, timeout_s=PATIENCE_S) as http:
                    answers.append(http.call("GET", f"/promises/{name}")[0])
            except NO_ANSWER as error:
                answers.append(type(error).__name__)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.2)
        for process_id in (*owner.child_ids(), owner.process_id):
            os.kill(process_id, signal.SIGCONT)
        asking.join(PATIENCE_S)
        return answers

    def _end(self, owner: Victim, end: str) -> int | None:
        """End a node; its exit status, if it has stopped in order."""
        if end == "halt":
            for process_id in (owner.process_id, *owner.child_ids()):
                os.kill(process_id, signal.SIGSTOP)
            return None
        if end == "stop":
            status = owner.terminate()
            assert status == 0, owner.log()
            self.report.stops_count += 1
            return status
        self._engine.own_ends.get(end, _nothing)()
        owner.kill9()
        return None

    def _next_owner(self, last: Victim) -> Victim:
        """Wait until another node answers, and return it."""
        ends_s = time.monotonic() + PATIENCE_S
        others = [node for node in self._nodes if node is not last]
        while True:
            for node in others:
                if self._is_ready(node):
                    return node
            assert time.monotonic() < ends_s, [node.log() for node in others]
            time.sleep(STEP_S)

    def _is_ready(self, node: Victim) -> bool:
        try:
            with Client(node.url, timeout_s=5) as http:
                return http.call("GET", "/ready")[0] == 200
        except NO_ANSWER:
            return False

    def _keep_short(self, owner: Victim) -> None:
        """Take a snapshot of the log and trim it, under load."""
        with Client(owner.url, timeout_s=PATIENCE_S, headers=_as_operator(owner)) as http:

            def is_taken() -> bool:
                status, answer = http.call("POST", "/admin/snapshots")
                assert status in (201, 503), (status, answer)  # 503: a group is just being moved
                return bool(status == 201)

            self._wait_until(is_taken, owner)
            status, text = http.call("GET", "/metrics")
            assert status == 200
            assert len(_OWNED.findall(text)) == self._engine.groups_count
            assert not _NO_SNAPSHOT.search(text)

    def _load(self, journal: Journal, random: Random) -> None:
        """Send until the owner is gone."""
        number = 0
        try:
            with Client(self._server.url, timeout_s=PATIENCE_S) as http:
                while journal.send(http, random_operation(journal, random, number)):
                    number += 1
        except Exception as error:
            self._ledger.problems.append(f"{journal.client}: {error!r}")
            raise

    def _asking(self) -> Client:
        """Return a client that finds out what there is."""
        return PatientClient(self._server.url, timeout_s=PATIENCE_S)

    def _still_working(self, workers: list[Worker]) -> list[Worker]:
        """Return workers that go on: those whose streams have ended connect again."""
        going_on = []
        for worker in workers:
            if worker.is_alive():
                going_on.append(worker)
            else:
                going_on.append(self._new_worker(worker.name, forgets=0.0))
                going_on[-1].start()
        return going_on

    def _wait_until(self, is_true: Callable[[], bool], node: Victim) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        while not is_true():
            assert time.monotonic() < ends_s, node.log()
            time.sleep(STEP_S)

    def costs(self) -> str:
        """Say how long there was no owner, and how busy the machine was."""
        parts = []
        for end, found in self.away_s.items():
            parts.append(f"{end}: {_middle_and_most(found)}")
        ended = [one for end, found in self.away_s.items() if end != "stop" for one in found]
        if ended:
            parts.append(f"all but stops: {_middle_and_most(ended)}")
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        return f"without an owner: {'; '.join(parts)}\nload average at the end: {load}"


def _middle_and_most(found: Sequence[float]) -> str:
    ordered = sorted(found)
    return f"{ordered[len(ordered) // 2]:.2f} s, at most {ordered[-1]:.2f} s"


def _without(arguments: Sequence[str], option: str) -> tuple[str, ...]:
    """Return arguments without an option and its value."""
    place = arguments.index(option)
    return (*arguments[:place], *arguments[place + 2 :])


def _stood_by_count(node: Victim) -> int:
    """Return how often a node has said that it stands by."""
    return node.log_path.read_text().count(STANDS_BY) if node.log_path.exists() else 0


def _as_operator(node: Victim) -> dict[str, str]:
    key = (node.data / "admin.key").read_text().strip()
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def postgres_engine(groups_count: int = 1) -> Iterator[ProofEngine]:
    """Run a PostgreSQL server, with a cluster in it if there are to be several groups."""
    with postgres_server() as postgres:
        log = log_of(postgres.url, groups_count)
        yield ProofEngine(log, groups_count=groups_count)


def log_of(url: str, groups_count: int) -> tuple[str, ...]:
    """Return what tells a node of a log, which is made before if it is of several groups."""
    if groups_count == 1:
        return ("--log", url)
    with contextlib.closing(cluster_book(url)) as book:
        book.create(new_cluster("proof", groups_count, None, now_ms=1))
    return ("--log", url, "--cluster", "proof")


@contextmanager
def nats_engine(groups_count: int = 1) -> Iterator[ProofEngine]:
    """Run three NATS servers, each of which has a copy."""
    with nats_cluster() as cluster:
        yield ProofEngine(
            (*log_of(cluster.url, groups_count), "--nats-monitor", cluster.monitor),
            {
                "kill with the leader of the stream": cluster.kill_leader,
                "kill with that and its disk": lambda: cluster.kill_leader(and_its_disk=True),
                "kill with two servers of the stream": lambda: cluster.kill_for(2, OUTAGE_S),
                "kill with all servers of the stream": lambda: cluster.kill_for(3, OUTAGE_S),
            },
            cluster.mend,
            groups_count,
        )


@contextmanager
def kept_if_it_fails(prefix: str) -> Iterator[Path]:
    """Make a directory, and remove it if the block does not fail."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except BaseException:
        print(f"what the nodes have said is in {directory}/*/server.log")
        raise
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("postgres", "nats"), default="postgres")
    parser.add_argument("--groups", type=int, default=1, help="of a cluster, if more than one")
    parser.add_argument("--shared", action="store_true", help="all nodes serve some of the groups")
    parser.add_argument("--limit-s", type=float, help="fail if there was no owner for longer")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    made = nats_engine if arguments.engine == "nats" else postgres_engine
    from .shared_kill import SharedProof

    kind = SharedProof if arguments.shared else ClusterProof
    with kept_if_it_fails("troth-cluster-") as directory, made(arguments.groups) as engine:
        proof = kind(directory, arguments.seed, print, engine, arguments.nodes)
        proof.run_all(arguments.rounds)
    print(f"nothing lost, nothing doubled: {proof.report}")
    print(proof.costs())
    longest_s = max(max(found) for found in proof.away_s.values())
    if arguments.limit_s is not None and longest_s > arguments.limit_s:
        raise SystemExit(f"there was no owner for {longest_s:.2f} s")


if __name__ == "__main__":
    main()
