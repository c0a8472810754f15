"""What hangs clients of the envelope protocol (envelope.md 12), each provoked on a real server."""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.listening import EventStream
from tests.helpers.server import ServerProcess, http_json
from tests.http.envelope.conversation import VERSION, unspeakable

pytestmark = pytest.mark.slow

FAR_MS: Final = 4_102_444_800_000
SOON_S: Final = 10.0  # on a busy machine; what is not at once comes after 30 s and more
_numbers: Final = itertools.count(1)


def say(
    server: ServerProcess, kind: str, data: object, corr_id: str | None = None
) -> tuple[int, Any]:
    """Make a request; return status and data."""
    corr_id = corr_id or f"c{next(_numbers)}"
    head = {"corrId": corr_id, "version": VERSION}
    envelope = {"kind": kind, "head": head, "data": data}
    status, answer = http_json("POST", server.url + "/", envelope)
    assert answer["head"] == {"corrId": corr_id, "status": status, "version": VERSION}
    assert answer["kind"] == kind
    assert not list(unspeakable(answer))
    return status, answer["data"]


def good(server: ServerProcess, kind: str, /, **data: object) -> Any:
    """Make a request that succeeds; return its data."""
    status, answer = say(server, kind, data)
    assert status == 200, answer
    return answer


def create(server: ServerProcess, promise_id: str, target: str = "", **more: object) -> None:
    """Create a promise, with a task if there is a target."""
    tags = {"resonate:target": target} if target else {}
    good(server, "promise.create", **{"id": promise_id, "timeoutAt": FAR_MS, "tags": tags, **more})


def settle(server: ServerProcess, promise_id: str) -> None:
    """Resolve a promise."""
    good(server, "promise.settle", id=promise_id, state="resolved")


def claim(server: ServerProcess, task_id: str, version: int = 0, ttl: int = 60_000) -> None:
    """Acquire a task."""
    good(server, "task.acquire", id=task_id, version=version, pid="w", ttl=ttl)


def task(server: ServerProcess, task_id: str) -> Any:
    """Return a task as it is."""
    return good(server, "task.get", id=task_id)["task"]


def stream(server: ServerProcess, group: str, name: str = "w") -> EventStream:
    """Connect a worker to the API port."""
    return EventStream(f"{server.url}/poll/{group}/{name}")


def executed(message: Any) -> tuple[str, int]:
    """Return what an execute message is about."""
    assert message["kind"] == "execute"
    found = message["data"]["task"]
    return found["id"], found["version"]


def cpu_s(server: ServerProcess) -> float:
    """Return the seconds of a core that the server has used."""
    with open(f"/proc/{server.process_id}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- 1: a worker whose stream goes on for too long ------------------------------------------------


def test_a_stream_is_ended_by_the_server_and_the_next_has_what_came_meanwhile(
    tmp_path: Path,
) -> None:
    with ServerProcess(tmp_path, "--poll-stream-limit-ms", "1000") as server:
        with stream(server, "g") as worker:
            create(server, "t", "poll://any@g")
            assert executed(worker.next(SOON_S)) == ("t", 0)
            claim(server, "t")
            worker.wait_until_ended()
        create(server, "u", "poll://any@g/w")
        create(server, "p")
        good(server, "promise.register_listener", awaited="p", address="poll://any@g/w")
        settle(server, "p")
        with stream(server, "g") as worker:
            kinds = sorted(worker.next(SOON_S)["kind"] for _ in range(2))

    assert kinds == ["execute", "unblock"]


# --- 2: an unblock that is dropped ----------------------------------------------------------------


def _stop_in_order(server: ServerProcess) -> None:
    server.terminate()
    server.start()


@pytest.mark.parametrize(
    "interrupt",
    [lambda _server: None, _stop_in_order, ServerProcess.restart],
    ids=["reconnect", "stop", "kill -9"],
)
@pytest.mark.parametrize("address", ["poll://uni@g/l", "poll://any@g/l"])
def test_an_unblock_waits_for_its_listener(
    server: ServerProcess, interrupt: Callable[[ServerProcess], None], address: str
) -> None:
    create(server, "p")
    with stream(server, "g", "l"):
        good(server, "promise.register_listener", awaited="p", address=address)
    settle(server, "p")
    interrupt(server)
    with stream(server, "g", "other") as other, stream(server, "g", "l") as listener:
        message = listener.next(SOON_S)
        assert other.arrived() == []

    assert (message["kind"], message["head"]) == ("unblock", {})
    assert message["data"]["promise"]["id"] == "p"
    assert not list(unspeakable(message))


# --- 3: a claim whose answer was lost -------------------------------------------------------------


def test_a_claim_repeated_after_a_restart_gets_the_same_answer(server: ServerProcess) -> None:
    create(server, "t", "poll://any@g")
    acquire = {"id": "t", "version": 0, "pid": "w", "ttl": 60_000}
    new = {"id": "n", "timeoutAt": FAR_MS, "tags": {"resonate:target": "poll://any@g"}}
    run = {"pid": "w", "ttl": 60_000, "action": {"data": new}}
    requests = (("task.acquire", acquire, "a1"), ("task.create", run, "r1"))
    first = [say(server, *request) for request in requests]
    assert [status for status, _ in first] == [200, 200]
    # A corrId proves nothing while the server lives: two processes may have the same one.
    assert [say(server, *request)[0] for request in requests] == [409, 409]

    server.restart()
    assert [say(server, *request) for request in requests] == first
    assert say(server, "task.acquire", acquire, "a2")[0] == 409
    assert say(server, "task.acquire", {**acquire, "pid": "v"}, "a1")[0] == 409
    assert say(server, "task.create", run, "r2")[0] == 409


# --- 4: a deadline that never comes ---------------------------------------------------------------


def test_every_deadline_is_armed_with_or_without_a_target(server: ServerProcess) -> None:
    timer = {"resonate:timer": "true"}
    target = {"resonate:target": "poll://any@nobody"}
    soon_ms = int(time.time() * 1000) + 1000
    with stream(server, "g", "l") as listener:
        for name, tags in (
            *(("plain", {}), ("timer", timer), ("target", target)),
            ("timer and target", {**timer, **target}),
        ):
            data = {"id": name, "timeoutAt": soon_ms, "tags": tags}
            good(server, "promise.create", **data)
            good(server, "promise.register_listener", awaited=name, address="poll://uni@g/l")
        found = {}
        for _ in range(4):
            promise = listener.next(SOON_S)["data"]["promise"]
            found[promise["id"]] = (promise["state"], promise["settledAt"])

    assert found == {
        "plain": ("rejected_timedout", soon_ms),
        "target": ("rejected_timedout", soon_ms),
        "timer": ("resolved", soon_ms),
        "timer and target": ("resolved", soon_ms),
    }


# --- 5: heartbeats that are refused or pass tasks over --------------------------------------------


def test_a_heartbeat_keeps_tasks_of_any_origins(server: ServerProcess) -> None:
    names = ["a:1", "a:1.2", "b.1", "b:root", "c", *(f"d{number}:1" for number in range(20))]
    for name in names:
        create(server, name, "poll://any@nobody")
        claim(server, name, ttl=3000)
    held = [{"id": name, "version": 1} for name in names]
    strangers = [{"id": "nothing", "version": 1}, {"id": "c", "version": 7}]
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert good(server, "task.heartbeat", pid="w", tasks=[*strangers, *held]) == {}
        time.sleep(0.5)
    kept = [task(server, name) for name in names]

    assert {(one["state"], one["version"]) for one in kept} == {("acquired", 1)}
    # One of another process is passed over: its lease ends.
    good(server, "task.heartbeat", pid="v", tasks=held)
    deadline = time.monotonic() + 60
    while task(server, "c")["state"] == "acquired":
        assert time.monotonic() < deadline, "the lease does not end"
        good(server, "task.heartbeat", pid="v", tasks=held)
        time.sleep(0.2)


# --- 6: the same task claimed and released, around and around -------------------------------------


def test_a_task_that_is_released_at_once_comes_back_ever_later(server: ServerProcess) -> None:
    with stream(server, "g") as worker:
        create(server, "t", "poll://any@g")
        began = time.monotonic()
        rounds: list[float] = []
        while len(rounds) < 5:
            task_id, version = executed(worker.next(60))
            rounds.append(time.monotonic() - began)
            claim(server, task_id, version)
            good(server, "task.release", id=task_id, version=version + 1)

    # The first at once, then after 0.5 s, doubling.
    assert rounds[-1] - rounds[0] >= 1.4, rounds


# --- 8: a suspended task that never resumes -------------------------------------------------------


def test_a_suspend_that_races_with_the_settling_never_sleeps(server: ServerProcess) -> None:
    rounds_count = 60
    for number in range(rounds_count):
        create(server, f"t{number}", "poll://any@g")
        create(server, f"a{number}")
        create(server, f"b{number}")
        claim(server, f"t{number}")
    answers: dict[int, int] = {}

    def suspend() -> None:
        for number in range(rounds_count):
            actions = [
                {"data": {"awaited": f"{name}{number}", "awaiter": f"t{number}"}} for name in "ab"
            ]
            data = {"id": f"t{number}", "version": 1, "actions": actions}
            answers[number] = say(server, "task.suspend", data)[0]

    def settle_all() -> None:
        for number in range(rounds_count):
            settle(server, f"b{number}")

    threads = [threading.Thread(target=suspend), threading.Thread(target=settle_all)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = {number: task(server, f"t{number}")["state"] for number in range(rounds_count)}

    assert set(answers) == set(range(rounds_count))
    for number, status in answers.items():
        expected = {200: "pending", 300: "acquired"}[status]
        assert states[number] == expected, (number, status)


@pytest.mark.parametrize("restarts", [False, True], ids=["alive", "kill -9"])
def test_a_suspended_task_resumes(server: ServerProcess, restarts: bool) -> None:
    create(server, "t", "poll://any@g")
    create(server, "a")
    claim(server, "t")
    actions = [{"data": {"awaited": "a", "awaiter": "t"}}]
    assert say(server, "task.suspend", {"id": "t", "version": 1, "actions": actions})[0] == 200
    if restarts:
        server.restart()
    settle(server, "a")
    if restarts:
        server.restart()
    with stream(server, "g") as worker:
        assert executed(worker.next(SOON_S)) == ("t", 1)
    claim(server, "t", 1)


# --- 7.1: work that waits for a worker that is gone, and timers that are nobody's work -----------


def test_an_execute_goes_elsewhere_at_once_when_its_connection_closes(
    server: ServerProcess,
) -> None:
    with stream(server, "g", "first") as first:
        create(server, "t", "poll://any@g")
        assert executed(first.next(SOON_S)) == ("t", 0)
        second = stream(server, "g", "second")
    with second:
        assert executed(second.next(SOON_S)) == ("t", 0)
        claim(server, "t")


def test_timers_and_tasks_without_a_worker_cost_nothing(server: ServerProcess) -> None:
    with stream(server, "g") as worker:
        for number in range(300):
            tags = {"resonate:timer": "true", "resonate:target": "poll://any@g"}
            create(server, f"timer{number}", tags=tags)
            create(server, f"alone{number}", "poll://any@nobody")
        assert worker.arrived() == [], "a timer's task is dispatched"
        began_s = cpu_s(server)
        time.sleep(5)
        used_s = cpu_s(server) - began_s

    assert used_s < 0.25, f"{used_s} s of a core in 5 s"
