"""Data that looks like a busy morning: workflows in all states, queues without workers, locks.

`fill` imports it through the API, with times relative to one moment, so every run shows the same.
"""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any, Final

from tests.helpers.server import ServerProcess

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
PAGE_COUNT: Final = 1_000
"""How many promises one import takes."""

ORDER: Final = "order-20418"
"""The workflow that the pictures show: one call failed, another waits for a courier."""

_CALLS: Final = (
    # A part of the tree, its function, when it began and how long it took, in ms (None: pending).
    ("", "process_order", 0, None),
    (".1", "reserve_stock", 100, 2_800),
    (".1.1", "warehouse_call", 320, 1_600),
    (".1.2", "warehouse_call", 410, 2_300),
    (".2", "charge_card", 3_000, 3_100),
    (".2.1", "http_call", 3_200, 1_400),
    (".2.2", "http_call", 5_100, 902),
    (".3", "book_courier", 6_200, None),
    (".3.1", "wait_for_pickup", 6_400, None),
    (".4", "send_receipt", 6_210, 699),
    (".5", "update_ledger", 6_600, 2_200),
)
_FAILED: Final = ".2.1"
_FUNCTIONS: Final = (
    *("process_order", "sync_customer", "send_mail", "resize_image", "score_fraud"),
    "capture_payment",
)
_TEAMS: Final = ("billing", "checkout", "growth", "fulfilment")
_STATES: Final = (
    *("RESOLVED",) * 30,
    *("REJECTED", "REJECTED", "REJECTED_TIMEDOUT", "REJECTED_CANCELED", "PENDING", "PENDING"),
)


def encoded(value: object) -> dict[str, Any]:
    """Return a JSON value as the param or value of a promise."""
    return {"data": base64.b64encode(json.dumps(value).encode()).decode()}


def order(now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield the promises of the workflow in the pictures, which began 6 min 24 s ago."""
    began_ms = now_ms - 384 * SECOND
    for part, function, after_ms, took_ms in _CALLS:
        promise_id = ORDER + part
        args: list[object] = ["https://psp.example/charge"]
        if not part:
            lines = [{"sku": "sku-203", "qty": 1}, {"sku": "sku-77", "qty": 3}]
            args = [{"customer": "c-4711", "lines": lines, "express": True}]
        made: dict[str, Any] = {
            "id": promise_id,
            "state": "PENDING",
            "param": encoded({"func": function, "args": args}),
            "tags": _tags_of_call(part),
            "createdOn": began_ms + after_ms,
            "timeout": began_ms + 2 * HOUR,
        }
        if took_ms is not None:
            made["state"] = "REJECTED" if part == _FAILED else "RESOLVED"
            made["completedOn"] = began_ms + after_ms + took_ms
            made["value"] = encoded({"ok": True})
        if part == _FAILED:
            made["value"] = encoded({"error": "Timeout", "message": "no answer within 1.4 s"})
        yield made


def _tags_of_call(part: str) -> dict[str, str]:
    tags = {"region": "eu-west", "team": "fulfilment", "resonate:root": ORDER}
    tags["resonate:scope"] = "global"
    if part:
        tags["resonate:parent"] = ORDER + part.rpartition(".")[0]
    return tags


def jobs(now_ms: int, count: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yield promises without calls, the oldest first, over the last 20 minutes."""
    chance = random.Random(seed)
    for number in range(count):
        created_ms = now_ms - 20 * MINUTE * (count - number) // count
        state = chance.choice(_STATES)
        took_ms = int(chance.expovariate(1 / 900)) + 1
        function = chance.choice(_FUNCTIONS)
        made: dict[str, Any] = {
            "id": f"job-{1_795_000_000 + number}",
            "state": state,
            "param": encoded({"func": function, "args": [number]}),
            "tags": {"region": "eu-west", "team": chance.choice(_TEAMS)},
            "createdOn": created_ms,
            "timeout": created_ms + HOUR,
        }
        if state != "PENDING":
            made["completedOn"] = min(created_ms + took_ms, now_ms)
            made["value"] = encoded({"done": number} if state == "RESOLVED" else {"error": "boom"})
        yield made


def fill(server: ServerProcess, now_ms: int, jobs_count: int = 400) -> None:
    """Bring all of it to a server."""
    key = (server.data / "admin.key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    promises = [*jobs(now_ms, jobs_count), *order(now_ms)]
    promises.sort(key=lambda promise: int(promise["createdOn"]))
    for first in range(0, len(promises), PAGE_COUNT):
        body = {"promises": promises[first : first + PAGE_COUNT]}
        status, answered = server.request("POST", "/admin/import", body, headers)
        assert status == 200, answered
    for number in range(25):
        _create_for(server, f"invoice-{number}", "poll://billing", now_ms)
    for number in range(11):
        _create_for(server, f"hook-{number}", "http://127.0.0.1:9/hook", now_ms)
    _schedule(server, "nightly-report", "0 2 * * *", "report")
    _schedule(server, "poll-carrier", "*/5 * * * *", "carrier")
    _schedule(server, "month-end", "0 6 1 * *", "ledger")
    for number in range(3):
        lock = {
            "resourceId": f"printer-{number}",
            "executionId": f"labels-{20_418 + number}",
            "processId": "worker-1",
            "ttl": 10 * MINUTE,
        }
        assert server.request("POST", "/locks/acquire", lock)[0] == 201


def _create_for(server: ServerProcess, promise_id: str, receiver: str, now_ms: int) -> None:
    body = {
        "id": promise_id,
        "timeout": now_ms + HOUR,
        "param": encoded({"func": "capture_payment", "args": [promise_id]}),
        "tags": {"resonate:invoke": receiver, "team": "billing"},
    }
    status, answered = server.request("POST", "/promises", body)
    assert status == 201, answered


def _schedule(server: ServerProcess, schedule_id: str, cron: str, function: str) -> None:
    body = {
        "id": schedule_id,
        "description": f"Runs {function}",
        "cron": cron,
        "promiseId": "{{.id}}/{{.timestamp}}",
        "promiseTimeout": HOUR,
        "promiseParam": encoded({"func": function}),
        "tags": {"team": "finance"},
    }
    status, answered = server.request("POST", "/schedules", body)
    assert status == 201, answered
