"""Proof: processes that are replaced one after the other under load refuse no client.

    python -m tests.proofs.rolling_restart --processes 3 --clients 24

Clients create promises, through REST and through `POST /`, on connections that they keep and on new
ones. First as fast as they can; then at half of that rate, each request at its own time whatever
became of those before it, while `troth restart` replaces every process. It fails if a connection is
refused or ends without an answer, unless it was kept and nothing was said on it yet, which every
client has to expect; if REST answers 5xx, but for 503 with `Retry-After` during at most 2 s for
each group; and if `POST /` answers anything but 200.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.helpers.server import ServerProcess
from tests.http.processes.clients import SHARDS_COUNT
from troth.cli.supervising.restart import asked

from .open_loop import Seen, by_group, load, statuses, stop, waits

REFUSALS_LIMIT_S: Final = 2.0
"""For how long REST may answer 503 about one group, from the first such answer to the last."""
WARM_UP_S: Final = 1.5
SETTLE_S: Final = 0.5


@dataclass
class RestartReport:
    """What clients saw of one restart."""

    rate: float
    duration_s: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    renewed_count: int = 0
    """Kept connections that had ended before anything was said on them."""
    answers: list[dict[str, object]] = field(default_factory=list)

    def longest_refusals_s(self, processes_count: int) -> float:
        """Return the longest time that REST answered 503 about one group."""
        refused = by_group([one for one in self.seen if one.status == 503], processes_count)
        times = [[one.answered_s for one in found] for found in refused.values() if found]
        return max((max(found) - min(found) for found in times), default=0.0)

    def problems(self, processes_count: int) -> list[object]:
        """Return what may not be."""
        found: list[object] = [one for one in self.seen if not one.is_expected]
        longest_s = self.longest_refusals_s(processes_count)
        if longest_s > REFUSALS_LIMIT_S:
            found.append(f"REST answered 503 about one group for {longest_s:.1f} s")
        if self.answers[-1:] != [{"done": True}]:
            found.append(self.answers)
        return found

    def __str__(self) -> str:
        return (
            f"{len(self.seen)} requests at {self.rate:.0f}/s, {statuses(self.seen)}; "
            f"{self.renewed_count} kept connections renewed; {waits(self.seen)}; the restart took "
            f"{self.duration_s:.1f} s"
        )


def restart_under_load(
    server: ServerProcess, word: str, clients_count: int, warm_up_s: float = WARM_UP_S
) -> RestartReport:
    """Replace all processes of a server under half of the load that the clients can make."""
    fast = load(lambda: [server], f"{word}-fast", clients_count, 0.0)
    time.sleep(warm_up_s)
    rate = len(stop(fast)) / warm_up_s / 2
    report = RestartReport(rate)
    clients = load(lambda: [server], word, clients_count, rate)
    time.sleep(SETTLE_S)
    begun_s = time.monotonic()
    try:
        report.answers = list(asked(server.data, {"ask": "restart"}))
        report.duration_s = time.monotonic() - begun_s
        time.sleep(SETTLE_S)
    finally:
        report.seen = stop(clients)
    report.renewed_count = sum(one.renewed_count for one in clients)
    return report


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    processes_count = arguments.processes
    with tempfile.TemporaryDirectory(prefix="troth-restart-") as directory:
        count_options = ("--processes", str(processes_count), "--shards", str(SHARDS_COUNT))
        with ServerProcess(Path(directory), *count_options) as server:
            for number in range(arguments.rounds):
                report = restart_under_load(server, f"round{number}", arguments.clients)
                print(report)
                problems = report.problems(processes_count)
                for one in problems[:20]:
                    print("problem:", one)
                if problems:
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
