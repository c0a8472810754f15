"""Proof: `kill -9` under load, again and again, loses and doubles nothing that was acknowledged.

    python -m tests.proofs.kill --rounds 20 --seed 1
    python -m tests.proofs.kill --processes 3        # process_kill.py

Each round loads the server with all kinds of writes from several clients and workers, kills it at
a random moment (sometimes while it starts, sometimes with SIGTERM instead), starts it again on the
same directory and compares everything with what the clients were told.

`kill -9` keeps what the operating system has in its memory; losing that is proven with simulated
disks in tests/persistence.
"""

import argparse
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.helpers.server import ServerProcess

from .journal import Journal, random_operation, task_is_finished
from .support import Client, search_all
from .workers import Ledger, Worker

CLIENTS_COUNT: Final = 6
WORKERS_COUNT: Final = 2
SECOND_MS: Final = 1000
STALLED_S: Final = 120.0
"""So long may pass in the end in which no task is finished, on a machine that does much else."""
ARGUMENTS: Final = (
    *("--shards", "5"),
    *("--segment-bytes", "65536"),  # the smallest: many segments begin and end
    *("--checkpoint-interval-ms", "100"),  # kills fall between the steps of checkpoints too
    *("--task-claim-timeout-ms", "1000"),
    *("--task-retry-first-ms", "50"),
    *("--task-retry-limit-ms", "500"),
)


class Victim(ServerProcess):
    """A server that can also be killed before it is ready."""

    _patient = True

    def start_and_kill(self, delay_s: float) -> None:
        """Start, and kill it so much later, wherever it is then."""
        self._start_without_waiting(delay_s)
        self.kill9()

    def start_and_terminate(self, delay_s: float) -> int:
        """Start, and ask it to stop so much later; its exit status."""
        self._start_without_waiting(delay_s)
        return self.terminate()

    def start_unready(self) -> None:
        """Start, and do not wait until it is ready."""
        self._patient = False
        try:
            self.start()
        finally:
            self._patient = True

    def _start_without_waiting(self, delay_s: float) -> None:
        self.start_unready()
        time.sleep(delay_s)

    def _wait_until_ready(self) -> None:
        if self._patient:
            super()._wait_until_ready()


@dataclass(slots=True)
class Report:
    """What a proof has seen."""

    rounds_count: int = 0
    kills_count: int = 0
    stops_count: int = 0
    acknowledged_count: int = 0
    doubts_count: int = 0
    promises_count: int = 0
    slots_count: int = 0
    leases_count: int = 0
    redelivered_count: int = 0
    slowest_start_s: float = 0.0

    def __str__(self) -> str:
        """All numbers on one line."""
        numbers = {name: getattr(self, name) for name in self.__slots__}
        return ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())


class Proof:
    """One run over several lives of a server on one directory."""

    _worker_patience_s = 10.0

    def __init__(
        self,
        directory: Path,
        seed: int,
        say: Callable[[str], object],
        arguments: Sequence[str] = ARGUMENTS,
    ) -> None:
        """Everything random follows from `seed`, but for the interleaving."""
        self._random = Random(seed)
        self._server = Victim(directory, *arguments)
        self._journals: list[Journal] = []
        self._ledger = Ledger()
        self._say = say
        self.report = Report()

    def run(self, rounds_count: int) -> Report:
        """Run all rounds. Raises AssertionError at the first thing that is wrong."""
        with self._server:
            for number in range(rounds_count):
                stops_well = number % 4 == 2
                self._round(number, stops_well)
                self._say(f"round {number + 1}: {self.report}")
            self._drain()
            with self._asking() as http:
                self._verify(http, self._journals)
                self._verify_slots(http)
        self.report.leases_count = len(self._ledger.leases)
        self.report.redelivered_count = self._ledger.redelivered_count
        return self.report

    # --- one round --------------------------------------------------------------------------------

    def _round(self, number: int, stops_well: bool) -> None:
        journals, clients, workers = self._start_load(number)
        if stops_well:
            assert self._server.terminate() == 0, self._server.log()
            self.report.stops_count += 1
        else:
            self._server.kill9()
            self.report.kills_count += 1
        for thread in (*clients, *workers):
            thread.join(20)
            assert not thread.is_alive(), "somebody got neither an answer nor an end"
        self.report.doubts_count += sum(journal.doubt is not None for journal in journals)
        self._start_again()
        with self._asking() as http:
            self._settle(http, journals, stopped_well=stops_well)

    def _start_load(
        self, number: int, *, is_of_nodes: bool = False
    ) -> tuple[list[Journal], list[threading.Thread], list[Worker]]:
        """Start the clients and workers of a round, and let them work for a while."""
        journals = [
            Journal(f"r{number}c{index}", is_of_nodes=is_of_nodes) for index in range(CLIENTS_COUNT)
        ]
        self._journals += journals
        clients = [
            threading.Thread(
                target=self._load, args=(one, Random(self._random.random())), daemon=True
            )
            for one in journals
        ]
        workers = self._start_workers(f"round{number}", forgets=0.3)
        for client in clients:
            client.start()
        time.sleep(self._random.uniform(0.3, 1.5))
        return journals, clients, workers

    def _settle(self, http: Client, journals: list[Journal], *, stopped_well: bool) -> None:
        """Find out what a round has done, and count it."""
        for journal in journals:
            journal.settle(http, stopped_well=stopped_well)
        self._verify(http, journals)
        self.report.rounds_count += 1
        self.report.acknowledged_count += sum(journal.acknowledged_count for journal in journals)

    def _load(self, journal: Journal, random: Random) -> None:
        number = 0
        try:
            with Client(self._server.url) as http:
                while journal.send(http, random_operation(journal, random, number)):
                    number += 1
        except Exception as error:
            self._ledger.problems.append(f"{journal.client}: {error!r}")
            raise

    def _start_workers(self, prefix: str, forgets: float) -> list[Worker]:
        names = [f"workers/{prefix}-{index}" for index in range(WORKERS_COUNT)]
        names.append(f"listeners/{prefix}")
        workers = [self._new_worker(name, forgets) for name in names]
        for worker in workers:
            worker.start()
        return workers

    def _new_worker(self, name: str, forgets: float) -> Worker:
        random = Random(self._random.random())
        url, poll_url = self._server.url, self._server.poll_url
        return Worker(self._ledger, url, poll_url, name, random, forgets, self._worker_patience_s)

    def _start_again(self) -> None:
        while self._random.random() < 0.4:
            self._server.start_and_kill(self._random.uniform(0.0, 1.2))
            self.report.kills_count += 1
        started = time.monotonic()
        self._server.start()
        taken_s = time.monotonic() - started
        self.report.slowest_start_s = max(self.report.slowest_start_s, taken_s)

    # --- what must be so --------------------------------------------------------------------------

    def _verify(self, http: Client, journals: list[Journal]) -> None:
        """Compare all promises, and what else these journals know, with what was acknowledged."""
        assert self._ledger.problems == [], self._ledger.problems
        begun_ms = time.time() * 1000
        found = {promise["id"]: promise for promise in search_all(http, "r*")}
        ended_ms = time.time() * 1000
        for journal in self._journals:
            journal.verify_promises(found, begun_ms, ended_ms)
        for journal in journals:
            journal.verify_rest(http)
        made = {name for journal in self._journals for name in journal.promises}
        schedules = tuple(f"{name}." for journal in self._journals for name in journal.schedules)
        strangers = {name for name in found.keys() - made if not name.startswith(schedules)}
        assert not strangers, f"nobody was told of these: {strangers}"
        for task in self._ledger.completed:
            assert task_is_finished(http, task), f"runs again: {task}"
        self.report.promises_count = len(found)

    def _drain(self) -> None:
        """In the end every task is delivered and finished, but for those that are held."""
        workers = self._start_workers("drain", forgets=0.0)
        due = {task for journal in self._journals for task in journal.tasks - journal.claimed}
        for journal in self._journals:
            for name, tasks in journal.waiting.items():
                if journal.promises[name]["state"] != "PENDING":
                    due.update(tasks)
        left, asked_count, ended_s = deque(due), 0, time.monotonic()
        with self._asking() as http:
            while left:
                if task_is_finished(http, left[0]):
                    left.popleft()
                    ended_s = time.monotonic()
                left.rotate()
                asked_count += 1
                assert time.monotonic() < ended_s + STALLED_S, f"never finished: {set(left)}"
                workers = self._still_working(workers)
                if asked_count % (len(left) + 1) == 0:
                    time.sleep(0.05)
        for worker in workers:
            worker.stop()
            worker.join(10)

    def _asking(self) -> Client:
        """Return a client that finds out what there is."""
        return Client(self._server.url, timeout_s=STALLED_S)

    def _still_working(self, workers: list[Worker]) -> list[Worker]:
        """Return those that work in the end: one server that runs ends no worker's stream."""
        return workers

    def _verify_slots(self, http: Client) -> None:
        """Every schedule has fired once in every second of its life, whoever was alive then."""
        for journal in self._journals:
            for name, shown in journal.schedules.items():
                last_ms = None
                if shown is not None:
                    status, schedule = http.call("GET", f"/schedules/{name}")
                    assert status == 200
                    last_ms = schedule["lastRunTime"]
                self._verify_slots_of(search_all(http, f"{name}.*"), name, shown, last_ms)

    def _verify_slots_of(
        self, made: list[dict[str, Any]], name: str, shown: dict[str, Any] | None, last: int | None
    ) -> None:
        slots = sorted(int(promise["id"].removeprefix(f"{name}.")) for promise in made)
        self.report.slots_count += len(slots)
        if not slots and shown is None:
            return  # deleted within its first second
        first = slots[0] if shown is None else (shown["createdOn"] // SECOND_MS + 1) * SECOND_MS
        end = slots[-1] if last is None else max(last, slots[-1])
        assert slots == list(range(first, end + 1, SECOND_MS)), f"{name}: {slots}"
        for promise in made:
            slot = int(promise["id"].removeprefix(f"{name}."))
            assert promise["timeout"] == slot + 3_600_000
            assert promise["tags"]["resonate:schedule"] == name


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="troth-kill-") as directory:
        if arguments.processes > 1:
            from .process_kill import ProcessProof  # which builds on this module

            several = ProcessProof(Path(directory), arguments.seed, print, arguments.processes)
            report, costs = several.run(arguments.rounds), several.costs()
        else:
            report, costs = Proof(Path(directory), arguments.seed, print).run(arguments.rounds), ""
    print(f"nothing lost, nothing doubled: {report}")
    if costs:
        print(costs)


if __name__ == "__main__":
    main()
