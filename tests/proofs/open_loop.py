"""Clients that create promises at their own times, whatever became of the requests before.

They use REST and `POST /` in turns, on connections that they keep and on new ones.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from tests.helpers.server import ServerProcess
from tests.http.processes.clients import FAR_MS, SHARDS_COUNT, Client
from troth.persistence.placement import DEFAULT_RULE, by_rule, dealt_shards, groups_by_shard

FIXED_COUNT: Final = 3
"""Of so many requests, one is made on a new connection."""

Choose = Callable[[], Sequence[ServerProcess]]
"""Returns the servers that a request may go to now; the next one if the first refuses to connect.
"""

Answer = tuple[int | str, bool, object]
"""A status, or why there is none; whether it says when to try again; what was said of a refusal."""


@dataclass
class Seen:
    """What became of one request: an HTTP or envelope status, or why there is none."""

    identifier: str
    is_envelope: bool
    answered_s: float
    waited_s: float
    status: int | str
    may_retry: bool = False
    problem: object = None
    """What was said of a refusal."""

    @property
    def is_done(self) -> bool:
        """Return whether it was carried out."""
        return self.status == (200 if self.is_envelope else 201)

    @property
    def is_expected(self) -> bool:
        """Return whether it was carried out, or refused as REST may refuse."""
        return self.is_done or (self.status == 503 and not self.is_envelope and self.may_retry)


def by_group(seen: Sequence[Seen], groups_count: int) -> dict[int, list[Seen]]:
    """Return requests by the group that each was about."""
    shard_of = by_rule(DEFAULT_RULE, SHARDS_COUNT)
    groups = groups_by_shard(dealt_shards(SHARDS_COUNT, groups_count))
    found: dict[int, list[Seen]] = {group: [] for group in range(groups_count)}
    for one in seen:
        found[groups[shard_of(one.identifier)]].append(one)
    return found


def statuses(seen: Sequence[Seen]) -> str:
    """Return how often each kind of request ended in each way."""
    counts = Counter(("POST /" if one.is_envelope else "REST", one.status) for one in seen)
    return ", ".join(
        f"{kind} {status}: {number}" for (kind, status), number in sorted(counts.items(), key=str)
    )


def waits(seen: Sequence[Seen]) -> str:
    """Return how long half, 99 % and all of the requests took at most."""
    waits_ms = sorted(one.waited_s * 1000 for one in seen)
    half, most = waits_ms[len(waits_ms) // 2], waits_ms[len(waits_ms) * 99 // 100]
    return f"waits half/99 %/all {half:.0f}/{most:.0f}/{waits_ms[-1]:.0f} ms"


class Requester(threading.Thread):
    """One client: makes a request at each of its times, or as fast as it goes."""

    def __init__(self, choose: Choose, name: str, pause_s: float, first_s: float) -> None:
        super().__init__(name=name)
        self.seen: list[Seen] = []
        self.renewed_count = 0
        """Kept connections that had ended before anything was said on them."""
        self.is_over = threading.Event()
        self._choose = choose
        self._pause_s, self._next_s = pause_s, first_s
        self._kept: tuple[ServerProcess, Client] | None = None

    def run(self) -> None:
        """Make requests until told to stop."""
        for number in count():
            wait_s = self._next_s - time.monotonic()
            if self.is_over.wait(max(wait_s, 0.0)):
                break
            due_s = self._next_s if self._pause_s else time.monotonic()
            self._next_s = due_s + self._pause_s
            identifier, is_envelope = f"{self.name}-{number}x", number % 2 == 1
            answer = self._ask(identifier, is_envelope, number % FIXED_COUNT == 0)
            now_s = time.monotonic()
            self.seen.append(Seen(identifier, is_envelope, now_s, now_s - due_s, *answer))
        self._forget()

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def _ask(self, identifier: str, is_envelope: bool, is_new: bool) -> Answer:
        """Make a request."""
        servers = self._choose()
        if self._kept is not None and self._kept[0] not in servers:
            self._forget()
        if self._kept is not None and not is_new:
            try:
                return _asked(self._kept[1], identifier, is_envelope)
            except OSError:
                self._forget()
                self.renewed_count += 1
        problem = "no server is ready"
        for server in servers:
            try:
                client = Client(server)
            except OSError as error:
                problem = f"no connection: {error!r}"
            else:
                return self._ask_on(server, client, identifier, is_envelope)
        return problem, False, None

    def _ask_on(
        self, server: ServerProcess, client: Client, identifier: str, is_envelope: bool
    ) -> Answer:
        """Make a request on a new connection, which is kept if there is none."""
        try:
            answer = _asked(client, identifier, is_envelope)
        except OSError as error:
            client.close()
            return f"no answer: {error!r}", False, None
        if self._kept is None:
            self._kept = server, client
        else:
            client.close()
        return answer


def _asked(client: Client, identifier: str, is_envelope: bool) -> Answer:
    if is_envelope:
        made = {"id": identifier, "timeoutAt": FAR_MS, "param": {}, "tags": {}}
        status, found = client.envelope("promise.create", **made)
        return status, False, None if status == 200 else found
    # With a key, what was carried out before its connection ended is told so again.
    body = {"id": identifier, "timeout": FAR_MS}
    status, found = client.ask("POST", "/promises", body, {"Idempotency-Key": identifier})
    is_done = status in (200, 201)
    return 201 if is_done else status, "retry-after" in client.headers, None if is_done else found


def load(choose: Choose, word: str, clients_count: int, rate: float) -> list[Requester]:
    """Start clients that together make `rate` requests a second; 0: as many as they can."""
    begins_s = time.monotonic()
    pause_s = clients_count / rate if rate else 0.0
    made = [
        Requester(choose, f"{word}-{number}", pause_s, begins_s + pause_s * number / clients_count)
        for number in range(clients_count)
    ]
    for one in made:
        one.start()
    return made


def stop(clients: Sequence[Requester]) -> list[Seen]:
    """Let clients end, and return what they have seen."""
    for one in clients:
        one.is_over.set()
    for one in clients:
        one.join(60)
        assert not one.is_alive(), "a request without an answer"
    return [seen for one in clients for seen in one.seen]
