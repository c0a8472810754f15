"""Measure a cluster of three nodes beside one process without a cluster, in one run.

    python -m tests.proofs.cluster_figures --engine nats
    python -m tests.proofs.cluster_figures --engine postgres --promises 1000000

Everything is on this machine: three nodes with three groups, the engine (PostgreSQL with one
server, or three NATS servers that sync always), one process with a directory, and the load. Prints,
in this order, each with the load average: an append to the engine alone; creates through one
connection and through 64, of the one process and of the three nodes; how long a group that is
moved under load answers nothing; and how soon a new node owns a third of so many promises. The
bars are those of the design; nothing fails here, since they are for a quiet machine.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import psycopg

from tests.helpers.server import ServerProcess
from tests.helpers.shared_nodes import ENGINES, Place, SharedNodes, place_of, shared_nodes
from tests.http.processes.clients import FAR_MS, ids_by_group
from troth.bench.client import BenchTarget
from troth.bench.load import run, workload_for
from troth.bench.machine import divide_cores
from troth.bench.results import RunRecord
from troth.bench.session import BenchSession, Plan
from troth.persistence.streams.sharing import Wishes
from troth.shards.streams.stream_opening import NatsOptions, clients_of

from .support import NO_ANSWER

NAMES: Final = "abc"
APPENDS_COUNT: Final = 300
APPEND_BYTES: Final = 464
"""One create of `troth bench`, as a frame."""
BATCH_COUNT: Final = 100
MOVES_COUNT: Final = 6
_PAUSE_S: Final = 0.001
_PATIENCE_S: Final = 600.0


def _say(what: str, found: str, bar: str = "") -> None:
    """Print a line of the table."""
    print(f"{what:<58} {found:<36} {bar:<26} load {os.getloadavg()[0]:.1f}", flush=True)


@contextlib.contextmanager
def _elsewhere(place: Place) -> Iterator[str]:
    """Make room in the same engine for a stream of no cluster; yield its URL."""
    if place.monitor is not None:
        yield f"{place.url}-alone"
        return
    with psycopg.connect(place.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE alone")
    yield place.url.replace("///postgres", "///alone")


def append_alone_ms(place: Place) -> list[float]:
    """Append frames to a stream of the engine, one after the other; return how long each took."""
    took_ms = []
    with _elsewhere(place) as url:
        stream = clients_of(url, 0, NatsOptions(monitor=place.monitor)).stream
        with contextlib.closing(stream):
            stream.found(b"figures")
            frame = bytes(APPEND_BYTES)
            for number in range(1, APPENDS_COUNT + 1):
                begun_s = time.perf_counter()
                assert stream.append(number, 1, frame, is_claim=number == 1)
                took_ms.append((time.perf_counter() - begun_s) * 1000)
    return took_ms


def creates(nodes: Sequence[ServerProcess], connections_count: int, duration_s: float) -> RunRecord:
    """Create promises through nodes for a while, as `troth bench create --url … --url …` does."""
    plan = Plan(
        scenarios=("create",),
        connections=(connections_count,),
        ceilings=False,
        workload={"duration_s": duration_s, "warm_up_s": 1.0},
    )
    (record,) = BenchSession(plan, divide_cores(pinned=False)).measure(targets_of(nodes))
    return record.typical


def targets_of(nodes: Sequence[ServerProcess]) -> list[BenchTarget]:
    """Return nodes as targets of the benchmark."""
    return [BenchTarget.from_urls(node.url, None, None, None) for node in nodes]


class Prober(threading.Thread):
    """Creates promises of one group through one node, one after the other, and notes the gaps."""

    def __init__(self, node: ServerProcess, prefix: str, group: int) -> None:
        super().__init__(name="prober")
        self._connection = HTTPConnection(node.url.removeprefix("http://"), timeout=60)
        self._ids = ids_by_group(prefix, 20_000)[group]
        self._is_over = threading.Event()
        self.longest_ms = 0.0

    def run(self) -> None:
        """Create until told to stop."""
        last_s = time.monotonic()
        for one in self._ids:
            if self._is_over.is_set():
                break
            try:
                body = json.dumps({"id": one, "timeout": FAR_MS})
                kind = {"Content-Type": "application/json"}
                self._connection.request("POST", "/promises", body, kind)
                answer = self._connection.getresponse()
                answer.read()
            except NO_ANSWER:
                self._connection.close()
                continue
            if answer.status == 201:
                now_s = time.monotonic()
                self.longest_ms = max(self.longest_ms, (now_s - last_s) * 1000)
                last_s = now_s
            time.sleep(_PAUSE_S)

    def end(self) -> float:
        """Stop; return the longest time between two acknowledgments."""
        self._is_over.set()
        self.join()
        self._connection.close()
        return self.longest_ms


def moved_ms(three: SharedNodes) -> list[float]:
    """Move groups from node to node under load; return how long each answered nothing."""
    gaps_ms = []
    for number in range(MOVES_COUNT):
        owners = three.until_spread(*NAMES)
        group = number % three.groups_count
        source, target, third = _roles(owners, group)
        # The one that has the group closes its connections; the others keep them.
        prober = Prober(three.nodes[third], f"move{number}", group)
        prober.start()
        time.sleep(0.5)
        other = next(one for one, owner in owners.items() if owner == target)
        three.wish(Wishes(placed={group: target, other: source}))
        three.until_owners({group: target, other: source})
        time.sleep(0.5)
        gaps_ms.append(prober.end())
        three.wish(Wishes())
    return gaps_ms


def _roles(owners: dict[int, str], group: int) -> tuple[str, str, str]:
    """Return the owner of a group, who gets it, and another one."""
    source = owners[group]
    target, third = (name for name in NAMES if name != source)
    return source, target, third


def fill(nodes: Sequence[ServerProcess], promises_count: int) -> float:
    """Create so many promises, a hundred by a request; return how long that took, in s.

    Requests that are refused, since the machine is too busy for the engine, are made again.
    """
    begun_s = time.monotonic()
    left_count = promises_count // BATCH_COUNT
    for attempt in itertools.count():
        each_count = -(-left_count // len(nodes))
        shares = [
            workload_for(
                target,
                scenario="batch",
                run=f"fill{attempt}",
                process=number,
                connections=4,
                operation_limit=each_count,
                request_timeout_s=60.0,
            )
            for number, target in enumerate(targets_of(nodes))
        ]
        left_count -= each_count * len(nodes) - run(shares).failures
        if left_count <= 0:
            break
        time.sleep(1)
    return time.monotonic() - begun_s


def new_node_s(three: SharedNodes, promises_count: int) -> tuple[float, float]:
    """Fill two nodes, start a third without a directory; how long both took, in s."""
    *others, new = (three.nodes[name] for name in NAMES)
    new.kill9()
    shutil.rmtree(new.data)
    three.until_spread(*NAMES[:2])
    three.until_ready(*NAMES[:2])
    filled_s = fill(others, promises_count)
    begun_s = time.monotonic()
    starting = threading.Thread(target=new.start)
    starting.start()
    while NAMES[2] not in three.owners().values():
        assert time.monotonic() < begun_s + _PATIENCE_S, new.log()
        time.sleep(0.05)
    took_s = time.monotonic() - begun_s
    starting.join()
    return filled_s, took_s


def _compare(single: ServerProcess, nodes: Sequence[ServerProcess], duration_s: float) -> None:
    """Print creates of one process and of all nodes, in turn."""
    for count in (1, 64):
        for title, served in (
            ("one process, a directory", [single]),
            ("through one node of three", nodes[:1]),
            ("through three nodes", nodes),
        ):
            if count < len(served):
                continue
            found = creates(served, count, duration_s)
            ms = found.latency_ms
            bar = "6,000/s, p50 12 ms" if len(served) > 1 else ""
            _say(
                f"creates, {count} connections, {title}",
                f"{found.throughput:,.0f}/s, p50 {ms['p50']:.2f}, p99 {ms['p99']:.0f} ms",
                bar,
            )


def measure(engine: str, promises_count: int, duration_s: float) -> None:
    """Measure everything with an engine and print it."""
    print(f"-- {engine}, {time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory(prefix="troth-figures-") as name,
        place_of(engine) as place,
    ):
        directory = Path(name)
        appends_ms = sorted(append_alone_ms(place))
        middle, most = statistics.median(appends_ms), appends_ms[len(appends_ms) * 99 // 100]
        _say(f"append of {APPEND_BYTES} bytes alone", f"p50 {middle:.2f}, p99 {most:.0f} ms")
        with shared_nodes(directory, place.url, NAMES, len(NAMES), place.monitor) as three:
            nodes = [*three.nodes.values()]
            with ServerProcess(directory / "single") as single:
                _compare(single, nodes, duration_s)
            gaps = sorted(moved_ms(three))
            _say(
                f"a group is moved under load, {len(gaps)} times",
                f"half {statistics.median(gaps):.0f} ms, at most {gaps[-1]:.0f}",
                "200 ms (goal 50)",
            )
            filled_s, took_s = new_node_s(three, promises_count)
            _say(
                f"{promises_count:,} promises made in {filled_s:.0f} s, a new node owns a third",
                f"after {took_s:.1f} s",
                "60 s (goal 20)",
            )


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: both")
    parser.add_argument("--promises", type=int, default=1_000_000)
    parser.add_argument("--duration-s", type=float, default=5.0, help="of each speed")
    arguments = parser.parse_args()
    for engine in arguments.engine or ENGINES:
        measure(engine, arguments.promises, arguments.duration_s)


if __name__ == "__main__":
    main()
