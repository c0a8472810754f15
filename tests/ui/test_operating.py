"""What the web UI says of a server that does not do well, and what one does about its tasks."""

import re
import time
from typing import Any, Final

from playwright.sync_api import Page, Route, expect

from tests.helpers.server import ServerProcess

from .axe import violations_in_both
from .conftest import Staffed, Visit
from .demo import MINUTE, ORDER, encoded
from .test_promises import create, state_of

STATISTICS: Final = re.compile(r"^http://[^/]+/statistics\?")
CLUSTER: Final = re.compile(r"^http://[^/]+/cluster$")
WIDE_SCREENS: Final = (
    "",
    "promises",
    f"promises/{ORDER}",
    "tasks",
    "queues",
    "schedules",
    "locks",
    "failures",
)
_NEEDED_PX: Final = """() => new Promise((resolve) => {
  const look = () => resolve(document.documentElement.scrollWidth);
  requestAnimationFrame(() => requestAnimationFrame(look));
})"""
"""How wide a screen is once it has been drawn at its new width."""
WIDTHS: Final = (1_440, 1_380, 1_280, 1_199, 1_024, 980, 900, 760, 700, 600, 390)


def needs_attention(visit_one: Visit, upkeep: dict[str, Any], sync_ms: float = 1.0) -> str:
    """Return what the overview says of a server whose upkeep goes so."""

    def change(route: Route) -> None:
        answered = route.fetch().json()
        answered["upkeep"] |= upkeep
        for series in answered["series"]:
            if series["name"] == "log.syncP99":
                series["values"] = [*series["values"][:-5], *[sync_ms] * 5]
        route.fulfill(json=answered)

    with visit_one() as visitor:
        page = visitor.context.new_page()
        page.route(STATISTICS, change)
        visitor.go(page, "")
        return page.get_by_role("region", name="Needs attention").inner_text()


def test_a_disk_that_fails_needs_attention(visit: Visit) -> None:
    well = needs_attention(visit, {})
    full = needs_attention(visit, {"freeBytes": 5 << 20})
    slow = needs_attention(visit, {}, sync_ms=2_500)
    archive = needs_attention(visit, {"archiveFailing": True})

    assert not re.search("disk|archive|Retention", well)
    assert re.search(r"The disk is nearly full\s+5.0 MiB are free", full)
    assert "The disk is slow" in slow
    assert "2.5 s or longer" in slow
    assert "The log is not archived" in archive


def test_retention_that_is_behind_needs_attention(staffed: Staffed) -> None:
    behind = needs_attention(staffed.visit, {"retentionLateMs": 5 * MINUTE})
    well = needs_attention(staffed.visit, {"retentionLateMs": 0})

    assert re.search(r"Retention is behind\s+A sweep should have ended 5 m 0 s ago", behind)
    assert "Show data" in behind
    assert "Retention" not in well


def test_a_log_that_fails_is_said_over_every_screen(visit: Visit) -> None:
    error = {"code": 50304, "message": "The log cannot be written", "details": []}

    pressed: list[bool] = []

    def answer(route: Route) -> None:
        # It tries again by itself, too; then the button would be gone before it is pressed.
        if pressed:
            route.continue_()
        else:
            route.fulfill(status=503, json={"error": error})

    with visit() as visitor:
        visitor.expected_statuses = {503}
        page = visitor.open("locks")
        page.route(re.compile(r"^http://[^/]+/(locks|ready)"), answer)
        page.expose_function("notePressed", lambda: pressed.append(True))
        page.evaluate("document.addEventListener('click', () => notePressed(), true)")
        page.get_by_role("searchbox", name="Resources").fill("printer")
        expect(page.locator(".banner")).to_contain_text("cannot write its log")
        page.get_by_role("button", name="Try now").click()
        expect(page.locator(".banner")).to_have_count(0)


def test_failures_name_the_function(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "named-1", encoded({"func": "charge_card", "args": [4711]}))
    assert busy_server.request("PATCH", "/promises/named-1", {"state": "REJECTED"})[0] == 201
    with visit() as visitor:
        for path in ("", "failures"):
            page = visitor.open(path)
            row = page.get_by_role("table", name="Failures").locator("tr", has_text="named-1")
            expect(row).to_contain_text("charge_card")


def test_a_task_that_waits_is_dropped(visit: Visit, busy_server: ServerProcess) -> None:
    param = encoded({"func": "deliver", "args": []})
    create(busy_server, "drop-1", param, tags={"resonate:invoke": "poll://droppers"})
    with visit() as visitor:
        page = visitor.open("tasks?root=drop-*")
        expect(page.locator("tr[data-row]")).to_have_count(1)
        expect(page.locator("td.c-task .function")).to_have_text("deliver")
        page.get_by_role("button", name="Drop …").click()
        expect(page.locator("dialog")).to_contain_text("drop-1 is canceled")
        page.locator("dialog").get_by_role("button", name="Drop the task").click()
        page.wait_for_selector("text=The task of drop-1 is dropped")
        expect(page.locator("tr[data-row]:not(.gone)")).to_have_count(0)

    assert state_of(busy_server, "drop-1") == "REJECTED_CANCELED"


def line_heights(page: Page, cell: str) -> set[int]:
    """Return how high the cells of a column are, in lines."""
    heights: list[int] = page.evaluate(
        """(cell) => [...document.querySelectorAll(cell)].map((one) => {
          const range = document.createRange();
          range.selectNodeContents(one);
          return new Set([...range.getClientRects()].map(({top}) => Math.round(top / 10))).size;
        })""",
        cell,
    )
    return set(heights)


def test_short_cells_stay_on_one_line(staffed: Staffed) -> None:
    with staffed.visit() as visitor:
        page = visitor.open("tasks")
        holders = line_heights(page, "td.c-holder:not(:empty)")
        visitor.go(page, "queues")
        rates = line_heights(page, "td.c-rate")

    assert holders <= {0, 1}
    assert 1 in holders
    assert rates == {1}


def test_no_screen_scrolls_sideways_at_any_width(visit: Visit) -> None:
    wide = []
    with visit() as visitor:
        page = visitor.open()
        for path in WIDE_SCREENS:
            visitor.go(page, path)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                needed = page.evaluate(_NEEDED_PX)
                if needed > width:
                    wide.append((path, width, needed))

    assert wide == []


def test_a_cluster_shows_its_groups_nodes_and_who_is_behind(visit: Visit) -> None:
    """It is asked for by a server of several processes only, and shown to pass axe."""

    def several(route: Route) -> None:
        answered = route.fetch().json()
        answered["processes"] = [{"process": 0, "promises": 3}, {"process": 1, "promises": 1}]
        route.fulfill(json=answered)

    def cluster(route: Route) -> None:
        asked.append(route.request.url)
        followers = [
            {"node": "two", "behind": 0, "seenOn": now_ms},
            {"node": "three", "behind": 7_000, "seenOn": now_ms},
        ]
        owned = {"epoch": 3, "lastFrame": 4_711, "snapshotOn": now_ms - MINUTE}
        node = {"version": "0.1.0", "features": 2, "isDrained": False}
        unkept = {"snapshotOn": None}
        away = {"seenOn": now_ms - MINUTE, "isDrained": True}
        groups = [
            {"group": 0, "owner": "one", "wished": None, "followers": followers, **owned},
            {"group": 1, "owner": None, "wished": "one", "followers": [], **owned, **unkept},
        ]
        nodes = [
            {"node": "one", "address": "http://one:8001", "seenOn": now_ms, **node},
            {"node": "three", "address": "http://three:8001", **node, **away},
        ]
        route.fulfill(json={"name": "orders", "features": 1, "groups": groups, "nodes": nodes})

    asked: list[str] = []
    with visit() as visitor:
        page = visitor.context.new_page()
        now_ms = int(time.time() * 1_000)
        page.route(CLUSTER, cluster)
        visitor.go(page, "")
        assert asked == [], "a server of one process has no cluster"
        page.route(STATISTICS, several)
        visitor.go(page, "")
        groups = page.get_by_role("table", name="Groups").inner_text()
        nodes = page.get_by_role("table", name="Nodes of the cluster").inner_text()
        assert page.get_by_role("heading", name="Cluster orders").is_visible()
        assert "troth cluster finalize" in page.inner_text("main")
        assert violations_in_both(page) == []
    assert re.search(r"Group 0\s+one\s+3\s+4,711\s+two has read all\s+three 7,000 behind", groups)
    assert re.search(r"Group 1\s+none known wished at one\s+3\s+4,711\s+nobody\s+none yet", groups)
    assert re.search(r"one\s+There\s+http://one:8001\s+0.1.0\s+2", nodes)
    assert re.search(r"three\s+Away since.*drained", nodes)
