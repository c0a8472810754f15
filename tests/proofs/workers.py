"""Workers of the kill proof: take messages from a stream, claim, keep, complete, or just forget.

They hold the server to its word: the same lease (task and counter) is never given twice, and what
was acknowledged as completed is never handed out again.
"""

import contextlib
import http.client
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

from .support import NO_ANSWER, Client

LEASE_MS: Final = 700  # forgotten tasks come back soon


@dataclass
class Ledger:
    """What all workers together were told, over all lives of the server."""

    leases: set[tuple[str, int]] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    notified: set[str] = field(default_factory=set)
    messages_count: int = 0
    redelivered_count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    problems: list[str] = field(default_factory=list)

    def lease(self, task_id: str, counter: int) -> None:
        """Note that a claim was acknowledged."""
        with self.lock:
            if (task_id, counter) in self.leases:
                self.problems.append(f"given out twice: {task_id} {counter}")
            if task_id in self.completed:
                self.problems.append(f"given out after its end: {task_id} {counter}")
            self.redelivered_count += counter > 1
            self.leases.add((task_id, counter))

    def complete(self, task_id: str) -> None:
        """Note that a completion was acknowledged."""
        with self.lock:
            self.completed.add(task_id)


class Worker(threading.Thread):
    """One worker; ends when the server does, or when `stop` is called and a message comes."""

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        poll_url: str,
        name: str,
        random: Random,
        forgets: float,
        patience_s: float,
    ) -> None:
        """`forgets` is the share of claimed tasks that it never completes."""
        super().__init__(name=name, daemon=True)
        self._ledger = ledger
        self._url = url
        self._stream_url = urlsplit(f"{poll_url}/{name}")
        self._random = random
        self._forgets = forgets
        self._patience_s = patience_s
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._waiting: dict[str, dict[str, Any]] = {}
        self._has_ended = False
        self._connection = http.client.HTTPConnection(
            self._stream_url.hostname or "", self._stream_url.port, timeout=60
        )

    def stop(self) -> None:
        """Hang up."""
        self._stopping.set()
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)

    def run(self) -> None:
        """Work until the stream ends."""
        taking = threading.Thread(target=self._guarded, args=(self._take_all,), daemon=True)
        taking.start()
        self._guarded(self._read)
        with self._changed:
            self._has_ended = True
            self._changed.notify()
        taking.join()
        self._connection.close()

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do something that ends with the server, or by `stop`; note any other problem."""
        try:
            act()
        except NO_ANSWER as error:
            if not self._stopping.is_set():
                self._ended_by = error  # the server was killed: what this proof is about
        except Exception as error:
            self._ledger.problems.append(f"{self.name}: {error!r}")
            raise
        finally:
            if self._connection.sock is not None:
                with contextlib.suppress(OSError):
                    self._connection.sock.shutdown(2)  # the other half ends as well

    def _read(self) -> None:
        """Read messages; of those about the same subject the last one counts."""
        self._connection.request("GET", self._stream_url.path)
        response = self._connection.getresponse()
        while line := response.readline():
            if line.startswith(b"data: "):
                message = json.loads(line[6:])
                subject = message["task"] if "task" in message else message["promise"]
                with self._changed:
                    self._waiting.pop(subject["id"], None)
                    self._waiting[subject["id"]] = message
                    self._changed.notify()

    def _take_all(self) -> None:
        """Take what has come, the newest first: on a busy machine the oldest has come again."""
        with Client(self._url, self._patience_s) as client:
            while True:
                with self._changed:
                    while not self._waiting and not self._has_ended:
                        self._changed.wait()
                    if self._has_ended:
                        return
                    _, message = self._waiting.popitem()
                self._take(client, message)

    def _take(self, client: Client, message: dict[str, Any]) -> None:
        self._ledger.messages_count += 1
        if message["type"] == "notify":
            if message["promise"]["state"] == "PENDING":
                self._ledger.problems.append(f"told too early: {message}")
            self._ledger.notified.add(message["promise"]["id"])
            return
        task = message["task"]
        lease = {"id": task["id"], "counter": task["counter"]}
        body = {**lease, "processId": self.name, "ttl": LEASE_MS}
        status, answer = client.call("POST", "/tasks/claim", body)
        if status != 201:
            if status not in {403, 503}:
                self._ledger.problems.append(f"claim: {lease} {status} {answer}")
            return
        self._ledger.lease(task["id"], task["counter"])
        if self._random.random() < self._forgets:
            return
        if self._random.random() < 0.3:
            client.call("POST", "/tasks/heartbeat", {"processId": self.name})
        status, answer = client.call("POST", "/tasks/complete", lease)
        if status in {200, 201}:
            self._ledger.complete(task["id"])
        elif status not in {403, 503}:  # 403: the lease ran out on a slow machine
            self._ledger.problems.append(f"complete: {lease} {status} {answer}")
