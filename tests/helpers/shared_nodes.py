"""Nodes of a cluster that share its groups: real servers on one machine, with one engine."""

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.helpers.nats import nats_cluster
from tests.helpers.postgres import postgres_server
from tests.helpers.server import ServerProcess, free_ports, http_json
from troth.persistence.streams.sharing import Wishes
from troth.persistence.streams.stream import StreamUnreachable
from troth.shards.streams.stream_opening import cluster_book, new_cluster

NAME: Final = "shared"
PATIENCE_S: Final = 120.0
HOST: Final = "127.0.0.1"
_STEP_S: Final = 0.05


def write_secret(directory: Path) -> Path:
    """Write a cluster's secret, as an operator does."""
    file = directory / "cluster.secret"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32))
    return file


def node_arguments(url: str, secret: Path, name: str, port: int) -> tuple[str, ...]:
    """Return the arguments of a node that shares groups with others."""
    return (
        *("--log", url, "--cluster", NAME, "--node", name),
        *("--mesh-listen", f"{HOST}:{port}", "--cluster-secret-file", str(secret)),
    )


class SharedNodes:
    """Nodes by name; they are started by those who use them.

    `monitor` has those of all NATS servers, if `url` is of NATS; as many copies are kept. `more`
    are further arguments of a node.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        names: Sequence[str],
        groups_count: int,
        monitor: str | None = None,
        more: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self.groups_count = groups_count
        copies_count = None if monitor is None else monitor.count(",") + 1
        self._book = cluster_book(url, copies_count)
        monitored = () if monitor is None else ("--nats-monitor", monitor)
        self._book.create(new_cluster(NAME, groups_count, None, now_ms=1))
        secret = write_secret(directory)
        self.nodes = {
            name: ServerProcess(
                directory / name,
                *node_arguments(url, secret, name, port),
                *monitored,
                *more(name),
            )
            for name, port in zip(names, free_ports(len(names)), strict=True)
        }

    def close(self) -> None:
        """End all that run."""
        for node in self.nodes.values():
            node.__exit__(None, None, None)
        self._book.close()

    def owners(self) -> dict[int, str]:
        """Return the nodes that own groups, as far as it is noted."""
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return {one.group: one.node for one in self._book.holders()}
            except StreamUnreachable:
                assert time.monotonic() < ends_s, "the engine is away"

    def wish(self, wishes: Wishes) -> None:
        """Wish what `troth cluster move` and `drain` do."""
        assert self._book.wish(self._book.wishes(), wishes)

    def until_owners(self, wanted: Mapping[int, str]) -> None:
        """Wait until groups have these owners."""
        ends_s = time.monotonic() + PATIENCE_S
        while not wanted.items() <= (owners := self.owners()).items():
            assert time.monotonic() < ends_s, (owners, wanted)
            time.sleep(_STEP_S)

    def until_spread(self, *names: str) -> dict[int, str]:
        """Wait until these nodes have all groups, as many each; return who has which."""
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            owners = self.owners()
            counts = Counter(owners.values())
            are_even = max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
            if len(owners) == self.groups_count and {*counts} == {*names} and are_even:
                return owners
            assert time.monotonic() < ends_s, (owners, [self.nodes[name].log() for name in names])
            time.sleep(_STEP_S)

    def until_ready(self, *names: str) -> None:
        """Wait until these nodes say that they are ready, and each of them answers for all groups.

        A node that is ready may wait for a group that has just lost its owner, or read its log.
        Once there are accounts, only the group of the accounts can be asked here.
        """
        ends_s = time.monotonic() + PATIENCE_S
        for name in names:
            node = self.nodes[name]
            while not self._answers(node):
                assert time.monotonic() < ends_s, node.log()
                time.sleep(_STEP_S)

    def _answers(self, node: ServerProcess) -> bool:
        key = {"Authorization": f"Bearer {(node.data / 'admin.key').read_text().strip()}"}
        try:
            return (
                node.request("GET", "/ready")[0] == 200
                and node.request("GET", "/promises?id=*&limit=1")[0] in (200, 401)
                and node.request("GET", "/admin/accounts", headers=key)[0] == 200
            )
        except OSError:
            return False


class Place(NamedTuple):
    """Where there is no cluster yet: the URL, and the monitors of NATS."""

    url: str
    monitor: str | None = None


@contextmanager
def place_of(engine: str) -> Iterator[Place]:
    """Run a PostgreSQL server, or three NATS servers, for a cluster."""
    if engine == "postgres":
        with postgres_server() as postgres:
            yield Place(postgres.url)
    else:
        with nats_cluster() as nats:
            yield Place(f"{nats.url}/{NAME}", nats.monitor)


ENGINES: Final = ("postgres", "nats")


def until_served(*urls: str) -> None:
    """Wait until these answer, as proxies do once they have found a node."""
    ends_s = time.monotonic() + PATIENCE_S
    for url in urls:
        status = 0
        while status != 200:
            assert time.monotonic() < ends_s, (url, status)
            with contextlib.suppress(OSError):
                status = http_json("GET", url)[0]
            time.sleep(_STEP_S)


@contextmanager
def shared_nodes(
    directory: Path,
    url: str,
    names: Sequence[str],
    groups_count: int,
    monitor: str | None = None,
    import_root: Path | None = None,
    more: Callable[[str], Sequence[str]] = lambda _: (),
) -> Iterator[SharedNodes]:
    """Make a cluster where there is none and run its nodes, until they share the groups.

    With an `import_root` they are of another source tree.
    """
    found = SharedNodes(directory, url, names, groups_count, monitor, more)
    try:
        if import_root is not None:
            for node in found.nodes.values():
                node.use_version(import_root)
        with ThreadPoolExecutor(len(names)) as pool:
            for started in [pool.submit(node.start) for node in found.nodes.values()]:
                started.result()
        found.until_spread(*names)
        found.until_ready(*names)
        yield found
    finally:
        found.close()
