"""What the web UI shows while the server changes, is away, or has another time than the browser."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as NotInTime

from tests.helpers.server import ServerProcess

from .browser import visiting
from .conftest import Staffed, Visit
from .demo import HOUR, MINUTE, SECOND, order
from .test_accessible import SCREENS, operate_screens
from .test_promises import create

CREATES_A_SECOND: Final = 500
RESOLVED: Final = {"state": "RESOLVED"}


@contextmanager
def creating(server: ServerProcess, prefix: str, rate: int) -> Iterator[None]:
    """Create promises at about a rate, in a thread, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.wait(0.1):
            for _ in range(max(1, rate // 10)):
                create(server, f"{prefix}-{number}", tags={"team": "live"})
                number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_no_csp_violation_and_no_request_leaves_the_origin_on_any_screen(staffed: Staffed) -> None:
    """A visitor notes breaches of the policy, errors, and requests to other hosts."""
    with staffed.visit(scheme="dark") as visitor:
        page = visitor.open()
        for path in (*SCREENS, *operate_screens(staffed)):
            visitor.move(page, path)
        page.evaluate("fetch('https://elsewhere.example/').catch(() => null)")
        page.wait_for_timeout(200)
        assert len(visitor.faults) >= 1, "a breach of the policy is noticed"
        visitor.faults.clear()


@pytest.mark.alone
def test_list_does_not_jump(visit: Visit, busy_server: ServerProcess) -> None:
    with visit() as visitor:
        page = visitor.open("promises")
        row = page.locator("tr[data-row]").nth(5)
        row.hover()
        shown, before = row.inner_text().split("\n")[0], row.bounding_box()
        name = page.locator("td .id").nth(5).inner_text()
        with creating(busy_server, "jump", CREATES_A_SECOND):
            button = page.get_by_role("button", name=re.compile(r"\d+\+? new · show"))
            expect(button).to_be_visible(timeout=60_000)
            assert page.locator("td .id").nth(5).inner_text() == name
            assert row.bounding_box() == before
        assert shown
        button.click()
        expect(page.locator("td .id").first).to_contain_text("jump-")


@pytest.mark.newest
def test_new_rows_match_the_filter(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "match-a-0")
    with visit() as visitor:
        page = visitor.open("promises?id=match-a-*")
        expect(page.locator("tr[data-row]")).to_have_count(1)
        create(busy_server, "match-b-1")
        create(busy_server, "match-a-1")
        create(busy_server, "match-a-2")
        button = page.get_by_role("button", name="2 new · show")
        expect(button).to_be_visible(timeout=60_000)
        # A row on screen changes in place.
        assert busy_server.request("PATCH", "/promises/match-a-0", RESOLVED)[0] == 201
        expect(page.locator("tr[data-row] .state")).to_have_text("Resolved", timeout=60_000)
        button.click()
        expect(page.locator("tr[data-row]")).to_have_count(3)


@contextmanager
def late_stream(page: Page) -> Iterator[Callable[[], None]]:
    """Hold requests for streams of events until the function that this yields is called."""
    held: list[Route] = []
    is_open = False

    def hold(route: Route) -> None:
        if is_open:
            route.continue_()
        else:
            held.append(route)

    def let_go() -> None:
        nonlocal is_open
        is_open = True
        for route in held:
            with suppress(PlaywrightError):  # the page does not want it any more
                route.continue_()

    # A page's own requests can be held, those of a worker that tabs share cannot.
    page.add_init_script("delete globalThis.SharedWorker")
    page.route(re.compile(r"/events\?"), hold)
    yield let_go
    page.unroute_all(behavior="ignoreErrors")


def test_what_happens_before_the_stream_is_open_is_shown(browser: Browser, tmp_path: Path) -> None:
    # A server of its own: whatever happens on it later would show this, too.
    with ServerProcess(tmp_path) as server, visiting(browser, server.url) as visitor:
        create(server, "early-0")
        page = visitor.context.new_page()
        with late_stream(page) as let_go:
            visitor.go(page, "promises?id=early-*")
            expect(page.locator("tr[data-row]")).to_have_count(1)
            create(server, "early-1")
            assert server.request("PATCH", "/promises/early-0", RESOLVED)[0] == 201
            page.wait_for_timeout(3_000)  # the second in which that happened is over
            let_go()
            expect(page.get_by_role("button", name="1 new · show")).to_be_visible(timeout=60_000)
            expect(page.locator("tr[data-row] .state")).to_have_text("Resolved", timeout=60_000)


def test_a_promise_completed_before_the_stream_is_open_is_shown(
    visit: Visit, busy_server: ServerProcess
) -> None:
    create(busy_server, "early-page")
    with visit() as visitor:
        page = visitor.context.new_page()
        with late_stream(page) as let_go:
            visitor.go(page, "promises/early-page")
            expect(page.locator(".call-panel .state")).to_have_text("Pending")
            assert busy_server.request("PATCH", "/promises/early-page", RESOLVED)[0] == 201
            let_go()
            expect(page.locator(".call-panel .state")).to_have_text("Resolved", timeout=60_000)


def test_pause_keeps_still(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "still-0")
    with visit() as visitor:
        page = visitor.open("promises?id=still-*")
        page.keyboard.press(".")
        expect(page.get_by_role("button", name="Pause")).to_contain_text("Paused")
        text = page.locator("table").inner_text()
        create(busy_server, "still-1")
        asked = len(visitor.requests)
        page.wait_for_timeout(2_500)
        assert page.locator("table").inner_text() == text
        assert len(visitor.requests) == asked
        page.keyboard.press(".")
        expect(page.get_by_role("button", name="1 new · show")).to_be_visible(timeout=60_000)


def streams(server: ServerProcess) -> int:
    """Return how many streams of events are open."""
    text = server.request("GET", "/metrics")[1]
    found = re.search(r'^troth_http_streams\{kind="events"\} (\d+)', str(text), re.MULTILINE)
    assert found is not None, "the metric of event streams"
    return int(found[1])


def test_hidden_tab_is_silent(browser: Browser, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, visiting(browser, server.url) as visitor:
        page = visitor.open()
        expect(page.get_by_role("button", name="Pause")).to_contain_text("Live", timeout=60_000)
        # Pages of a browser without a window are always visible, so this one is told otherwise.
        page.evaluate(
            "Object.defineProperty(document, 'visibilityState', {get: () => window.hiddenNow})"
        )
        page.evaluate(
            "window.hiddenNow = 'hidden', document.dispatchEvent(new Event('visibilitychange'))"
        )
        deadline = time.monotonic() + 60
        while streams(server) > 0 and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        assert streams(server) == 0
        asked = len(visitor.requests)
        create(server, "unseen")
        page.wait_for_timeout(6_000)
        assert len(visitor.requests) == asked
        page.evaluate(
            "window.hiddenNow = 'visible', document.dispatchEvent(new Event('visibilitychange'))"
        )
        expect(page.locator(".tile").first).to_contain_text("of 1", timeout=60_000)


def test_server_restart_while_open(browser: Browser, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, visiting(browser, server.url) as visitor:
        visitor.expected_statuses = {0, 503}
        create(server, "kept")
        page = visitor.open("promises/kept")
        server.kill9()
        expect(page.locator(".banner")).to_contain_text("does not answer", timeout=60_000)
        expect(page.locator(".call-panel h2")).to_have_text("kept")
        server.start()
        create(server, "later")
        with suppress(NotInTime):  # it tries by itself, too, and may have been first
            page.get_by_role("button", name="Try now").click(timeout=3_000)
        expect(page.locator(".banner")).to_have_count(0, timeout=60_000)
        assert server.request("PATCH", "/promises/kept", {"state": "REJECTED"})[0] == 201
        expect(page.locator(".call-panel .state")).to_have_text("Rejected", timeout=60_000)


def test_clock_skew(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "skew-1")
    with visit() as visitor:
        page = visitor.context.new_page()
        page.clock.install(time=time.time() + 3_600)
        page.clock.resume()
        visitor.go(page, "promises/skew-1")
        facts = page.locator(".facts.across")
        expect(facts).to_contain_text(re.compile(r"Created(now|\d+(\.\d)? s ago)"))
        expect(facts).to_contain_text(re.compile(r"Times out(in 59 m|in 1 h)"))


@pytest.mark.parametrize(
    ("zone", "at", "shown"),
    [
        ("Asia/Kathmandu", 1_795_953_600_000, "2026-11-29 17:45:00"),
        # The night on which Berlin has the hour from 2 to 3 twice.
        ("Europe/Berlin", 1_792_888_200_000, "2026-10-25 02:30:00"),
        ("Europe/Berlin", 1_792_891_800_000, "2026-10-25 02:30:00"),
        ("Europe/Berlin", 1_792_895_400_000, "2026-10-25 03:30:00"),
    ],
)
def test_time_zones(
    browser: Browser, busy_server: ServerProcess, zone: str, at: int, shown: str
) -> None:
    key = (busy_server.data / "admin.key").read_text().strip()
    promise_id = f"zone-{at}"
    made = {"id": promise_id, "state": "RESOLVED", "createdOn": at, "completedOn": at + SECOND}
    body = {"promises": [{**made, "timeout": at + HOUR}]}
    headers = {"Authorization": f"Bearer {key}"}
    assert busy_server.request("POST", "/admin/import", body, headers)[0] == 200
    context = browser.new_context(timezone_id=zone)
    page = context.new_page()
    page.goto(f"{busy_server.url}/ui/promises/{promise_id}")
    expect(page.locator(".call-panel .facts").first).to_contain_text(shown)
    # Which of two equal hours it is, its title says.
    title = page.locator(".call-panel time").first.get_attribute("title")
    context.close()

    assert title is not None
    assert re.search(r"GMT[+-]", title)


def test_demo_times_are_relative() -> None:
    made = list(order(MINUTE * 100))

    assert made[0]["createdOn"] == MINUTE * 100 - 384 * SECOND
