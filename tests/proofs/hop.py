"""What it costs a client that its promise lives in another process: one connection, no load.

    python -m tests.proofs.hop --seconds 10

A server of two processes has one connection, which creates promises of both groups in turn. Half of
them are of the process that has accepted it; the other half take the way over a link and back.
"""

import argparse
import http.client
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from troth.bench.children import OwnServer
from troth.persistence.placement import DEFAULT_RULE, by_rule, dealt_shards, groups_by_shard

PROCESSES_COUNT: Final = 2
SHARDS_COUNT: Final = 16
TIMEOUT_MS: Final = 4_102_444_800_000
WARM_UP_COUNT: Final = 200
"""Creates of each group that are not counted."""


def ids_of(group: int) -> Iterator[str]:
    """Yield ids of promises that live in a group."""
    shard_of = by_rule(DEFAULT_RULE, SHARDS_COUNT)
    groups = groups_by_shard(dealt_shards(SHARDS_COUNT, PROCESSES_COUNT))
    for number in itertools.count():
        identifier = f"hop-{number}x"
        if groups[shard_of(identifier)] == group:
            yield identifier


def measure(seconds: float) -> list[list[float]]:
    """Return how long creates of each group took, in ms."""
    found: list[list[float]] = [[] for _ in range(PROCESSES_COUNT)]
    arguments = ("--processes", str(PROCESSES_COUNT), "--shards", str(SHARDS_COUNT))
    with (
        tempfile.TemporaryDirectory(prefix="troth-hop-") as directory,
        OwnServer(Path(directory) / "server", None, arguments) as server,
    ):
        target = server.target
        connection = http.client.HTTPConnection(target.host, target.port)
        ids = [ids_of(group) for group in range(PROCESSES_COUNT)]
        begun_s = time.perf_counter()
        while time.perf_counter() - begun_s < seconds:
            for group, durations in enumerate(found):
                body = json.dumps({"id": next(ids[group]), "timeout": TIMEOUT_MS})
                asked_s = time.perf_counter()
                connection.request("POST", "/promises", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                durations.append((time.perf_counter() - asked_s) * 1000)
                assert answer.status == 201, answer.status
        connection.close()
    return [durations[WARM_UP_COUNT:] for durations in found]


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    near, far = sorted(measure(parser.parse_args().seconds), key=statistics.median)
    for name, durations in (("local", near), ("forwarded", far)):
        quarter, half, _ = statistics.quantiles(durations)
        print(f"{name:9}  {len(durations)} creates, p25 {quarter:.2f} ms, p50 {half:.2f} ms")
    print(f"forwarded - local, p50: {statistics.median(far) - statistics.median(near):+.2f} ms")


if __name__ == "__main__":
    main()
