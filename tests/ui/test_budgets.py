"""What the web UI may cost: time, bytes and memory in a browser, and the server's CPU.

The limits are those of a quiet machine. How much slower this one is at the moment is measured
beside, by the clock and in CPU (`slowness`), and limits are multiplied by it. Each test prints what
it measured.
`make ui-scale` runs those with a large server over 2,000,000 promises instead of 60,000.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.helpers.measuring import CREATES_A_SECOND, Creating, slowness, used_s
from tests.helpers.server import ServerProcess

from .browser import visiting
from .conftest import STORE, Visit
from .demo import HOUR, ORDER, encoded
from .test_live import streams
from .test_promises import create

pytestmark = pytest.mark.slow

ROUNDS_COUNT: Final = 5
FIRST_PAINT_MS: Final = 1_000
ROWS_MS: Final = 1_500
PAGE_LIMIT_BYTES: Final = 150_000

ROWS_COUNT: Final = 10_000
ROWS_LIMIT_COUNT: Final = 200
HEAP_LIMIT_BYTES: Final = 60 << 20
FRAMES_A_SECOND: Final = 50
FRAMES_COUNT: Final = 120
FRAME_PX: Final = 100
"""How far a frame of quick scrolling goes: 6,000 px a second."""

TABS_COUNT: Final = 8 if STORE is None else 20
"""More than a browser has connections to one server."""
TAB_LIMIT_S: Final = 2.0

BROWSERS_COUNT: Final = 20
OPENED_S: Final = 60.0
WATCHED_S: Final = 5.0
IDLE_S: Final = 12.0
"""Longer than the time after which a page asks an idle server."""
IDLE_LIMIT: Final = 0.01
CREATING_LIMIT: Final = 0.03
"""Of a core."""
IDLE_PAGE_LIMIT: Final = 0.01

_NOTE_ROWS: Final = """
new MutationObserver((_, observer) => {
  if (document.querySelector('tr[data-row]') === null) return;
  window.rowsAt = performance.now();
  observer.disconnect();
}).observe(document, {childList: true, subtree: true});
"""


@pytest.mark.alone
def test_a_large_list_is_there_soon(browser: Browser, large_server: ServerProcess) -> None:
    """With nothing in the browser's cache."""
    paints, rows, slow = [], [], []
    for _ in range(ROUNDS_COUNT):
        with visiting(browser, large_server.url) as visitor:
            visitor.context.add_init_script(_NOTE_ROWS)
            slow.append(slowness())
            page = visitor.open("promises")
            paints.append(page.evaluate("performance.getEntriesByType('paint')[0].startTime"))
            rows.append(page.evaluate("window.rowsAt"))
    factor = median(slow)
    print(
        f"first paint {median(paints):.0f} ms, rows {median(rows):.0f} ms, "
        f"on a machine {factor:.1f} times as slow"
    )

    assert median(paints) <= FIRST_PAINT_MS * factor
    assert median(rows) <= ROWS_MS * factor


def sent_bytes(page: Page, url: str) -> int:
    """Open a page with nothing in the cache; return the bytes of it all, with headers."""
    session = page.context.new_cdp_session(page)
    sizes: list[int] = []
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(url)
    page.wait_for_selector("h1:not(:empty)")
    page.wait_for_selector("#main .loading", state="detached")
    page.wait_for_timeout(500)
    session.detach()
    assert len(sizes) > 20
    return sum(sizes)


@pytest.mark.own_core
def test_bytes_of_a_page(browser: Browser, visit: Visit, large_server: ServerProcess) -> None:
    """As they are on the wire: files, answers of the API, headers."""
    totals: dict[str, int] = {}
    with visiting(browser, large_server.url) as visitor:
        page = visitor.context.new_page()
        totals["promises, many"] = sent_bytes(page, f"{visitor.url}/ui/promises")
    for path in ("", "promises", f"promises/{ORDER}", "queues"):
        with visit() as visitor:
            page = visitor.context.new_page()
            totals[path] = sent_bytes(page, f"{visitor.url}/ui/{path}")
    print(json.dumps(totals))

    assert max(totals.values()) <= PAGE_LIMIT_BYTES


def page_of_rows(route: Route) -> None:
    """Answer a list with a quarter of all rows, which is more than the server gives in a page."""
    query = parse_qs(urlsplit(route.request.url).query)
    first = int(query.get("cursor", ["0"])[0])
    count = ROWS_COUNT // 4
    now_ms = int(time.time() * 1000)
    rows = [
        {
            "id": f"row-{number}",
            "state": "RESOLVED",
            "param": encoded({"func": "work", "args": [number]}),
            "value": {},
            "tags": {"team": "billing"},
            "createdOn": now_ms - number,
            "completedOn": now_ms,
            "timeout": now_ms + HOUR,
        }
        for number in range(first, first + count)
    ]
    following = str(first + count) if first + count < ROWS_COUNT else None
    route.fulfill(json={"cursor": following, "promises": rows})


_SCROLL: Final = """([count, stepPx]) => new Promise((resolve) => {
  let frames = 0;
  const step = () => {
    scrollBy(0, stepPx);
    if (++frames < count) requestAnimationFrame(step);
    else requestAnimationFrame(resolve);
  };
  requestAnimationFrame(step);
})"""


@pytest.mark.own_core
def test_ten_thousand_rows(visit: Visit) -> None:
    with visit() as visitor:
        page = visitor.open("nowhere")
        page.route(re.compile(r"^http://[^/]+/promises\?"), page_of_rows)
        page.get_by_role("link", name="Promises").click()
        table = page.get_by_role("table", name="Promises")
        deadline = time.monotonic() + 120
        most = 0
        while int(table.get_attribute("aria-rowcount") or 0) <= ROWS_COUNT:
            assert time.monotonic() < deadline
            page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            page.wait_for_timeout(50)
            most = max(most, page.locator("tr").count())
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(page.locator("td .id").last).to_have_text(f"row-{ROWS_COUNT - 1}")
        session = visitor.context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        middle = page.locator("td .id").nth(20)
        expect(middle).to_have_text(re.compile(r"row-[45]\d{3}"))
        most = max(most, page.locator("tr").count())
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator("td .id").first).to_have_text("row-0")
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = _task_s(session)
        page.evaluate(_SCROLL, [FRAMES_COUNT, FRAME_PX])
        frame_s = (_task_s(session) - before) / FRAMES_COUNT
        scrolled: float = page.evaluate("scrollY")
        slow = slowness(time.thread_time)
    print(
        f"at most {most} rows in the page, heap {heap >> 20} MiB, a frame {frame_s * 1000:.1f} ms "
        f"of CPU on a machine {slow:.1f} times as slow"
    )

    assert most <= ROWS_LIMIT_COUNT
    assert heap <= HEAP_LIMIT_BYTES
    assert scrolled == pytest.approx(FRAMES_COUNT * FRAME_PX, rel=0.01)
    assert frame_s <= slow / FRAMES_A_SECOND


@pytest.mark.alone
def test_many_tabs_one_stream(browser: Browser, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, visiting(browser, server.url) as visitor:
        times, slow = [], []
        for _ in range(TABS_COUNT):
            before = slowness()
            began = time.monotonic()
            page = visitor.open("promises")
            times.append(time.monotonic() - began)
            slow.append(max(before, slowness()))
        expect(page.get_by_role("button", name="Pause")).to_contain_text("Live")
        create(server, "for-all-tabs")
        for tab in visitor.context.pages:
            tab.bring_to_front()
            expect(tab.locator("td .id")).to_have_text("for-all-tabs")
        assert streams(server) == 1
    print(
        f"of {TABS_COUNT} tabs the slowest took {max(times):.2f} s, the median {median(times):.2f} "
        f"s, on a machine {median(slow):.1f} times as slow"
    )

    # Without the worker the seventh would wait until another tab is closed.
    assert max(one / factor for one, factor in zip(times, slow, strict=True)) <= TAB_LIMIT_S


@pytest.mark.own_core
def test_an_idle_page_costs_nothing(visit: Visit, unused_visit: Visit) -> None:
    """A page of a hundred promises, each older than a minute, and the overview."""
    visits = {"promises?id=job-*&order=oldest": visit, "": unused_visit}
    sessions = {}
    with ExitStack() as stack:
        for path, visit_one in visits.items():
            visitor = stack.enter_context(visit_one())
            visitor.expected_statuses = {400}  # one has no directory for snapshots
            page = visitor.open(path)
            session = visitor.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            sessions[path or "overview"] = session
        page.wait_for_timeout(1_000)
        before = {name: _task_s(session) for name, session in sessions.items()}
        page.wait_for_timeout(IDLE_S * 1000)
        used = {name: _task_s(session) - before[name] for name, session in sessions.items()}
    slow = slowness(time.thread_time)
    shares = {name: busy_s / IDLE_S / slow for name, busy_s in used.items()}
    print({path: f"{share:.2%} of a core" for path, share in shares.items()})

    assert max(shares.values()) <= IDLE_PAGE_LIMIT


def _task_s(session: Any) -> float:
    """Return the CPU that the page's thread has used."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


@contextmanager
def overviews(browser: Browser, server: ServerProcess) -> Iterator[None]:
    """Have the overview open in as many browsers."""
    with ExitStack() as stack:
        for _ in range(BROWSERS_COUNT):
            visitor = stack.enter_context(visiting(browser, server.url))
            page = visitor.open()
            expect(page.get_by_role("button", name="Pause")).to_contain_text("Live")
        deadline = time.monotonic() + OPENED_S
        while streams(server) != BROWSERS_COUNT:  # one may have been opened anew
            assert time.monotonic() < deadline
            page.wait_for_timeout(100)
        yield


def idle_share(server: ServerProcess) -> float:
    """Return the share of a quiet machine's core that the server uses while nothing is created."""
    before = used_s(server.process_id)
    time.sleep(IDLE_S)
    return (used_s(server.process_id) - before) / IDLE_S / slowness(time.thread_time)


def cost_of_creates(server: ServerProcess, prefix: str) -> tuple[float, float, int]:
    """Return the CPU of one create, the 99th percentile of their times in s, and their count."""
    with Creating(server, prefix) as creating:
        time.sleep(1)
        before, first = used_s(server.process_id), len(creating.times_s)
        time.sleep(WATCHED_S)
        used, times = used_s(server.process_id) - before, creating.times_s[first:]
    cost = used / len(times) / slowness(time.thread_time)
    return cost, quantiles(times, n=100)[98], len(times)


@pytest.mark.alone
@pytest.mark.scale
def test_twenty_browsers_on_the_overview(browser: Browser, tmp_path: Path) -> None:
    """In shares of a core of the server, against the same without browsers before and after."""
    # Not one server: after many creates it writes checkpoints, which are not the browsers' cost.
    with ServerProcess(tmp_path / "idle") as server:
        create(server, "one")
        idle = [idle_share(server)]
        with overviews(browser, server):
            time.sleep(2)
            watched_idle = idle_share(server)
        time.sleep(1)
        idle.append(idle_share(server))
    with ServerProcess(tmp_path / "busy") as server:
        create(server, "one")
        alone = [cost_of_creates(server, "alone-1")]
        with overviews(browser, server):
            time.sleep(2)
            watched = cost_of_creates(server, "watched")
        time.sleep(1)
        alone.append(cost_of_creates(server, "alone-2"))
    more_idle = watched_idle - min(idle)
    costs = [one for one, _, _ in alone]
    more = (watched[0] - max(costs)) * CREATES_A_SECOND
    print(
        f"idle: {max(idle):.2%} of a core, {watched_idle:.2%} with {BROWSERS_COUNT} browsers; "
        f"a create: {min(costs) * 1e6:.0f} to {max(costs) * 1e6:.0f} µs of CPU, "
        f"{watched[0] * 1e6:.0f} with them, so {more:.2%} of a core more at {CREATES_A_SECOND}/s; "
        f"p99 {min(one for _, one, _ in alone) * 1000:.1f} to "
        f"{max(one for _, one, _ in alone) * 1000:.1f} ms, {watched[1] * 1000:.1f} with them; "
        f"{watched[2] / WATCHED_S:.0f} a second"
    )

    assert more_idle <= IDLE_LIMIT
    assert more <= CREATING_LIMIT
