"""Three walks through the web UI with the keyboard alone, as an operator goes them, and timed.

Each prints which keys were pressed and how long it took. `make ui-scale` walks among 2,000,000
promises, tests among 60,000. The limits are a person's, so nothing here waits for one: what is
measured is what the server and the browser take.
"""

import json
import re
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.helpers.server import ServerProcess

from .browser import settle, visiting
from .demo import HOUR, MINUTE, encoded
from .test_promises import create, state_of

pytestmark = [pytest.mark.own_core, pytest.mark.slow]

FAILED_LIMIT_S: Final = 60.0
NOTICED_LIMIT_S: Final = 10.0
TABS_LIMIT_COUNT: Final = 120
CANCELED_COUNT: Final = 1_204
IMPORTED_COUNT: Final = 1_000
RATE: Final = 200
"""So slow that the server is killed while the job is under way."""


class Keyboard:
    """The keyboard of a page, and what was pressed on it."""

    def __init__(self, page: Page) -> None:
        """Press nothing yet."""
        self.page = page
        self.pressed: list[str] = []

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)
            self.pressed.append(key)

    def type(self, text: str) -> None:
        """Type a text."""
        self.page.keyboard.type(text)
        self.pressed.append(repr(text))

    def move_to(self, text: str, key: str = "Tab") -> None:
        """Press a key until what has the focus is called so, or begins so."""
        for count in range(1, TABS_LIMIT_COUNT):
            self.page.keyboard.press(key)
            if self._focused().startswith(text):
                self.pressed.append(f"{key} × {count} to “{text}”")
                return
        raise AssertionError(f"{key} does not come to {text}; it is at {self._focused()}")

    def _focused(self) -> str:
        """Return the name of what has the focus, as a screen reader would say it."""
        name: str = self.page.evaluate(
            """() => {
              const one = document.activeElement;
              const label = one.labels?.[0]?.textContent ?? one.textContent;
              return (one.getAttribute('aria-label') ?? label).replaceAll(/\\s+/g, ' ').trim();
            }"""
        )
        return name

    def told(self) -> str:
        """Return what was pressed, for people."""
        return " ".join(self.pressed)


def test_a_failed_call_is_found_understood_and_completed(
    browser: Browser, large_server: ServerProcess
) -> None:
    order = f"walk-{time.time_ns()}"
    tags = {"resonate:root": order}
    lines = encoded({"func": "process_order", "args": [4711]})
    create(large_server, order, lines, tags=tags)
    charge = encoded({"func": "charge_card", "args": [4711, "129.00 EUR"]})
    create(large_server, f"{order}.1", charge, tags=tags | {"resonate:parent": order})
    call = encoded({"func": "http_call", "args": ["https://psp.example/charge"]})
    tags["resonate:parent"] = f"{order}.1"
    create(large_server, f"{order}.1.1", call, tags=tags)
    failed = {"state": "REJECTED", "value": encoded({"error": "the bank did not answer in 3 s"})}
    assert large_server.request("PATCH", f"/promises/{order}.1.1", failed)[0] == 201
    with visiting(browser, large_server.url) as visitor:
        page = visitor.open()
        keys = Keyboard(page)
        began = time.monotonic()
        # Found: it is the newest failure.
        keys.press("g", "f")
        expect(page.locator("h1")).to_have_text("Failures")
        expect(page.locator("tr[data-row]").first).to_contain_text(f"{order}.1.1")
        keys.press("j", "Enter")
        # Understood: the error, and the workflow that it is a part of.
        expect(page.locator("h1")).to_have_text(f"{order}.1.1")
        expect(page.locator(".call-panel")).to_contain_text("the bank did not answer in 3 s")
        keys.move_to(order)
        keys.press("Enter")
        expect(page.locator("h1")).to_have_text(order)
        settle(page)
        expect(page.locator(".call")).to_have_count(3)
        expect(page.locator(".call-panel h2")).to_have_text(f"{order}.1.1")
        # Completed: the call that waits for it, on its behalf, with what the bank says.
        keys.move_to("http_call")
        keys.press("ArrowUp")
        expect(page.locator(".call-panel h2")).to_have_text(f"{order}.1")
        keys.move_to("Complete …")
        keys.press("Enter")
        page.wait_for_selector("dialog[open]")
        keys.move_to("Value, as JSON")
        keys.type('{"receipt": 81}')
        keys.move_to("Resolve")
        keys.press("Enter")
        expect(page.locator(".call-panel .state")).to_have_text("Resolved")
        took_s = time.monotonic() - began
    print(f"{took_s:.1f} s: {keys.told()}")

    assert state_of(large_server, f"{order}.1") == "RESOLVED"
    assert took_s <= FAILED_LIMIT_S


def test_a_group_without_workers_is_noticed_and_named(browser: Browser, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, visiting(browser, server.url) as visitor:
        worker = HTTPConnection(urlsplit(server.poll_url).netloc)
        worker.request("GET", "/poll/couriers/worker-1")
        stream = worker.getresponse()
        page = visitor.open()
        keys = Keyboard(page)
        attention = page.get_by_role("region", name="Needs attention")
        expect(attention).to_contain_text("Nothing")
        expect(page.get_by_role("button", name="Pause")).to_contain_text("Live")
        stream.close()
        worker.close()
        began = time.monotonic()
        for number in range(3):
            create(server, f"trip-{number}", tags={"resonate:invoke": "poll://couriers"})
        expect(attention).to_contain_text("No worker listens")
        expect(attention).to_contain_text(re.compile("poll://couriers.*tasks? wait"))
        took_s = time.monotonic() - began
        keys.move_to("Show queue")
        keys.press("Enter")
        expect(page.locator("h1")).to_have_text("poll://couriers")
        expect(page.locator("#main")).to_contain_text("No worker listens")
        expect(page.locator("#main")).to_contain_text("trip-2")
    print(f"noticed and named after {took_s:.1f} s, then {keys.told()}")

    assert took_s <= NOTICED_LIMIT_S


def test_1204_promises_are_canceled_by_a_filter_over_kill_9(
    browser: Browser, large_server: ServerProcess
) -> None:
    """The dry run says how many; the job goes on where it was, and cancels as many."""
    prefix = f"stale-{time.time_ns()}"
    bring(large_server, prefix)
    asked: list[dict[str, Any]] = []

    def slow_down(route: Route, request: Request) -> None:
        if request.method != "POST":
            route.continue_()
            return
        asked.append(json.loads(request.post_data or ""))
        route.continue_(post_data=json.dumps({**asked[-1], "ratePerSecond": RATE}))

    with visiting(browser, large_server.url) as visitor:
        visitor.expected_statuses = {0, 503}
        page = visitor.open()
        page.route("**/bulk", slow_down)
        keys = Keyboard(page)
        began = time.monotonic()
        keys.press("/")
        keys.type(f"{prefix}-*")
        keys.press("Enter")
        expect(page.locator("tr[data-row]").first).to_contain_text(prefix)
        keys.move_to("Select all that are listed")
        keys.press("Space")
        keys.move_to("Select all that match", "Shift+Tab")
        keys.press("Enter")
        expect(page.get_by_role("region", name="All promises that match")).to_be_visible()
        keys.move_to("Cancel the pending ones …")
        keys.press("Enter")
        dialog = page.locator("dialog[open]")
        expect(dialog).to_contain_text("1,204 would be canceled")
        assert [one["dryRun"] for one in asked] == [True]
        keys.move_to(f"Type {CANCELED_COUNT} to go on")
        keys.type(str(CANCELED_COUNT))
        keys.press("Enter")
        expect(page.locator("h1")).to_have_text("Bulk jobs")
        expect(page.locator("tr[data-row]").first).to_contain_text("Running")
        large_server.kill9()
        killed_ms = int(time.time() * 1000)
        expect(page.locator(".banner")).to_contain_text("does not answer")
        large_server.start()
        expect(page.locator("tr[data-row]").first).to_contain_text("Finished")
        expect(page.locator("tr[data-row]").first).to_contain_text("1,204 canceled")
        took_s = time.monotonic() - began
    print(f"{took_s:.1f} s: {keys.told()}")
    job, trial = large_server.request("GET", "/bulk")[1]["jobs"][:2]

    assert (job["done"], job["skipped"], job["failed"]) == (CANCELED_COUNT, {}, 0)
    assert (trial["dryRun"], trial["done"]) == (True, CANCELED_COUNT)
    assert job["createdOn"] < killed_ms < job["endedOn"]
    assert count(large_server, prefix, "canceled") == CANCELED_COUNT
    assert count(large_server, prefix, "pending") == 0


def bring(server: ServerProcess, prefix: str) -> None:
    """Create as many promises that are pending."""
    key = (server.data / "admin.key").read_text().strip()
    now_ms = int(time.time() * 1000)
    made = {"state": "PENDING", "createdOn": now_ms - MINUTE, "timeout": now_ms + HOUR}
    rows = [{**made, "id": f"{prefix}-{number}"} for number in range(CANCELED_COUNT)]
    for first in range(0, CANCELED_COUNT, IMPORTED_COUNT):
        body = {"promises": rows[first : first + IMPORTED_COUNT]}
        headers = {"Authorization": f"Bearer {key}"}
        assert server.request("POST", "/admin/import", body, headers)[0] == 200


def count(server: ServerProcess, prefix: str, state: str) -> int:
    """Return how many promises of a prefix are in a state, by a list of them all."""
    found, cursor = 0, ""
    while True:
        query = f"id={prefix}-*&states={state}&limit=100&values=none{cursor}"
        status, page = server.request("GET", f"/promises?{query}")
        assert status == 200, page
        found += len(page["promises"])
        if page["cursor"] is None:
            return found
        cursor = f"&cursor={page['cursor']}"
