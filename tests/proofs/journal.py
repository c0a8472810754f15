"""What one client of the kill proof asked for, was told, and must therefore find after a crash.

A client has one request in flight at a time, so at most its last one is in doubt when the server is
killed. Everything that was acknowledged is expected exactly as it was shown; what is in doubt must
be wholly there or wholly not, and asking again with the same idempotency key must settle it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal
from urllib.parse import quote

from .support import FAR_MS, NO_ANSWER, Client

Kind = Literal[
    "create",
    "create and claim",
    "complete",
    "wait",
    "acquire",
    "release",
    "schedule",
    "unschedule",
    "heartbeat",
]

LEASE_MS: Final = 3_600_000  # outlives every proof
STORE_FAILED: Final = 50304
LINK_BROKEN: Final = 50307
SETTLE_S: Final = 60.0  # effects in other shards must be there by then
IMPOSSIBLE_COUNTER: Final = 999_999
WORKERS: Final = "poll://any@workers"
WEIGHTS: Final[Mapping[str, float]] = {
    "create": 10,
    "root": 3,
    "routed": 8,
    "short": 5,
    "claimed": 4,
    "complete": 12,
    "callback": 10,
    "subscription": 5,
    "acquire": 4,
    "release": 3,
    "heartbeat": 2,
    "schedule": 0.3,
    "unschedule": 0.2,
}
"""How often a client does what; what is not possible yet becomes a creation."""
_OK: Final = {200, 201, 204}


@dataclass(frozen=True, slots=True)
class Operation:
    """One request. `subject` is the id that it is about, `tasks` those that it brings about."""

    kind: Kind
    subject: str
    method: str
    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()


@dataclass(slots=True)
class Journal:
    """What one client knows."""

    client: str
    promises: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    locks: dict[str, bool] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    doubt: Operation | None = None
    acknowledged_count: int = 0
    is_of_nodes: bool = False
    """Whether its server is one of several nodes, and may lose its log to another."""

    @property
    def process_id(self) -> str:
        """What this client calls itself in leases and locks."""
        return f"process-{self.client}"

    @property
    def pending(self) -> list[str]:
        """Promises of this client that only it can complete."""
        return [
            name
            for name, promise in self.promises.items()
            if promise["state"] == "PENDING" and promise["timeout"] == FAR_MS and "root" not in name
        ]

    @property
    def roots(self) -> list[str]:
        """Promises of this client that are waited with and never completed."""
        return [name for name in self.promises if "root" in name]

    def send(self, http: Client, operation: Operation) -> bool:
        """Ask; True if it was acknowledged, False if the server is leaving or gone."""
        self.doubt = operation
        try:
            status, answer = http.call(
                operation.method, operation.path, operation.body, operation.headers
            )
        except NO_ANSWER:
            return False
        if status == 503:
            code = answer["error"]["code"]
            assert code != STORE_FAILED or self.is_of_nodes, "the disk did not fail"
            if is_unknown(status, answer):
                return False
            self.doubt = None  # starting, stopping or overloaded: nothing was done
            return False
        self.note(operation, status, answer)
        return True

    def note(self, operation: Operation, status: int, answer: Any) -> None:
        """Take an answer for a fact."""
        assert status in _OK, (operation, status, answer)
        self.doubt = None
        self.acknowledged_count += 1
        subject = operation.subject
        match operation.kind:
            case "create":
                self.promises[subject] = answer
                self.tasks.update(operation.tasks)
            case "complete":
                self.promises[subject] = answer
                self.claimed.discard(f"__invoke:{subject}")  # a promise's end ends its tasks
            case "create and claim":
                self.promises[subject] = answer["promise"]
                self.tasks.update(operation.tasks)
                self.claimed.update(operation.tasks)
            case "wait":
                self.waiting.setdefault(subject, []).extend(operation.tasks)
            case "acquire":
                self.locks[subject] = True
            case "release":
                self.locks[subject] = False
            case "schedule":
                self.schedules[subject] = answer
            case "unschedule":
                self.schedules[subject] = None
            case "heartbeat":
                count = answer["tasksAffected"]
                assert count == len(self.claimed), (count, len(self.claimed))

    # --- after a crash ----------------------------------------------------------------------------

    def settle(self, http: Client, *, stopped_well: bool) -> None:
        """See whether what is in doubt was done, wholly or not at all; then ask again.

        A server that has stopped in order has answered all that it did: then nothing is in doubt.
        """
        operation = self.doubt
        if operation is None:
            return
        was_done = self._was_done(http, operation)
        assert not (stopped_well and was_done), f"done and not answered: {operation}"
        deadline = time.monotonic() + SETTLE_S
        while (answered := self._asked_again(http, operation)) is None:
            assert time.monotonic() < deadline, f"in doubt for long: {operation}"
            was_done = self._was_done(http, operation)  # an owner was too slow, and is no more
        status, answer = answered
        if operation.kind in {"create", "create and claim", "complete", "schedule"}:
            assert status == (200 if was_done else 201), (operation, was_done, status, answer)
        elif operation.kind in {"release", "unschedule"} and status == 404:
            status = 204
        self.note(operation, status, answer)

    def _asked_again(self, http: Client, operation: Operation) -> tuple[int, Any] | None:
        """Ask for what is in doubt; None if it is in doubt again, as it may be among nodes."""
        try:
            status, answer = http.call(
                operation.method, operation.path, operation.body, operation.headers
            )
        except NO_ANSWER:
            if not self.is_of_nodes:
                raise
            return None
        return None if self.is_of_nodes and is_unknown(status, answer) else (status, answer)

    def _was_done(self, http: Client, operation: Operation) -> bool:
        """Whether an operation in doubt was done. Fails if it was done by half."""
        subject = operation.subject
        kind = operation.kind
        if kind in {"create", "create and claim"}:
            status, promise = http.call("GET", f"/promises/{quote(subject)}")
            assert status in {200, 404}, (status, promise)
            if status == 200:
                asked = operation.body.get("promise", operation.body)
                assert promise["timeout"] == asked["timeout"]
                assert promise["param"] == asked["param"]
                assert promise["tags"] == asked["tags"]
                assert promise["idempotencyKeyForCreate"] == operation.headers["Idempotency-Key"]
            for task in operation.tasks:
                assert task_exists(http, task) == (status == 200), f"by half: {operation}"
            return bool(status == 200)
        if kind == "complete":
            status, promise = http.call("GET", f"/promises/{quote(subject)}")
            assert status == 200, (status, promise)
            was_done = promise["state"] != "PENDING"
            if was_done:
                assert promise["state"] == operation.body["state"]
                assert promise["value"] == operation.body["value"]
                wait_until_all_exist(http, self.waiting.get(subject, []))
            else:
                assert not any(task_exists(http, task) for task in self.waiting.get(subject, []))
            return bool(was_done)
        if kind == "schedule":
            status, _ = http.call("GET", f"/schedules/{quote(subject)}")
            assert status in {200, 404}
            return bool(status == 200)
        return False  # asking again leads to the same, done or not

    def verify_promises(
        self, found: Mapping[str, dict[str, Any]], begun_ms: float, ended_ms: float
    ) -> None:
        """Every promise is there exactly as it was shown, or has timed out as it had to.

        `found` is all promises, read between the two times.
        """
        assert self.doubt is None, "settle first"
        for name, shown in self.promises.items():
            assert name in found, f"lost: {shown}"
            expected = shown
            if found[name]["state"] == "REJECTED_TIMEDOUT" and shown["state"] == "PENDING":
                assert shown["timeout"] <= ended_ms, f"too early: {found[name]}"
                expected = timed_out(shown)
            assert found[name] == expected, f"changed: {shown} became {found[name]}"
            if shown["timeout"] <= begun_ms:
                assert found[name]["state"] != "PENDING", f"did not time out: {found[name]}"

    def verify_rest(self, http: Client) -> None:
        """Every task, lease, lock and schedule is there."""
        for task in self.tasks:
            assert task_exists(http, task), f"lost: {task}"
        for name, tasks in self.waiting.items():
            if self.promises[name]["state"] != "PENDING":
                wait_until_all_exist(http, tasks)
        self._verify_leases(http)
        self._verify_schedules(http)

    def _verify_leases(self, http: Client) -> None:
        if self.claimed:
            body = {"processId": self.process_id}
            status, answer = http.call("POST", "/tasks/heartbeat", body)
            assert (status, answer) == (200, {"tasksAffected": len(self.claimed)})
        for name, is_held in self.locks.items():
            other = {"resourceId": name, "executionId": "other", "processId": "other", "ttl": 0}
            status, _ = http.call("POST", "/locks/acquire", other)
            assert status == (403 if is_held else 201), (name, is_held, status)

    def _verify_schedules(self, http: Client) -> None:
        for name, shown in self.schedules.items():
            status, schedule = http.call("GET", f"/schedules/{quote(name)}")
            assert status == (404 if shown is None else 200), (name, status)
            if shown is not None:
                moving = {"lastRunTime", "nextRunTime"}
                assert {key: schedule[key] for key in schedule.keys() - moving} == {
                    key: shown[key] for key in shown.keys() - moving
                }


def is_unknown(status: int, answer: Any) -> bool:
    """Return whether an answer leaves open if the request was carried out."""
    return status == 503 and answer["error"]["code"] in (LINK_BROKEN, STORE_FAILED)


def timed_out(promise: Mapping[str, Any]) -> dict[str, Any]:
    """What a pending promise becomes when its deadline passes."""
    return {
        **promise,
        "state": "REJECTED_TIMEDOUT",
        "completedOn": promise["timeout"],
    }


def task_exists(http: Client, task_id: str) -> bool:
    """Whether there is a task, finished or not. Changes nothing: no task has this counter."""
    body = {"id": task_id, "counter": IMPOSSIBLE_COUNTER}
    status, answer = http.call("POST", "/tasks/complete", body)
    assert status in {200, 403, 404}, (status, answer)
    return bool(status != 404)


def task_is_finished(http: Client, task_id: str) -> bool:
    """Whether a task has ended. Changes nothing."""
    body = {"id": task_id, "counter": IMPOSSIBLE_COUNTER}
    return http.call("POST", "/tasks/complete", body)[0] == 200


def wait_until_all_exist(http: Client, tasks: list[str]) -> None:
    """Tasks in other shards are made a moment after the completion that leads to them."""
    deadline = time.monotonic() + SETTLE_S
    while missing := [task for task in tasks if not task_exists(http, task)]:
        assert time.monotonic() < deadline, f"never made: {missing}"
        time.sleep(0.01)


def random_operation(journal: Journal, random: Random, number: int) -> Operation:
    """The next thing a client does: all kinds of writes, on what it has made before."""
    name = f"{journal.client}.{number}"
    pending, roots = journal.pending, journal.roots
    held = [lock for lock, is_held in journal.locks.items() if is_held]
    running = [key for key, schedule in journal.schedules.items() if schedule is not None]
    chosen = random.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    if chosen == "complete" and pending:
        return _completion(random, random.choice(pending))
    if chosen == "callback" and pending and roots:
        return _callback(random.choice(pending), random.choice(roots))
    if chosen == "subscription" and pending:
        return _subscription(random.choice(pending), name)
    body: dict[str, Any]
    if chosen == "claimed":
        body = {
            "promise": _promise(random, name, {"resonate:invoke": WORKERS}),
            "task": {"processId": journal.process_id, "ttl": LEASE_MS},
        }
        task = (f"__invoke:{name}",)
        return Operation("create and claim", name, "POST", "/promises/task", body, _key(name), task)
    if chosen == "acquire" or (chosen == "release" and held):
        return _lock(journal, name if chosen == "acquire" else random.choice(held), chosen)
    if chosen == "heartbeat":
        body = {"processId": journal.process_id}
        return Operation("heartbeat", "", "POST", "/tasks/heartbeat", body)
    if chosen == "schedule" and len(journal.schedules) < 3:
        body = {
            "id": f"{name}.schedule",
            "cron": "* * * * * *",
            "promiseId": "{{.id}}.{{.timestamp}}",
            "promiseTimeout": LEASE_MS,
        }
        return Operation("schedule", f"{name}.schedule", "POST", "/schedules", body, _key(name))
    if chosen == "unschedule" and running:
        gone = random.choice(running)
        return Operation("unschedule", gone, "DELETE", f"/schedules/{gone}", None)
    return _creation(random, name, chosen)


def _key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": f"key of {name}"}


def _promise(random: Random, name: str, tags: dict[str, str]) -> dict[str, Any]:
    data = "QUJD" * random.choice((1, 10, 100, 1000))
    return {
        "id": name,
        "timeout": FAR_MS,
        "param": {"headers": {"made": name}, "data": data},
        "tags": {"proof": "kill", **tags},
    }


def _creation(random: Random, name: str, chosen: str) -> Operation:
    tasks: tuple[str, ...] = ()
    body = _promise(random, name, {})
    if chosen == "root":
        body["id"] = name = f"{name}.root"
    elif chosen == "routed":
        body["tags"]["resonate:invoke"] = WORKERS
        tasks = (f"__invoke:{name}",)
    elif chosen == "short":
        # Some end before the crash, some while the server is down, some after.
        body["timeout"] = int(time.time() * 1000) + random.randrange(3000)
    return Operation("create", name, "POST", "/promises", body, _key(name), tasks)


def _completion(random: Random, name: str) -> Operation:
    body = {
        "state": random.choice(("RESOLVED", "REJECTED", "REJECTED_CANCELED")),
        "value": {"data": "WFla" * random.choice((1, 100))},
    }
    return Operation("complete", name, "PATCH", f"/promises/{name}", body, _key(name))


def _callback(leaf: str, root: str) -> Operation:
    body = {
        "id": "unused",
        "promiseId": leaf,
        "rootPromiseId": root,
        "timeout": FAR_MS,
        "recv": WORKERS,
    }
    return Operation("wait", leaf, "POST", "/callbacks", body, {}, (f"__resume:{root}:{leaf}",))


def _subscription(leaf: str, name: str) -> Operation:
    body = {"id": name, "promiseId": leaf, "timeout": FAR_MS, "recv": "poll://any@listeners"}
    return Operation("wait", leaf, "POST", "/subscriptions", body, {}, (f"__notify:{leaf}:{name}",))


def _lock(journal: Journal, name: str, chosen: str) -> Operation:
    body: dict[str, Any] = {"resourceId": name, "executionId": name}
    if chosen == "release":
        return Operation("release", name, "POST", "/locks/release", body)
    body = {**body, "processId": journal.process_id, "ttl": LEASE_MS}
    return Operation("acquire", name, "POST", "/locks/acquire", body)
