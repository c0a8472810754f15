"""Proof: a process of several that is killed under load takes nothing with it, and is soon back.

    python -m tests.proofs.kill --processes 3 --rounds 20 --seed 1

As `kill.py`, with one server for all rounds. Each round kills one of its processes at a random
moment, or all at once, while clients and workers go on with the others: what was acknowledged is
there, what is in doubt was done wholly or not at all, and nothing was done twice. What it costs is
reported: how long the group was away, and how long others had to wait in that time. A process that
ends again within a minute is started after a pause, which is told apart; and a kill waits until
there is a spare process.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from tests.http.processes.clients import ids_by_group
from troth.cli.supervising.restart import asked
from troth.http.supervision.seat import OWNER

from .journal import Journal, random_operation
from .kill import ARGUMENTS, Proof
from .support import NO_ANSWER, Client

SHARDS: Final = ("--shards", "16")
BACK_LIMIT_S: Final = 60.0
"""For a machine on which much else runs; the report says what it was."""
STEP_S: Final = 0.005
ALL_EVERY_COUNT: Final = 4
"""Of so many rounds, one kills all processes at once."""


class ProcessProof(Proof):
    """One run over the ends of many processes on one directory."""

    def __init__(
        self, directory: Path, seed: int, say: Callable[[str], object], processes_count: int
    ) -> None:
        arguments = (*ARGUMENTS[2:], *SHARDS, "--processes", str(processes_count))
        super().__init__(directory, seed, say, arguments)
        self._processes_count = processes_count
        self._is_over = threading.Event()
        self.away_s: list[float] = []
        """How long each group that lost its process did not answer, without its pause."""
        self.pauses_s: list[float] = []
        """What the supervisor waited by its rule before it started the next one."""
        self.others_ms: list[float] = []
        """How long requests took in that time that other groups answered."""
        self.refused_count = 0
        """Of these, how many were refused since the process that has the accounts was away."""

    def _round(self, number: int, stops_well: bool) -> None:  # noqa: ARG002
        self._is_over.clear()
        journals, clients, workers = self._start_load(number)
        if number % ALL_EVERY_COUNT == ALL_EVERY_COUNT - 1:
            self._server.kill9()
            self._is_over.set()
            self._start_again()
        else:
            self._kill_one(self._random.randrange(self._processes_count))
            time.sleep(self._random.uniform(0.0, 0.5))
        self.report.kills_count += 1
        self._is_over.set()
        for one in clients:
            one.join(30)
        for worker in workers:
            worker.stop()
            worker.join(30)
        assert not any(one.is_alive() for one in (*clients, *workers)), "without answer or end"
        self.report.doubts_count += sum(journal.doubt is not None for journal in journals)
        with Client(self._server.url, timeout_s=60) as http:
            self._settle(http, journals, stopped_well=False)

    def _load(self, journal: Journal, random: Random) -> None:
        """Send until the round is over, or something is in doubt."""
        number = 0
        try:
            with Client(self._server.url, timeout_s=40) as http:
                while not self._is_over.is_set():
                    if journal.send(http, random_operation(journal, random, number)):
                        number += 1
                    elif journal.doubt is not None:
                        return
                    else:
                        time.sleep(STEP_S)  # nothing was done
        except Exception as error:
            self._ledger.problems.append(f"{journal.client}: {error!r}")
            raise

    def _kill_one(self, process: int) -> None:
        """Kill a process, and wait until its group answers and all are ready."""
        self._wait_until(self._has_spare)
        (found,) = asked(self._server.data, {"ask": "processes"})
        ids = ids_by_group("away")
        connected = [Client(self._server.url, timeout_s=5) for _ in range(8)]
        for http in connected:
            assert http.call("GET", "/ping")[0] == 200
        killed_s = time.monotonic()
        os.kill(found["processes"][process]["pid"], signal.SIGKILL)
        is_back = threading.Event()
        watch = threading.Thread(target=self._ask_others, args=(connected, ids, process, is_back))
        watch.start()
        try:
            self._wait_until(lambda: self._answers(f"/promises/{ids[process][0]}", 404))
            self.away_s.append(time.monotonic() - killed_s)
            pause = re.findall(r"restarts_in_s\W+([0-9.]+)", self._server.log_path.read_text())[-1]
            self.pauses_s.append(float(pause))
            self.away_s[-1] -= self.pauses_s[-1]
        finally:
            is_back.set()
            watch.join()
            for http in connected:
                http.close()
        self._wait_until(lambda: self._answers("/ready", 200))

    def _has_spare(self) -> bool:
        (found,) = asked(self._server.data, {"ask": "processes"})
        return found["spare"] is not None and found["spare"]["loaded"]

    def _wait_until(self, is_true: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + BACK_LIMIT_S
        while not is_true():
            assert time.monotonic() < ends_s, self._server.log()
            time.sleep(STEP_S)

    def _answers(self, path: str, status: int) -> bool:
        try:
            with Client(self._server.url, timeout_s=BACK_LIMIT_S) as http:
                return http.call("GET", path)[0] == status
        except NO_ANSWER:
            return False  # a process that has just been killed had accepted it

    def _ask_others(
        self, connected: list[Client], ids: list[list[str]], process: int, is_over: threading.Event
    ) -> None:
        """Ask for what lives in other groups, through the processes that live, again and again."""
        others = [one for group, found in enumerate(ids) if group != process for one in found]
        left = [*connected]
        while not is_over.is_set():
            for number, http in enumerate([*left]):
                begun_s = time.monotonic()
                try:
                    status, answer = http.call("GET", f"/promises/{others[number % len(others)]}")
                except NO_ANSWER:
                    left.remove(http)  # its process was killed
                    continue
                if status == 503 and process == OWNER:
                    # Nobody can say any more whose credentials are good: a copy has a lease.
                    self.refused_count += 1
                elif status != 404:
                    self._ledger.problems.append(f"another group: {status} {answer}")
                self.others_ms.append((time.monotonic() - begun_s) * 1000)
            time.sleep(STEP_S)

    def costs(self) -> str:
        """Say how long groups were away, and what others waited."""
        away = sorted(self.away_s)
        waited = sorted(self.others_ms)
        return (
            f"away {away[len(away) // 2]:.2f} s at the median, {away[-1]:.2f} s at most, and "
            f"pauses of {sum(self.pauses_s):.1f} s in {len(away)} rounds; others in that time: "
            f"p50 {waited[len(waited) // 2]:.1f} ms, "
            f"p99 {waited[len(waited) * 99 // 100]:.1f} ms of {len(waited)}, "
            f"{self.refused_count} refused"
        )
