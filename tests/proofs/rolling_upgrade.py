"""Proof: nodes that share the groups of a cluster are replaced under load, and refuse no client.

    python -m tests.proofs.rolling_upgrade --since HEAD~1            # drained first, then stopped
    python -m tests.proofs.rolling_upgrade --since HEAD~1 --by stop  # only stopped
    python -m tests.proofs.rolling_upgrade --by restart              # troth restart, one version
    python -m tests.proofs.rolling_upgrade --by move                 # groups go, all nodes stay

Three nodes run another revision of this repository, and are replaced one after the other by nodes
of this one, which have their names, directories and ports. Clients create promises through REST and
`POST /`, each request at its own time whatever became of those before. They use the nodes whose
`GET /ready` is 200, as a load balancer does, and the next one if a node takes no connection.

It fails if REST answers 5xx, but for 503 with `Retry-After`; if `POST /` answers anything but 200;
if a new connection ends without an answer (with `--by stop` two a node may, which were made in the
moment of the signal); or if something that was acknowledged is not there in the end. It says for
how long there was no answer about a group: with R requests/s and G groups to about G / R s.
"""

import argparse
import contextlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from tests.helpers.nats import nats_server
from tests.helpers.postgres import postgres_server
from tests.helpers.repository import IMPORT_ROOT, ROOT
from tests.helpers.server import ServerProcess
from tests.helpers.shared_nodes import NAME, SharedNodes, shared_nodes
from tests.http.processes.clients import Client
from troth.cli.supervising.restart import asked
from troth.persistence.streams.sharing import Wishes

from .open_loop import Seen, by_group, load, statuses, stop, waits

NAMES: Final = "abc"
SETTLE_S: Final = 1.0
_LOOK_S: Final = 0.25
_FALL_COUNT: Final = 2
_LOOK_LIMIT_S: Final = 2.0
_RESETS_LIMIT_COUNT: Final = 2
_ANSWER_LIMIT_S: Final = 10.0
MISSING_LIMIT_S: Final = 60.0
"""For how long it is looked again whether a promise that was acknowledged is there."""


class Balancer:
    """Knows which nodes are ready, as in deploy/cluster/haproxy.cfg: two failures, one success."""

    def __init__(self, nodes: Sequence[ServerProcess]) -> None:
        self._nodes = nodes
        self._failures = dict.fromkeys(nodes, 0)
        self._turns = itertools.count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(node,)) for node in nodes]

    def __enter__(self) -> "Balancer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def choose(self) -> list[ServerProcess]:
        """Return the nodes that are ready, each first in its turn."""
        ready = [node for node in self._nodes if self.is_up(node)]
        first = next(self._turns) % max(len(ready), 1)
        return ready[first:] + ready[:first]

    def is_up(self, node: ServerProcess) -> bool:
        """Return whether clients are sent to a node."""
        return self._failures[node] < _FALL_COUNT

    def _watch(self, node: ServerProcess) -> None:
        while not self._is_over.wait(_LOOK_S):
            self._failures[node] = 0 if _is_ready(node) else self._failures[node] + 1


def _is_ready(node: ServerProcess) -> bool:
    address = node.url.removeprefix("http://")
    with (
        contextlib.suppress(OSError, HTTPException),
        contextlib.closing(HTTPConnection(address, timeout=_LOOK_LIMIT_S)) as connection,
    ):
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    return False


class UpgradeReport:
    """What clients have seen of one replacement."""

    def __init__(
        self,
        title: str,
        seen: Sequence[Seen],
        *,
        groups_count: int,
        renewed_count: int,
        duration_s: float,
    ) -> None:
        self.title = title
        self._groups_count = groups_count
        self.seen = seen
        self.problems = [one for one in seen if not one.is_expected]
        self.resets = [one for one in self.problems if "ConnectionReset" in str(one.status)]
        self._renewed_count = renewed_count
        self._duration_s = duration_s

    def pauses_ms(self) -> list[float]:
        """Return the longest time between two answers about each group."""
        found: list[float] = []
        for of_group in by_group(self.seen, self._groups_count).values():
            times = sorted(one.answered_s for one in of_group if one.is_done)
            gaps = (later - earlier for earlier, later in itertools.pairwise(times))
            found.append(max(gaps, default=0.0) * 1000)
        return found

    def __str__(self) -> str:
        pauses = "/".join(f"{one:.0f}" for one in self.pauses_ms())
        return (
            f"{self.title}: {len(self.seen)} requests, {statuses(self.seen)}; "
            f"{self._renewed_count} kept connections renewed; {waits(self.seen)}; without an "
            f"answer about a group for at most {pauses} ms; {self._duration_s:.1f} s, load "
            f"{os.getloadavg()[0]:.1f}"
        )


class Upgrade:
    """Nodes that are replaced under load, `rate` requests a second by `clients_count` clients."""

    def __init__(self, nodes: SharedNodes, clients_count: int, rate: float) -> None:
        self._nodes = nodes
        self._clients_count = clients_count
        self._rate = rate
        self._made: list[str] = []

    @property
    def groups_count(self) -> int:
        """The number of groups of the cluster."""
        return self._nodes.groups_count

    def under_load(self, title: str, act: Callable[[Balancer], None]) -> UpgradeReport:
        """Do something while clients make requests; return what they have seen."""
        with Balancer([*self._nodes.nodes.values()]) as balancer:
            word = f"up{len(self._made)}"
            clients = load(balancer.choose, word, self._clients_count, self._rate)
            time.sleep(SETTLE_S)
            begun_s = time.monotonic()
            try:
                act(balancer)
                duration_s = time.monotonic() - begun_s
                time.sleep(SETTLE_S)
            finally:
                seen = stop(clients)
        self._made += [one.identifier for one in seen if one.is_done]
        return UpgradeReport(
            title,
            seen,
            groups_count=self._nodes.groups_count,
            renewed_count=sum(one.renewed_count for one in clients),
            duration_s=duration_s,
        )

    def replace(self, name: str, *, is_drained: bool, balancer: Balancer) -> None:
        """Replace a node by one of this version."""
        nodes, node = self._nodes, self._nodes.nodes[name]
        others = [one for one in NAMES if one != name]
        if is_drained:
            nodes.wish(Wishes(frozenset(name)))
            nodes.until_spread(*others)
            while balancer.is_up(node):
                time.sleep(_LOOK_S)
        assert node.terminate() == 0, node.log()
        node.use_version(IMPORT_ROOT)
        if is_drained:
            nodes.wish(Wishes())
        node.start()
        self.until_whole()

    def restart(self, name: str) -> None:
        """Restart the processes of a node."""
        answers = list(asked(self._nodes.nodes[name].data, {"ask": "restart"}))
        assert answers[-1] == {"done": True}, answers
        self.until_whole()

    def move(self, group: int) -> None:
        """Let a group go to another node."""
        owner = self._nodes.owners()[group]
        target = NAMES[(NAMES.index(owner) + 1) % len(NAMES)]
        self._nodes.wish(Wishes(placed={group: target}))
        self._nodes.until_owners({group: target})
        self._nodes.wish(Wishes())
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until all nodes have groups and are ready."""
        self._nodes.until_spread(*NAMES)
        self._nodes.until_ready(*NAMES)

    def missing(self) -> list[str]:
        """Return what was acknowledged, and is not there."""
        node = self._nodes.nodes[NAMES[0]]
        with contextlib.closing(Looking(lambda: Client(node, _ANSWER_LIMIT_S))) as looking:
            return [one for one in self._made if not looking.is_there(one)]


class Looking:
    """Looks whether promises are there. What is no answer to that is asked again, for a while."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def is_there(self, identifier: str) -> bool:
        """Return whether a promise is there."""
        ends_s = time.monotonic() + MISSING_LIMIT_S
        while (status := self._asked(f"/promises/{identifier}")) not in (200, 404):
            assert time.monotonic() < ends_s, f"is {identifier} there? {status}"
            time.sleep(_LOOK_S)
        return status == 200

    def _asked(self, path: str) -> int | str:
        try:
            if self._client is None:
                self._client = self._connect()
            return self._client.ask("GET", path)[0]
        except (OSError, HTTPException) as error:
            self.close()
            return repr(error)

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


@contextmanager
def other_version(revision: str | None) -> Iterator[Path | None]:
    """Give the import root of another revision of this repository, for a block."""
    if revision is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="troth-version-") as directory:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(directory, filter="data")
        yield Path(directory) / "src"


@contextmanager
def _engine(name: str) -> Iterator[tuple[str, str | None]]:
    """Run an engine; give the URL of a log, and the monitor of NATS."""
    if name == "postgres":
        with postgres_server() as postgres:
            yield postgres.url, None
    else:
        with nats_server() as nats:
            yield f"{nats.url}/upgrade", nats.monitor_url


def run(upgrade: Upgrade, by: str) -> Iterator[UpgradeReport]:
    """Replace all nodes, or what is to be done instead; yield what clients have seen of each."""
    if by == "move":
        for group in range(upgrade.groups_count):
            yield upgrade.under_load(f"group {group}", lambda _: upgrade.move(group))  # noqa: B023
        return
    for name in NAMES:
        if by == "restart":
            yield upgrade.under_load(f"node {name}", lambda _: upgrade.restart(name))  # noqa: B023
        else:
            yield upgrade.under_load(
                f"node {name}",
                lambda balancer: upgrade.replace(
                    name,  # noqa: B023
                    is_drained=by == "drain",
                    balancer=balancer,
                ),
            )


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--since", metavar="REVISION", help="the version that nodes run before")
    parser.add_argument("--by", choices=("drain", "stop", "restart", "move"), default="drain")
    parser.add_argument("--engine", choices=("postgres", "nats"), default="postgres")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--rate", type=float, default=120.0, help="requests a second")
    parser.add_argument("--groups", type=int, default=3)
    arguments = parser.parse_args()
    groups_count = arguments.groups
    problems: list[object] = []
    pauses_ms: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="troth-upgrade-") as directory,
        other_version(arguments.since) as import_root,
        _engine(arguments.engine) as (url, monitor),
        shared_nodes(Path(directory), url, NAMES, groups_count, monitor, import_root) as nodes,
    ):
        upgrade = Upgrade(nodes, arguments.clients, arguments.rate)
        for report in run(upgrade, arguments.by):
            print(report, flush=True)
            is_excused = arguments.by == "stop" and len(report.resets) <= _RESETS_LIMIT_COUNT
            excused = report.resets if is_excused else []
            problems += [one for one in report.problems if one not in excused]
            pauses_ms.append(max(report.pauses_ms()))
        lost = upgrade.missing()
        if arguments.since is not None:
            finalize = [sys.executable, "-m", "troth", "cluster", "finalize", NAME, "--log", url]
            problems += [] if subprocess.run(finalize).returncode == 0 else ["not finalized"]
    pauses = "/".join(f"{one:.0f}" for one in pauses_ms)
    print(f"{len(lost)} lost; a group was without an answer for {pauses} ms")
    for one in problems[:20]:
        print("problem:", one)
    return 1 if problems or lost else 0


if __name__ == "__main__":
    sys.exit(main())
