"""WCAG 2.2 A and AA on every screen and in every state, by axe; and what axe cannot judge."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import pytest
from playwright.sync_api import Page, Route, expect

from tests.helpers.repository import ROOT
from tests.helpers.seeds import RUNS_ALL

from .axe import violations, violations_in_both
from .browser import SCHEMES, Scheme, Visitor, settle
from .conftest import Staffed, Visit
from .demo import ORDER
from .pictures.names import places as pictured

SCREENS: Final = (
    "",
    "promises",
    "promises?states=rejected&tag=team%3Dbilling",
    f"promises/{ORDER}?call={ORDER}.2.1",
    "promises/invoice-3?tab=tasks",
    f"promises/{ORDER}?tab=waiting",
    f"promises/{ORDER}?tab=raw",
    "tasks",
    "queues",
    "queues/poll%3A%2F%2Fbilling",
    "schedules",
    "schedules/nightly-report",
    "locks",
    "failures",
)
EMPTY: Final = (
    "promises?id=there-is-none*",
    "promises/there-is-none",
    "tasks?root=there-is-none",
    "locks?id=there-is-none*",
    "schedules?id=there-is-none*",
    "schedules/there-is-none",
    "nowhere",
)
CONTRAST_LIMIT: Final = 4.5
FAR_MS: Final = 4_000_000_000_000
SLOW_COUNT: Final = 200
CLOSELY_COUNT: Final = 100 if RUNS_ALL else 3
"""Of screens that look alike, how many are judged closely: dark and narrow as well, or at all if
their look is one of few; `make seeds`: all."""
ALONE_COUNT: Final = 100 if RUNS_ALL else 5
"""The same of screens that do not look alike; all have the same colors."""
SLOW_JOB: Final = {"action": "cancel", "filter": {"id": "slow-*"}, "ratePerSecond": 1}
API: Final = re.compile(
    r"^http://[^/]+/(promises|tree|why|waiting|timers|tasks|queues|workers|schedules|locks|"
    r"failures|statistics|bulk|settings|metrics|admin|v1)\b"
)
"""All that screens ask for; the frame asks for `/session` and `/events`."""
SHORT_PAGES: Final = "try { localStorage.setItem('troth.pageSize', '25') } catch {}"
_TOKEN: Final = re.compile(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);")
# What is read on what: text on a ground. Of states, on their soft ground and on surfaces.
GROUNDS: Final = ("page", "surface", "sunken", "raised")
INKS: Final = ("text", "quiet", "accent", "rejected", "timedout", "pending", "resolved", "canceled")


@pytest.mark.slow
@pytest.mark.seeds
def test_axe_every_screen(visit: Visit) -> None:
    with visit() as visitor:
        found = look_at(visitor, SCREENS, ALONE_COUNT)

    assert found == []


@pytest.mark.slow
@pytest.mark.seeds
def test_axe_screens_for_those_who_operate(staffed: Staffed) -> None:
    with staffed.visit() as visitor:
        found = look_at(visitor, operate_screens(staffed), ALONE_COUNT)

    assert found == []


@pytest.mark.slow
def test_axe_what_is_empty(visit: Visit) -> None:
    """What matches nothing, and what is not there."""
    with visit() as visitor:
        visitor.expected_statuses = {404}
        found = look_at(visitor, EMPTY)

    assert found == []


@pytest.mark.slow
@pytest.mark.seeds
def test_axe_a_server_with_nothing(unused_visit: Visit) -> None:
    with unused_visit() as visitor:
        visitor.expected_statuses = {400}  # it has no directory for snapshots
        found = look_at(visitor, places(), CLOSELY_COUNT)
        page = visitor.open("promises")
        expect(page.locator("#main .empty")).to_contain_text("There are no promises yet")

    assert found == []


def look_at(visitor: Visitor, paths: Iterable[str], closely_count: int = 100) -> list[str]:
    """Return what axe finds on some screens, in both schemes and widths.

    If they look alike, only some need be looked at so closely.
    """
    found = []
    visitor.context.add_init_script(SHORT_PAGES)
    page = visitor.open()
    for number, path in enumerate(paths):
        visitor.move(page, path)
        found += violations_in_both(page) if number < closely_count else violations(page)
    return found


@pytest.mark.slow
def test_axe_and_keys_of_every_dialog(staffed: Staffed) -> None:
    """Open each by the keyboard; after Esc the focus is where it was."""
    staffed.client.json("POST", "/promises", {"id": "dialog-1", "timeout": FAR_MS})
    for number in range(SLOW_COUNT):
        body = {"id": f"slow-{number}", "timeout": FAR_MS}
        staffed.client.json("POST", "/promises", body)
    staffed.client.json("POST", "/bulk", SLOW_JOB)
    titles: set[str] = set()
    found = []
    with staffed.visit() as visitor:
        visitor.context.add_init_script(SHORT_PAGES)
        page = visitor.open()
        page.keyboard.press(".")  # so that buttons stay what they are
        own = ("promises/dialog-1", "promises/pickup-20411?tab=tasks", "locks")
        for path in (*SCREENS, *operate_screens(staffed), *own):
            visitor.move(page, path)
            for name in openers(page):
                # This very button: another one of the same name may appear before it.
                opener = page.locator("#main button", has_text=name).first.element_handle()
                assert opener is not None
                opener.focus()
                page.keyboard.press("Enter")
                title = page.locator("dialog[open] h2").first.inner_text()
                if title.split(" ")[:2] not in [one.split(" ")[:2] for one in titles]:
                    found += violations_in_both(page)
                titles.add(title)
                page.keyboard.press("Escape")
                page.wait_for_selector("dialog[open]", state="detached")
                page.wait_for_function("one => document.activeElement === one", arg=opener)
        page.keyboard.press("?")
        found += violations_in_both(page)
    print(sorted(titles))

    assert found == []
    begun = {title.split(" ")[0] for title in titles}
    assert {"Complete", "Create", "Change", "Take", "Break", "Stop", "Delete"} <= begun
    assert {"Disable", "Rotate", "Revoke", "Cancel"} <= begun


def openers(page: Page) -> list[str]:
    """Return what stands on the buttons of a screen that open dialogs, each once."""
    texts = page.locator("#main button:visible").all_inner_texts()
    return list(dict.fromkeys(text for text in texts if text.endswith("…")))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_dialogs_of_many(visit: Visit, scheme: Scheme) -> None:
    with visit(scheme) as visitor:
        visitor.context.add_init_script(SHORT_PAGES)
        page = visitor.open("promises?id=job-*&states=pending")
        page.get_by_label("Select all that are listed").check()
        page.get_by_role("button", name=re.compile(r"Cancel \d+ …")).click()
        page.wait_for_selector("dialog[open]")
        found = violations(page)
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
        visitor.go(page, "promises?id=job-*")
        page.get_by_label("Select all that are listed").check()
        page.get_by_role("button", name="Select all that match").click()
        page.get_by_role("button", name="Delete the completed ones …").click()
        page.wait_for_selector("dialog[open] .examples")
        found += violations(page)
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
        page.get_by_text("View", exact=True).click()
        page.get_by_role("button", name="As a command").click()
        page.wait_for_selector("dialog[open]")
        found += violations(page)

    assert found == []


@pytest.mark.slow
@pytest.mark.seeds
def test_axe_errors_and_loading(staffed: Staffed) -> None:
    error = {
        "error": {
            "code": 50301,
            "message": "The server is overloaded",
            "details": [{"message": "Try again."}],
        }
    }
    found = []
    waiting: list[Route] = []

    def refuse(route: Route) -> None:
        route.fulfill(status=500, content_type="application/json", body=json.dumps(error))

    with staffed.visit() as visitor:
        visitor.expected_statuses = {500}
        page = visitor.open("nowhere")
        # The rest of `Settings` are those of the browser, which is always there.
        paths = (f"promises/{ORDER}", f"functions/{staffed.function_id}", *places())
        for number, path in enumerate(paths):
            is_close = number < CLOSELY_COUNT
            page.route(API, refuse)
            page.goto(f"{visitor.url}/ui/{path}")
            page.wait_for_selector("#main [role=alert]")
            found += violations_in_both(page) if is_close else []
            page.unroute_all()
            page.route(API, lambda route: waiting.append(route))
            page.goto(f"{visitor.url}/ui/{path}")
            page.wait_for_selector("#main .loading", state="visible")
            found += violations(page) if is_close else []
            page.unroute_all()

    assert found == []


_TO_TAB: Final = """() => {
  const can = 'a[href], button:enabled, input:enabled, select, textarea, summary, [tabindex="0"]';
  const shown = (one) => one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0;
  window.left = new Set([...document.querySelectorAll(can)].filter(shown));
  document.addEventListener('focusin', ({target}) => {
    window.left.delete(target);
    const {outlineStyle, boxShadow} = getComputedStyle(target);
    const isSeen = outlineStyle !== 'none' || boxShadow !== 'none' || target.closest('tr');
    if (!isSeen && target.tagName !== 'H1') window.unseen.push(target.outerHTML.slice(0, 200));
  });
  window.unseen = [];
  const {size} = window.left;
  document.activeElement.blur();
  document.querySelector('.skip').focus();
  return size;
}"""
_LEFT: Final = """() => [...window.left].filter((one) => one.isConnected)
    .map((one) => one.outerHTML.slice(0, 200))"""


@pytest.mark.slow
def test_keys_reach_every_control(staffed: Staffed) -> None:
    """Tab comes to each link, button and field of every screen, and one sees where it is."""
    found: dict[str, list[str]] = {}
    with staffed.visit() as visitor:
        visitor.context.add_init_script(SHORT_PAGES)
        page = visitor.open()
        page.keyboard.press(".")  # so that nothing is replaced under the focus
        for path in (*SCREENS, *operate_screens(staffed)):
            visitor.move(page, path)
            count = page.evaluate(_TO_TAB)
            assert count > 10, path
            for _ in range(count):
                page.keyboard.press("Tab")
            missed = page.evaluate(_LEFT)
            unseen = page.evaluate("() => window.unseen")
            if missed or unseen:
                found[path] = [*missed[:5], *unseen[:5]]

    assert found == {}


def places() -> list[str]:
    """Return the path of every screen of the navigation."""
    return [path.partition("?")[0] for path in pictured().values() if "/" not in path]


def operate_screens(staffed: Staffed) -> list[str]:
    """Return the paths of what a server with accounts has besides `SCREENS`."""
    first = ["functions", f"functions/{staffed.function_id}", "bulk", "snapshots", "access"]
    return [*first, "access?account=shop", "access/audit", "settings"]


def luminance(color: str) -> float:
    """Return the relative luminance of a color, as WCAG defines it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_tokens() -> None:
    style = (ROOT / "http" / "ui" / "app.css").read_text(encoding="utf-8")
    tokens = {name: (light, dark) for name, light, dark in _TOKEN.findall(style)}
    pairs = [(ink, ground) for ink in INKS for ground in GROUNDS]
    states = ("pending", "resolved", "rejected", "timedout", "canceled")
    pairs += [(state, f"{state}-soft") for state in states]
    pairs += [("text", f"{state}-soft") for state in states]
    pairs += [("accent", "accent-soft"), ("text", "accent-soft"), ("quiet", "accent-soft")]
    pairs += [("on-accent", "accent"), ("surface", "rejected"), ("page", "text")]

    low = [
        f"{ink} on {ground} ({scheme}): {ratio:.2f}"
        for ink, ground in pairs
        for at, scheme in enumerate(SCHEMES)
        if (ratio := contrast(tokens[ink][at], tokens[ground][at])) < CONTRAST_LIMIT
    ]
    assert low == []


def test_the_contrast_of_known_colors() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def running(page: Page) -> list[Any]:
    """Return the names of the animations that run."""
    names: list[Any] = page.evaluate(
        "document.getAnimations().filter((one) => one.playState === 'running')"
        ".map((one) => one.animationName)"
    )
    return sorted(set(names))


def test_reduced_motion(visit: Visit) -> None:
    with visit() as visitor:
        page = visitor.open("promises/invoice-2")
        page.wait_for_selector(".head .arc")
        before = running(page)
        page.emulate_media(reduced_motion="reduce")
        after = running(page)
        settle(page)

    assert before == ["turn"]
    assert after == []
