"""A shop's morning: orders, payments and shipments that come and go while pictures are made.

`Shop.open` brings what there was before, and the rights that its people and programs have;
`Shop.trade`, run in a thread, goes on until the shop closes. Chance has a seed. Tests of screens
that need accounts use the same shop, without trade.
"""

import heapq
import http.client
import math
import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client
from tests.node.fake_server import python
from tests.ui import demo
from tests.ui.demo import HOUR, MINUTE, SECOND, encoded


class ShopClock(Protocol):
    """The clock of the server."""

    def now_ms(self) -> int: ...

    def current_time(self) -> float: ...


ACCOUNT: Final = "shop"
SCOPES: Final = (
    *("promises:read", "promises:write", "functions:read", "functions:write"),
    *("tasks:read", "tasks:write", "node", "metrics:read", "admin"),
)
_TOKENS: Final = (
    ("checkout workers", ["promises:read", "promises:write"], ""),
    ("shipping workers", ["promises:read", "promises:write"], ""),
    ("grafana", ["metrics:read"], ""),
    ("support desk", ["promises:read"], "order-"),
)
# What is made: kind, function, team, the typical duration in ms, and how it fails.
_KINDS: Final = (
    ("order", "process_order", "checkout", 2_600, "OutOfStock: sku-203 is not in the warehouse"),
    ("payment", "charge_card", "billing", 1_300, "CardDeclined: insufficient funds"),
    ("payment", "charge_card", "billing", 1_700, "Timeout: the bank did not answer in 3 s"),
    ("shipment", "book_courier", "shipping", 3_200, "NoCourier: none serves this postcode today"),
    ("mail", "send_receipt", "checkout", 420, "MailRefused: the mailbox is full"),
    ("stock", "reserve_stock", "warehouse", 260, "OutOfStock: sku-77 is not in the warehouse"),
)
_HISTORY_COUNT: Final = 900
_FIRST_NUMBER: Final = 19_400
_LOOK_S: Final = 0.05
"""How long to sleep at most before looking at the clock again."""
_TRADED: Final = 20_500
"""The first order that comes in while the shop is open; the one of the tour came before."""

_WORKERS: Final = {"shipping": ("worker-1", "worker-2"), "checkout": ("worker-1",)}
_INVOICE: Final = """
import json, time

def handle(request):
    time.sleep(0.2)
    order = json.loads(request.Body)
    if order["number"] % 9 == 4:
        raise ValueError("the order has no address")
    return {"StatusCode": 201, "Body": {"pages": 1, "order": order["number"]}}
"""


def _made(number: int, chance: random.Random) -> tuple[dict[str, Any], str, int, str]:
    """Return a promise without times, how it ends, after how many ms, and what a failure says."""
    kind, function, team, typical_ms, problem = _KINDS[
        chance.choices(range(6), (3, 4, 1, 3, 3, 3))[0]
    ]
    promise = {
        "id": f"{kind}-{number}",
        "param": encoded({"func": function, "args": [{"order": number, "lines": number % 4 + 1}]}),
        "tags": {"region": "eu-west", "team": team},
    }
    took_ms = int(typical_ms * chance.lognormvariate(0, 0.5)) + 20
    ends = ("RESOLVED", "REJECTED", "REJECTED_CANCELED", "REJECTED_TIMEDOUT", "PENDING")
    return promise, chance.choices(ends, (92, 3, 1, 1, 3))[0], took_ms, problem


def _value(state: str, number: int, problem: str) -> dict[str, Any]:
    if state == "RESOLVED":
        return encoded({"ok": True, "order": number})
    name, _, text = problem.partition(": ")
    return encoded({"error": name, "message": text})


def history(now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield what the shop did in the last three hours, the oldest first."""
    chance = random.Random(11)
    for index in range(_HISTORY_COUNT):
        number = _FIRST_NUMBER + index
        promise, state, took_ms, problem = _made(number, chance)
        created_ms = now_ms - 3 * HOUR * (_HISTORY_COUNT - index) // _HISTORY_COUNT
        promise |= {"state": state, "createdOn": created_ms, "timeout": created_ms + 6 * HOUR}
        if state == "REJECTED_TIMEDOUT":
            promise["timeout"] = promise["completedOn"] = min(created_ms + MINUTE, now_ms)
        elif state != "PENDING":
            promise["completedOn"] = min(created_ms + took_ms, now_ms)
            promise["value"] = _value(state, number, problem)
        yield promise


class Shop:
    """The shop on one server."""

    def __init__(self, server: ServerProcess, clock: ShopClock) -> None:
        """Bring nothing yet."""
        self._server = server
        self._clock = clock
        self._closes = threading.Event()
        self._streams: list[http.client.HTTPConnection] = []
        self.client = Client(server, (server.data / "admin.key").read_text().strip())

    def open(self) -> str:
        """Bring what there was before, and accounts; return a token that may see everything."""
        operator = self.client
        operator.json("POST", "/admin/import", {"promises": [*history(self._clock.now_ms())]})
        demo.fill(self._server, self._clock.now_ms(), jobs_count=0)
        operator.json("POST", "/admin/snapshots")
        for name in (ACCOUNT, "warehouse"):
            operator.json("POST", "/admin/accounts", {"name": name})
        for name, scopes, prefix in _TOKENS:
            body = {"account": ACCOUNT, "name": name, "scopes": scopes}
            operator.json("POST", "/admin/tokens", body | ({"idPrefix": prefix} if prefix else {}))
        body = {"account": ACCOUNT, "name": "operations", "scopes": SCOPES}
        token: str = operator.json("POST", "/admin/tokens", body)["token"]
        self.client = Client(self._server, token)
        self._hire()
        return token

    def _hire(self) -> None:
        """Connect workers, and give them work that takes longer."""
        for group, names in _WORKERS.items():
            for name in names:
                stream = http.client.HTTPConnection(urlsplit(self._server.url).netloc)
                headers = {"Authorization": f"Bearer {self.client.secret}"}
                stream.request("GET", f"/poll/{group}/{name}", headers=headers)
                self._streams.append(stream)
        for number in range(7):
            group = "shipping" if number % 3 else "checkout"
            body = {
                "id": f"pickup-{20_411 + number}",
                "timeout": self._clock.now_ms() + 2 * HOUR,
                "param": encoded({"func": "wait_for_pickup", "args": [20_411 + number]}),
                "tags": {"resonate:invoke": f"poll://any@{group}", "team": "shipping"},
            }
            self.client.json("POST", "/promises", body)
            claim = {
                "id": f"__invoke:{body['id']}",
                "counter": 1,
                "processId": _WORKERS[group][number % len(_WORKERS[group])],
                "ttl": 30 * MINUTE,
            }
            self.client.json("POST", "/tasks/claim", claim)

    def trade(self) -> None:
        """Create and complete promises, some every second of the clock, until the shop closes."""
        chance = random.Random(5)
        began_s = self._clock.current_time()
        ending: list[tuple[float, int, str, dict[str, Any]]] = []
        number = _TRADED
        second = 0
        while not self._closes.is_set():
            wait_s = began_s + second - self._clock.current_time()
            if wait_s > 0:
                self._closes.wait(min(wait_s, _LOOK_S))
                continue
            second += 1
            wave = 6 + 2.8 * math.sin(second / 34 + 3) + 1.1 * math.sin(second / 9)
            for _ in range(max(0, round(chance.gauss(wave, 0.8)))):
                number += 1
                promise, state, took_ms, problem = _made(number, chance)
                life_ms = 5 * SECOND if state == "REJECTED_TIMEDOUT" else 2 * HOUR
                self.client.json(
                    "POST", "/promises", promise | {"timeout": self._clock.now_ms() + life_ms}
                )
                if state not in ("PENDING", "REJECTED_TIMEDOUT"):
                    body = {"state": state, "value": _value(state, number, problem)}
                    heapq.heappush(ending, (second + took_ms / 1000, number, promise["id"], body))
            while ending and ending[0][0] <= second:
                _, _, promise_id, body = heapq.heappop(ending)
                self.client.json("PATCH", f"/promises/{promise_id}", body)

    def install_functions(self) -> str:
        """Create functions, one with code; return its id."""
        about = {
            "make_invoice": ("Writes the invoice of an order as PDF", "PY"),
            "resize_photos": ("Makes the sizes of a product's photos", "JS"),
        }
        ids = {}
        for name, (description, language) in about.items():
            body = {"name": name, "type": "CODE", "lang": language, "description": description}
            ids[name] = str(self.client.json("POST", "/v1/function", body)["id"])
        hook = {"name": "tell_carrier", "type": "HTTP", "url": "https://carrier.example/parcels"}
        hook["description"] = "Tells the carrier what to fetch"
        self.client.json("POST", "/v1/function", hook)
        build_id = self.client.build(ids["make_invoice"], python(_INVOICE).archive)
        assert self.client.checked(build_id)["status"] == "SUCCESS"
        return ids["make_invoice"]

    def run_functions(self, function_id: str, count: int) -> None:
        """Run a function for some orders, and wait for all but the last few."""
        tasks = []
        for number in range(count):
            path = f"/v1/task/{function_id}"
            tasks.append(self.client.json("POST", path, {"number": _TRADED + number})["id"])
        for task in tasks[:-3]:
            self.client.send("GET", f"/v1/task/{task}/result?wait=60")

    def leave_tasks(self, function_id: str) -> None:
        """Create tasks of a function that wait, one that was canceled, and a node that is away."""
        path = f"/v1/task/{function_id}"
        tasks = [self.client.json("POST", path, {"number": number})["id"] for number in range(4)]
        assert self.client.send("DELETE", f"/v1/task/{tasks[0]}")[0] == 204
        node = {"description": "packing-hall", "languages": ["PY"]}
        assert self.client.send("POST", f"/v1/node/{uuid.UUID(int=20_418)}", node)[0] == 201

    def start_bulk_jobs(self, apart_s: float) -> None:
        """Try one, finish one, and start one that is under way for a minute; some time apart."""
        jobs: tuple[dict[str, Any], ...] = (
            {
                "action": "cancel",
                "filter": {"id": "shipment-*", "states": "pending"},
                "dryRun": True,
            },
            {"action": "cancel", "filter": {"id": "stock-19*", "states": "pending"}},
            {
                "action": "delete",
                "filter": {"id": "mail-19*", "states": "resolved"},
                "ratePerSecond": 2,
            },
        )
        for job in jobs:
            self.client.json("POST", "/bulk", job)
            time.sleep(apart_s)

    def close(self) -> None:
        """Let all workers go; `trade` returns soon after."""
        self._closes.set()
        for stream in self._streams:
            stream.close()
