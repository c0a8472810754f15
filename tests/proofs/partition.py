"""Proof: nodes of a cluster are cut off from the database, from clients, one way or both.

    python -m tests.proofs.partition --nodes 3 --rounds 20 --seed 1
    python -m tests.proofs.partition --nodes 3 --rounds 28 --seed 1 --engine nats
    python -m tests.proofs.partition --nodes 3 --groups 3 --shared --seed 1    # shared_partition.py
    python -m tests.proofs.partition --engine nats --shared --only leader --rounds 6

Needs root: every node, the database and the clients get a network namespace of their own. The nodes
have one log in a PostgreSQL server, or in three NATS servers, which have a namespace each and are
cut off from each other too. Each round brings one trouble for some seconds: cuts that
nobody is told of, a node that is halted, a clock that is set a minute ahead or behind. In the
meantime clients make requests about the same promises, locks and tasks, of the owner and of others,
and a prober asks each node again and again for a promise. Then:

- what all clients saw has an order that explains it;
- a node that was cut off from the database answers nothing from its state after 3 s;
- within 15 s of the end of the trouble there is an owner that takes writes.

Nodes that have ended, as they do when they were replaced, are started again as a service manager
would.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from tests.helpers.nats import NatsCluster
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.server import SERVE
from tests.simulation.linearizability import LockModel, PromiseModel, RootModel, check
from tests.simulation.test_linearizability import History

from .cluster_kill import kept_if_it_fails, log_of
from .histories import KINDS, attempted, renamed
from .kill import Victim
from .namespaces import NETWORK, Machines, NotPossible, machines
from .support import FAR_MS, NO_ANSWER, Client
from .wrong_clock import WrongClock, build

PORT: Final = 8001
PATIENCE_S: Final = 120.0
"""For a machine on which much else runs."""
SILENT_AFTER_S: Final = 3.0
HEALED_WITHIN_S: Final = 15.0
TROUBLE_S: Final = (6.0, 14.0)
PROBE_INTERVAL_S: Final = 0.1
CLOCK_S: Final = 61
"""Just above what the server notices forward."""

ANSWER_LIMIT_S: Final = 5.0
CLIENTS_COUNT: Final = 4
REQUESTS_EACH_COUNT: Final = 24
OF_OWNER_SHARE: Final = 0.7
TROUBLES: Final = (
    "the owner and the database, both ways",
    "from the owner to the database",
    "from the database to the owner",
    "the owner and everybody",
    "the database and all nodes",
    "the owner and the database, flapping",
    "the owner and the clients",
    "another node and the database",
    "the owner is halted",
    "two clocks are set",
    "the owner is halted, with clocks that differ",
)
TROUBLES_OF_SERVERS: Final = (
    "the leader of the stream and the other servers",
    "from the leader of the stream to the other servers",
    "the servers of the stream from each other",
)
"""What can happen to a database of several servers besides."""
HALT_S: Final = (5.0, 20.0)
NATS_MACHINES: Final = ("s1", "s2", "s3")

Cuts = Sequence[tuple[str, str]]
"""What is lost: all that the first machine of a pair sends to the second."""


@dataclass(frozen=True, slots=True)
class PartitionedEngine:
    """What keeps the log: its machines, arguments of a node, and which machine leads now."""

    machines: tuple[str, ...]
    url: str
    arguments: tuple[str, ...]
    leader: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Probe:
    """A question and its answer: 0 if there was none."""

    asked_s: float
    answered_s: float
    status: int


@dataclass
class Findings:
    """What a kind of trouble has led to, in all its rounds."""

    without_owner_s: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    """What the node in trouble said after 3 s, while it was cut off from the database."""

    def __str__(self) -> str:
        """One line."""
        away, healed = max(self.without_owner_s), max(self.healed_s)
        said = ", ".join(f"{count}x {status}" for status, count in sorted(self.statuses.items()))
        text = f"no writes for {away:.1f} s at most, healed within {healed:.1f} s"
        return f"{text}; in the minority after 3 s: {said}" if said else text


class PartitionedNode(Victim):
    """A node in a namespace of its own, which is started again whenever it ends."""

    def __init__(
        self,
        network: Machines,
        name: str,
        directory: Path,
        arguments: Sequence[str],
        library: Path | None,
    ) -> None:
        self.name = name
        directory.mkdir()
        self.clock = None if library is None else WrongClock(directory, library)
        self.ends_count = 0
        self.address = network.address(name)
        super().__init__(
            directory,
            *("--listen", f"{self.address}:{PORT}", "--poll-listen", f"{self.address}:{PORT + 1}"),
            *(*arguments, "--node", name, "--allow-anonymous"),
            command=("ip", "netns", "exec", network.namespace(name), *SERVE),
            environment=None if self.clock is None else self.clock.environment,
        )

    @property
    def url(self) -> str:
        return f"http://{self.address}:{PORT}"

    def start_if_ended(self) -> None:
        """Do what a service manager does."""
        if self._process is not None and self._process.poll() is not None:
            self.ends_count += 1
            self._process = None
        if self._process is None:
            self.start_unready()


class PartitionProof:
    """One run."""

    troubles_passed_on: frozenset[str] = frozenset()
    """Those in which a node that has lost touch may hand answers of others on."""

    @staticmethod
    def arguments_of_all(directory: Path) -> tuple[str, ...]:  # noqa: ARG004  others write there
        """Return arguments that all nodes have; `directory` is the run's."""
        return ("--shards", "2")

    @staticmethod
    def arguments_of_one(address: str) -> tuple[str, ...]:  # noqa: ARG004  others listen there
        """Return arguments of the node at an address."""
        return ()

    def __init__(
        self,
        network: Machines,
        nodes: list[PartitionedNode],
        seed: int,
        engine: PartitionedEngine,
    ) -> None:
        self._engine = engine
        self.only = ""
        """A part of the names of troubles, if not all of them are brought."""
        self.findings: dict[str, Findings] = {}
        self.histories: dict[str, History] = {kind: [] for kind in KINDS}
        self.problems: list[str] = []
        self.clocks_set_count = 0
        self._network = network
        self._nodes = nodes
        self._seed = seed
        self._random = Random(f"{seed}/troubles")
        self._ended = threading.Event()
        self._owner = nodes[0]
        self._written_s: list[float] = []
        self._probes: dict[str, list[Probe]] = {node.name: [] for node in nodes}
        self._numbers = itertools.count()
        self._cut_s = (0.0, 0.0)
        """From when to when all cuts of the last trouble were there."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """What can happen to the nodes and to what keeps the log."""
        is_one = len(self._engine.machines) == 1
        return TROUBLES if is_one else (*TROUBLES, *TROUBLES_OF_SERVERS)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Return those of the troubles that are brought."""
        return tuple(one for one in self.troubles if self.only in one)

    def run(self, rounds_count: int) -> None:
        """Run all rounds. Raises AssertionError at what is wrong."""
        threads = [threading.Thread(target=one) for one in (self._keep_running, *self._others())]
        threads += [
            threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS_COUNT)
        ]
        for thread in threads:
            thread.start()
        try:
            self._run_rounds(rounds_count)
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
        assert not self.problems, self.problems

    def _others(self) -> list[Callable[[], None]]:
        """Return what else is done in threads, besides clients' requests."""
        probes = [partial(self._probe, node) for node in self._nodes]
        return [self._write, self._find_owner, *probes]

    def _run_rounds(self, rounds_count: int) -> None:
        self._wait_written(time.monotonic())
        for number in range(rounds_count):
            self._round(self.chosen[number % len(self.chosen)])

    def _round(self, trouble: str) -> float:
        """Bring a trouble once; return for how long, in s."""
        found = self.findings.setdefault(trouble, Findings())
        began_s = time.monotonic()
        cut_off = self._bring(trouble)
        healed_s = time.monotonic()
        written_s = self._wait_written(healed_s)
        found.healed_s.append(written_s - healed_s)
        written = [began_s, *(at_s for at_s in [*self._written_s] if at_s > began_s)]
        gaps = [after - before for before, after in itertools.pairwise(written)]
        found.without_owner_s.append(max(gaps, default=0.0))
        for node in cut_off:
            self._judge(found, trouble, node)
        time.sleep(2)
        return healed_s - began_s

    def _judge(self, found: Findings, trouble: str, node: PartitionedNode) -> None:
        """Look at what a node has said that was cut off from the database."""
        began_s, ended_s = self._cut_s
        for probe in [*self._probes[node.name]]:
            if probe.asked_s >= began_s + SILENT_AFTER_S and probe.answered_s < ended_s:
                found.statuses[probe.status] += 1
                if 0 < probe.status < 500 and trouble not in self.troubles_passed_on:
                    self.problems.append(f"{trouble}: {node.name} answered {probe}")

    def _bring(self, trouble: str) -> list[PartitionedNode]:
        """Bring trouble for a while, and end it; who was cut off from the database all the time."""
        owner, random, duration_s = self._owner, self._random, self._random.uniform(*TROUBLE_S)
        names = [node.name for node in self._nodes]
        servers = self._engine.machines
        if trouble in TROUBLES_OF_SERVERS:
            self._cut_for(duration_s, self._cuts_of_servers(trouble))
            return []
        if trouble.startswith("the owner is halted"):
            os.kill(owner.process_id, signal.SIGSTOP)
            time.sleep(random.uniform(*HALT_S))
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.process_id, signal.SIGCONT)
            return []
        if trouble == "two clocks are set":
            for node in random.sample(self._nodes, 2):
                if node.clock is not None:
                    node.clock.set(random.choice((-CLOCK_S, CLOCK_S)))
            time.sleep(duration_s)
            return []
        if trouble == "the owner and the database, flapping":
            for _ in range(3):
                self._cut_for(3, [*all_both([owner.name], servers)])
                time.sleep(3)
            return []
        cuts, cut_off = {
            "the owner and the database, both ways": (all_both([owner.name], servers), [owner]),
            "from the owner to the database": ([(owner.name, one) for one in servers], [owner]),
            "from the database to the owner": ([(one, owner.name) for one in servers], [owner]),
            "the owner and everybody": (all_both([owner.name], (*servers, "clients")), [owner]),
            "the database and all nodes": (all_both(names, servers), self._nodes),
            "the owner and the clients": (both(owner.name, "clients"), []),
            "another node and the database": (
                all_both([random.choice([one for one in names if one != owner.name])], servers),
                [],
            ),
        }[trouble]
        self._cut_for(duration_s, cuts)
        return cut_off

    def _cuts_of_servers(self, trouble: str) -> Cuts:
        """Return cuts between servers that keep the log."""
        servers, leader = self._engine.machines, self._engine.leader()
        others = [one for one in servers if one != leader]
        if trouble.startswith("from the leader"):
            return [(leader, one) for one in others]
        if trouble.startswith("the leader"):
            return all_both([leader], others)
        return [(one, other) for one in servers for other in servers if one != other]

    def _cut_for(self, duration_s: float, cuts: Cuts) -> None:
        for cut in cuts:
            self._network.cut(*cut)
        began_s = time.monotonic()
        time.sleep(duration_s)
        self._cut_s = began_s, time.monotonic()
        for cut in cuts:
            self._network.heal(*cut)

    def _wait_written(self, since_s: float) -> float:
        """Wait until something was written that was asked for after that; when it was."""
        count = len(self._written_s)
        while len(self._written_s) < count + 2:  # the first may have been asked for before
            assert time.monotonic() < since_s + PATIENCE_S, [
                node.log()[-1500:] for node in self._nodes
            ]
            time.sleep(0.02)
        return self._written_s[count + 1]

    # In threads

    def _keep_running(self) -> None:
        while not self._ended.wait(0.5):
            for node in self._nodes:
                node.start_if_ended()

    def _find_owner(self) -> None:
        """Look who is ready, as a load balancer does."""
        self._network.enter("clients")
        while not self._ended.wait(PROBE_INTERVAL_S):
            for node in self._nodes:
                if status_of(node, "/ready") == 200:
                    self._owner = node

    def _write(self) -> None:
        """Write to the owner again and again, and note when that was acknowledged."""
        self._network.enter("clients")
        while not self._ended.wait(PROBE_INTERVAL_S / 2):
            body = {"id": f"written/{next(self._numbers)}", "timeout": FAR_MS}
            with Client(self._owner.url, timeout_s=1) as http, contextlib.suppress(*NO_ANSWER):
                if http.call("POST", "/promises", body)[0] == 201:
                    self._written_s.append(time.monotonic())

    def _probe(self, node: PartitionedNode) -> None:
        """Ask a node for a promise that nobody makes, again and again."""
        self._network.enter("clients")
        while not self._ended.wait(PROBE_INTERVAL_S):
            asked_s = time.monotonic()
            status = status_of(node, "/promises/nobody-makes-it")
            self._probes[node.name].append(Probe(asked_s, time.monotonic(), status))

    def _client(self, number: int) -> None:
        try:
            self._network.enter("clients")
            random = Random(f"{self._seed}/{number}")
            made_count = 0
            while not self._ended.is_set():
                kind = random.choice(list(KINDS))
                suffix = f"{kind}-{made_count // REQUESTS_EACH_COUNT}"
                command = renamed(KINDS[kind](random, f"{number}/{made_count}"), suffix)
                node = self._node_for(random)
                operation = attempted(f"{node.address}:{PORT}", command, ANSWER_LIMIT_S)
                if operation is None:
                    time.sleep(0.05)
                    continue
                made_count += 1
                self.histories[kind].append(operation)
                time.sleep(0.01)
        except Exception as error:
            self.problems.append(f"client {number}: {error!r}")
            raise

    def _node_for(self, random: Random) -> PartitionedNode:
        """Return the node that a client asks."""
        is_led = random.random() < OF_OWNER_SHARE
        return self._owner if is_led else random.choice(self._nodes)

    def count_clocks(self) -> int:
        """How often servers have noticed that their clock was set."""
        return sum(node.log_path.read_text().count("clock was set") for node in self._nodes)

    def unexplained(self) -> list[str]:
        """The objects whose histories no order explains."""
        return [
            *map(str, check(PromiseModel(), self.histories["promises"])),
            *map(str, check(LockModel(), self.histories["locks"])),
            *map(str, check(RootModel(), self.histories["tasks"])),
        ]

    @property
    def requests_count(self) -> int:
        """How many requests the histories have."""
        return sum(map(len, self.histories.values()))


def both(one: str, other: str) -> Cuts:
    """A cut in both directions."""
    return [(one, other), (other, one)]


def all_both(some: Sequence[str], others: Sequence[str]) -> Cuts:
    """Cuts in both directions of each of some machines from each of others."""
    return [pair for one in some for other in others for pair in both(one, other)]


def status_of(node: PartitionedNode, path: str) -> int:
    """What a node says; 0 if nothing."""
    with Client(node.url, timeout_s=2) as http:
        try:
            return http.call("GET", path)[0]
        except NO_ANSWER:
            return 0


@contextmanager
def database(network: Machines) -> Iterator[PostgresServer]:
    """Run PostgreSQL on its machine, open to the others."""
    with ExitStack() as stack:
        server = network.within(
            "db", lambda: stack.enter_context(postgres_server("listen_addresses=*"))
        )
        rule = f"host all all {NETWORK}.0/24 trust\n"
        with (server.place / "data" / "pg_hba.conf").open("a") as file:
            file.write(rule)
        server.query("SELECT pg_reload_conf()")
        yield server


@contextmanager
def postgres_log(network: Machines, groups_count: int) -> Iterator[PartitionedEngine]:
    """Run PostgreSQL on the machine `db`."""
    with database(network):
        url = f"postgresql://postgres@{network.address('db')}/postgres"
        arguments = network.within("clients", lambda: log_of(url, groups_count))
        yield PartitionedEngine(("db",), url, arguments, lambda: "db")


@contextmanager
def nats_log(network: Machines, groups_count: int) -> Iterator[PartitionedEngine]:
    """Run a NATS server on each of three machines."""
    place = Path(tempfile.mkdtemp(prefix="troth-nats-"))
    cluster = NatsCluster(place, [network.address(name) for name in NATS_MACHINES])
    machine_of = dict(zip(cluster.servers, NATS_MACHINES, strict=True))
    try:
        for server, name in machine_of.items():
            network.within(name, partial(server.start, waits=False))
        for server in cluster.servers:
            network.within("clients", server.wait)
        arguments = network.within("clients", lambda: log_of(cluster.url, groups_count))
        yield PartitionedEngine(
            NATS_MACHINES,
            cluster.url,
            (*arguments, "--nats-monitor", cluster.monitor),
            lambda: machine_of[network.within("clients", cluster.leader)],
        )
    finally:
        for server in cluster.servers:
            server.stop(signal.SIGKILL)
        shutil.rmtree(place)


ENGINES: Final = {"postgres": (("db",), postgres_log), "nats": (NATS_MACHINES, nats_log)}
"""The machines of each engine, and what runs it on them."""


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="by default each trouble once")
    parser.add_argument(
        "--only", default="", help="bring troubles only that have this in their name"
    )
    parser.add_argument("--engine", choices=sorted(ENGINES), default="postgres")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--limit-s", type=float, help="fail if it took longer until an owner took writes again"
    )
    parser.add_argument("--shared", action="store_true", help="all nodes serve some of the groups")
    parser.add_argument("--groups", type=int, default=3, help="how many, with --shared")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    names = "abcdefgh"[: arguments.nodes]
    from .shared_partition import SharedPartitionProof  # which builds on this module

    kind = SharedPartitionProof if arguments.shared else PartitionProof
    try:
        engine_machines, engine_on = ENGINES[arguments.engine]
        with (
            machines(*engine_machines, "clients", *names) as network,
            engine_on(network, arguments.groups if arguments.shared else 1) as engine,
        ):
            proof = run(kind, network, names, arguments, engine)
    except NotPossible as error:
        raise SystemExit(f"not possible here: {error}") from error
    for trouble, found in proof.findings.items():
        print(f"{trouble}: {found}")
    healed_s = max(max(found.healed_s) for found in proof.findings.values())
    print(f"clocks that were seen to be set: {proof.clocks_set_count}")
    print(f"{proof.requests_count} requests of clients have an order that explains them")
    print(f"load average at the end: {os.getloadavg()[1]:.1f}")
    if arguments.limit_s is not None and healed_s > arguments.limit_s:
        raise SystemExit(f"it took {healed_s:.1f} s until writes were taken again")


def run(
    kind: type[PartitionProof],
    network: Machines,
    names: str,
    arguments: argparse.Namespace,
    engine: PartitionedEngine,
) -> PartitionProof:
    """Run the proof on a network. Raises AssertionError at what is wrong."""
    with kept_if_it_fails("troth-partition-") as directory:
        library = build(directory)
        if library is None:
            print("there is no C compiler: no clock is set")
        given = (*engine.arguments, *kind.arguments_of_all(directory))
        nodes = [
            PartitionedNode(
                network,
                name,
                directory / name,
                (*given, *kind.arguments_of_one(network.address(name))),
                library,
            )
            for name in names
        ]
        try:
            for node in nodes:
                node.start_unready()
            proof = kind(network, nodes, arguments.seed, engine)
            proof.only = arguments.only
            if not proof.chosen:
                raise SystemExit(f"no trouble has {proof.only!r} in its name: {proof.troubles}")
            proof.run(arguments.rounds or len(proof.chosen))
            proof.clocks_set_count = proof.count_clocks()
        finally:
            for node in nodes:
                node.__exit__(None, None, None)
        unexplained = proof.unexplained()
        assert not unexplained, f"no order explains what was seen of {unexplained}"
        return proof


if __name__ == "__main__":
    main()
