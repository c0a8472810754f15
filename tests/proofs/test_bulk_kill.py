"""A bulk job over `kill -9`: it continues where it was, does nothing twice, and counts right.

1,204 of 1,500 promises are canceled by a filter, after a dry run, by a real server that is killed
several times while it works and while others create, and restarted on the same directory.
"""

import time
from collections import Counter
from random import Random
from typing import Any, Final

import pytest

from tests.helpers.server import ServerProcess

from .support import FAR_MS, Client

SEED: Final = 11
WANTED_COUNT: Final = 1_204
OTHERS_COUNT: Final = 296
WAITED_FOR_COUNT: Final = 40
KILLS_COUNT: Final = 3
RATE_COUNT: Final = 300
PATIENCE_S: Final = 120.0
WANTED: Final = {"id": "order-*", "tags[team]": "checkout", "state": "pending"}


def create_all(client: Client) -> None:
    """1,204 that are wanted, some of them waited for by others, and some that are not wanted."""
    for number in range(WANTED_COUNT + OTHERS_COUNT):
        is_wanted = number < WANTED_COUNT
        team = "checkout" if is_wanted or number % 2 else "billing"
        name = "order" if is_wanted or not number % 2 else "invoice"
        body = {"id": f"{name}-{number}", "timeout": FAR_MS, "tags": {"team": team}}
        assert client.call("POST", "/promises", body)[0] == 201
    for number in range(WAITED_FOR_COUNT):
        body = {"id": "told", "timeout": FAR_MS, "recv": "poll://any@nobody"}
        path = f"/promises/subscribe/order-{number}"
        assert client.call("POST", path, body)[0] == 201


def job_of(server: ServerProcess, job_id: str) -> Any:
    status, job = server.request("GET", f"/bulk/{job_id}")
    assert status == 200, job
    return job


def start(server: ServerProcess, **body: Any) -> str:
    status, job = server.request("POST", "/bulk", {"action": "cancel", "filter": WANTED, **body})
    assert status == 201, job
    job_id: str = job["id"]
    return job_id


def ended(server: ServerProcess, job_id: str) -> Any:
    """A job when it has ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        job = job_of(server, job_id)
        if job["state"] != "running":
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job does not end: {job}")


def wait_until_done(server: ServerProcess, job_id: str, count: int) -> int:
    """Wait until so many are done; how many it says."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        done_count: int = job_of(server, job_id)["done"]
        if done_count >= count:
            return done_count
        time.sleep(0.02)
    raise AssertionError("the job does not go on")


def all_promises(client: Client) -> list[Any]:
    found: list[Any] = []
    path = "/promises?id=*"
    while True:
        page = client.call("GET", path)[1]
        found += page["promises"]
        if page["cursor"] is None:
            return found
        path = f"/promises?cursor={page['cursor']}"


@pytest.mark.slow
def test_bulk_over_kill_9(server: ServerProcess) -> None:
    """What it said was done before a kill is done after it; in the end it is all, once."""
    print(f"seed {SEED}")
    random = Random(SEED)
    with Client(server.url) as client:
        create_all(client)
    dry = ended(server, start(server, dryRun=True))
    assert (dry["total"], dry["done"], dry["skipped"]) == (WANTED_COUNT, WANTED_COUNT, {})
    value = {"headers": {"why": "bulk"}}
    job_id = start(server, ratePerSecond=RATE_COUNT, value=value)
    for number in range(KILLS_COUNT):
        before_count = job_of(server, job_id)["done"]
        seen_count = wait_until_done(server, job_id, before_count + random.randrange(20, 150))
        later = {"id": f"order-later-{number}", "timeout": FAR_MS, "tags": {"team": "checkout"}}
        assert server.request("POST", "/promises", later)[0] == 201
        server.restart()
        job = job_of(server, job_id)
        assert job["state"] == "running"
        assert job["done"] >= seen_count, "what was told as done is done"
    job = ended(server, job_id)

    counted = ("total", "done", "failed", "skipped", "left")
    assert [job[name] for name in counted] == [WANTED_COUNT, WANTED_COUNT, 0, {}, 0]
    with Client(server.url) as client:
        promises = all_promises(client)
        done = [one for one in promises if one["state"] == "REJECTED_CANCELED"]
        assert {one["id"] for one in done} == {f"order-{n}" for n in range(WANTED_COUNT)}
        assert all(one["value"] == value for one in done)
        assert Counter(one["state"] for one in promises)["PENDING"] == OTHERS_COUNT + KILLS_COUNT
        tasks = client.call("GET", "/tasks?limit=1000")[1]["tasks"]
        told = Counter(one["promiseId"] for one in tasks)
        assert told == {f"order-{number}": 1 for number in range(WAITED_FOR_COUNT)}
    server.restart()
    assert job_of(server, job_id) == job, "a job that has ended is remembered"
