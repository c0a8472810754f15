"""Measure what a cluster of three nodes costs that has nothing to do.

    python -m tests.proofs.cluster_idle --engine nats
    python -m tests.proofs.cluster_idle --since HEAD~20    # nodes of another version

Prints for each node, all its processes together, and for the engine, the processor time in percent
of a core. A machine that is busy with something else shows somewhat more: caches are cold.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.helpers.shared_nodes import ENGINES, place_of, shared_nodes

from .rolling_upgrade import other_version

NAMES: Final = "abc"
_QUIET_S: Final = 15.0
"""Until the pieces of a start are over: groups moved, first checkpoints made."""
_ENGINE_PROGRAMS: Final = {"postgres": "postgres", "nats": "nats-server"}


def _processes() -> dict[int, tuple[int, str, float]]:
    """Return of all processes of this machine the parent, the program's name, and the time in s."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        found[int(path.parent.name)] = (
            int(fields[1]),
            head.partition("(")[2],
            ticks / os.sysconf("SC_CLK_TCK"),
        )
    return found


def below(roots: Iterable[int], processes: dict[int, tuple[int, str, float]]) -> set[int]:
    """Return processes and all that descend from them."""
    found, left = set(), [*roots]
    while left:
        process_id = left.pop()
        found.add(process_id)
        left += [one for one, (parent, _, _) in processes.items() if parent == process_id]
    return found


def used_s(roots: dict[str, int], engine: str) -> dict[str, float]:
    """Return the processor time of nodes, and of the engine that this process has started."""
    processes = _processes()
    trees = {name: below([root], processes) for name, root in roots.items()}
    ours = below([os.getpid()], processes) - set().union(*trees.values())
    trees[engine] = {one for one in ours if processes[one][1] == _ENGINE_PROGRAMS[engine]}
    return {
        name: sum(processes[one][2] for one in tree if one in processes)
        for name, tree in trees.items()
    }


def measure(engine: str, since: str | None, seconds: float) -> None:
    """Run three nodes with three groups, leave them alone, and print what that cost."""
    with (
        tempfile.TemporaryDirectory(prefix="troth-idle-") as name,
        place_of(engine) as place,
        other_version(since) as import_root,
    ):
        nodes = shared_nodes(Path(name), place.url, NAMES, len(NAMES), place.monitor, import_root)
        with nodes as three:
            three.until_spread(*NAMES)
            three.until_ready(*NAMES)
            time.sleep(_QUIET_S)
            roots = {name: node.process_id for name, node in three.nodes.items()}
            before = used_s(roots, engine)
            begun_s = time.monotonic()
            time.sleep(seconds)
            after = used_s(roots, engine)
            took_s = time.monotonic() - begun_s
    shares = {name: (after[name] - before[name]) / took_s * 100 for name in after}
    half = statistics.median(shares[name] for name in NAMES)
    print(
        f"{engine}, {since or 'this version'}, {took_s:.0f} s: a node {half:.1f} % of a core",
        *(f"{name} {share:.1f}" for name, share in shares.items()),
        f"load {os.getloadavg()[0]:.1f}",
        sep=", ",
        flush=True,
    )


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: both")
    parser.add_argument("--since", metavar="REVISION", help="the version that nodes run")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    for engine in arguments.engine or ENGINES:
        measure(engine, arguments.since, arguments.seconds)


if __name__ == "__main__":
    main()
