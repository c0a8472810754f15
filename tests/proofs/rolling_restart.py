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
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from tests.helpers.server import ServerProcess
from tests.http.processes.clients import FAR_MS, SHARDS_COUNT, Client
from troth.cli.supervising.restart import asked
from troth.persistence.placement import DEFAULT_RULE, by_rule, dealt_shards, groups_by_shard

REFUSALS_LIMIT_S: Final = 2.0
"""For how long REST may answer 503 about one group, from the first such answer to the last."""
WARM_UP_S: Final = 1.5
SETTLE_S: Final = 0.5
FIXED_COUNT: Final = 3
"""Of so many requests, one is made on a new connection."""


@dataclass
class Seen:
    """What became of one request: an HTTP or envelope status, or why there is none."""

    identifier: str
    is_envelope: bool
    answered_s: float
    waited_s: float
    status: int | str
    may_retry: bool = False


@dataclass
class RestartReport:
    """What clients saw of one restart."""

    rate: float
    duration_s: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    renewed_count: int = 0
    """Kept connections that had ended before anything was said on them."""
    answers: list[dict[str, object]] = field(default_factory=list)

    def statuses(self) -> Counter[tuple[str, int | str]]:
        """Return how often each kind of request ended in each way."""
        return Counter(("POST /" if one.is_envelope else "REST", one.status) for one in self.seen)

    def longest_refusals_s(self, processes_count: int) -> float:
        """Return the longest time that REST answered 503 about one group."""
        shard_of = by_rule(DEFAULT_RULE, SHARDS_COUNT)
        groups = groups_by_shard(dealt_shards(SHARDS_COUNT, processes_count))
        times: dict[int, list[float]] = {}
        for one in self.seen:
            if one.status == 503:
                times.setdefault(groups[shard_of(one.identifier)], []).append(one.answered_s)
        return max((max(found) - min(found) for found in times.values()), default=0.0)

    def problems(self, processes_count: int) -> list[object]:
        """Return what may not be."""
        found: list[object] = [
            one
            for one in self.seen
            if one.status != (200 if one.is_envelope else 201)
            and not (one.status == 503 and not one.is_envelope and one.may_retry)
        ]
        longest_s = self.longest_refusals_s(processes_count)
        if longest_s > REFUSALS_LIMIT_S:
            found.append(f"REST answered 503 about one group for {longest_s:.1f} s")
        if self.answers[-1:] != [{"done": True}]:
            found.append(self.answers)
        return found

    def __str__(self) -> str:
        waits_ms = sorted(one.waited_s * 1000 for one in self.seen)
        half, most = waits_ms[len(waits_ms) // 2], waits_ms[len(waits_ms) * 99 // 100]
        ended = ", ".join(
            f"{kind} {status}: {number}"
            for (kind, status), number in sorted(self.statuses().items(), key=str)
        )
        return (
            f"{len(self.seen)} requests at {self.rate:.0f}/s, {ended}; {self.renewed_count} kept "
            f"connections renewed; waits half/99 %/all {half:.0f}/{most:.0f}/{waits_ms[-1]:.0f} "
            f"ms; the restart took {self.duration_s:.1f} s"
        )


class _Requester(threading.Thread):
    """One client: makes a request at each of its times, or as fast as it goes."""

    def __init__(self, server: ServerProcess, name: str, pause_s: float, first_s: float) -> None:
        super().__init__(name=name)
        self.seen: list[Seen] = []
        self.renewed_count = 0
        self.is_over = threading.Event()
        self._server = server
        self._pause_s, self._next_s = pause_s, first_s
        self._kept: Client | None = None

    def run(self) -> None:
        """Make requests until told to stop."""
        for number in count():
            wait_s = self._next_s - time.monotonic()
            if self.is_over.wait(max(wait_s, 0.0)):
                break
            due_s = self._next_s if self._pause_s else time.monotonic()
            self._next_s = due_s + self._pause_s
            identifier, is_envelope = f"{self.name}-{number}x", number % 2 == 1
            status, may_retry = self._ask(identifier, is_envelope, number % FIXED_COUNT == 0)
            now_s = time.monotonic()
            self.seen.append(Seen(identifier, is_envelope, now_s, now_s - due_s, status, may_retry))
        if self._kept is not None:
            self._kept.close()

    def _ask(self, identifier: str, is_envelope: bool, is_new: bool) -> tuple[int | str, bool]:
        """Make a request; return its status, and whether the answer says when to try again."""
        kept = None if is_new else self._kept
        if kept is not None:
            try:
                return _asked(kept, identifier, is_envelope)
            except OSError:
                kept.close()
                self._kept = None
                self.renewed_count += 1
        try:
            client = Client(self._server)
        except OSError as error:
            return f"no connection: {error!r}", False
        try:
            answer = _asked(client, identifier, is_envelope)
        except OSError as error:
            client.close()
            return f"no answer: {error!r}", False
        if self._kept is None:
            self._kept = client
        else:
            client.close()
        return answer


def _asked(client: Client, identifier: str, is_envelope: bool) -> tuple[int, bool]:
    if is_envelope:
        made = {"id": identifier, "timeoutAt": FAR_MS, "param": {}, "tags": {}}
        return client.envelope("promise.create", **made)[0], False
    status, _ = client.ask("POST", "/promises", {"id": identifier, "timeout": FAR_MS})
    if status == 409:
        status = 201  # it was carried out before the connection ended, and is told so again
    return status, "retry-after" in client.headers


def _load(server: ServerProcess, word: str, clients_count: int, rate: float) -> list[_Requester]:
    """Start clients that together make `rate` requests a second; 0: as many as they can."""
    begins_s = time.monotonic()
    pause_s = clients_count / rate if rate else 0.0
    made = [
        _Requester(server, f"{word}-{number}", pause_s, begins_s + pause_s * number / clients_count)
        for number in range(clients_count)
    ]
    for one in made:
        one.start()
    return made


def _stop(clients: Sequence[_Requester]) -> list[Seen]:
    for one in clients:
        one.is_over.set()
    for one in clients:
        one.join(60)
        assert not one.is_alive(), "a request without an answer"
    return [seen for one in clients for seen in one.seen]


def restart_under_load(
    server: ServerProcess, word: str, clients_count: int, warm_up_s: float = WARM_UP_S
) -> RestartReport:
    """Replace all processes of a server under half of the load that the clients can make."""
    fast = _load(server, f"{word}-fast", clients_count, 0.0)
    time.sleep(warm_up_s)
    rate = len(_stop(fast)) / warm_up_s / 2
    report = RestartReport(rate)
    clients = _load(server, word, clients_count, rate)
    time.sleep(SETTLE_S)
    begun_s = time.monotonic()
    try:
        report.answers = list(asked(server.data, {"ask": "restart"}))
        report.duration_s = time.monotonic() - begun_s
        time.sleep(SETTLE_S)
    finally:
        report.seen = _stop(clients)
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
