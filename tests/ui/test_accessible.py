"""WCAG 2.2 A and AA on every screen and in every state, by axe; and what axe cannot judge."""

import json
import re
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route

from tests.helpers.repository import ROOT

from .browser import NARROW, SCHEMES, WIDE, Scheme, settle
from .conftest import Visit
from .demo import ORDER

RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
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
SHOWN_COUNT: Final = 3
SHORT_PAGES: Final = "try { localStorage.setItem('troth.pageSize', '25') } catch {}"
_TOKEN: Final = re.compile(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);")
# What is read on what: text on a ground. Of states, on their soft ground and on surfaces.
GROUNDS: Final = ("page", "surface", "sunken", "raised")
INKS: Final = ("text", "quiet", "accent", "rejected", "timedout", "pending", "resolved", "canceled")


def violations(page: Page, only: str | None = None) -> list[str]:
    """Return what axe finds, of each rule at most some places. `only` is the one rule to judge."""
    rules: object = list(RULES) if only is None else {"type": "rule", "values": [only]}
    found = Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]})
    return [
        f"{page.url}: {fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found.response["violations"]
        for node in fault["nodes"][:SHOWN_COUNT]
    ]


def violations_in_both(page: Page) -> list[str]:
    """Return what axe finds wide and in light, in dark, and on a narrow screen."""
    found = violations(page)
    page.emulate_media(color_scheme="dark")
    found += violations(page, "color-contrast")
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    found += violations(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > NARROW[0]:
        found.append(f"{page.url}: is {width} px wide on a screen of {NARROW[0]} px")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    return found


@pytest.mark.slow
def test_axe_every_screen(visit: Visit) -> None:
    found = []
    with visit() as visitor:
        visitor.context.add_init_script(SHORT_PAGES)
        page = visitor.open()
        for path in SCREENS:
            visitor.go(page, path)
            found += violations_in_both(page)

    assert found == []


@pytest.mark.slow
def test_axe_what_is_empty(visit: Visit) -> None:
    found = []
    with visit() as visitor:
        visitor.expected_statuses = {404}
        page = visitor.open()
        for path in EMPTY:
            visitor.go(page, path)
            found += violations_in_both(page)

    assert found == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_dialogs(visit: Visit, scheme: Scheme) -> None:
    found = []
    with visit(scheme) as visitor:
        page = visitor.open("promises/invoice-1")
        for opener in ("Complete …", "?"):
            if opener == "?":
                page.keyboard.press("?")
            else:
                page.get_by_role("button", name=opener).click()
            page.wait_for_selector("dialog[open]")
            found += violations(page)
            page.keyboard.press("Escape")
            page.wait_for_selector("dialog[open]", state="detached")
            # Keys are the dialog's until the focus has left it.
            page.wait_for_function("document.activeElement.closest('dialog') === null")
        visitor.go(page, "promises?id=invoice-*")
        page.get_by_label("Select all that are listed").check()
        page.get_by_role("button", name="Cancel 25 …").click()
        page.wait_for_selector("dialog[open]")
        found += violations(page)

    assert found == []


@pytest.mark.parametrize("path", ["", "promises", "queues", f"promises/{ORDER}"])
def test_axe_errors_and_loading(visit: Visit, path: str) -> None:
    error = {
        "error": {
            "code": 50301,
            "message": "The server is overloaded",
            "details": [{"message": "Try again."}],
        }
    }
    with visit() as visitor:
        visitor.expected_statuses = {500}
        page = visitor.open("nowhere")

        def refuse(route: Route) -> None:
            route.fulfill(status=500, content_type="application/json", body=json.dumps(error))

        waiting: list[Route] = []
        page.route(
            re.compile(r"^http://[^/]+/(promises|tree|queues|statistics|failures|why)\b"), refuse
        )
        page.goto(f"{visitor.url}/ui/{path}")
        page.wait_for_selector("[role=alert]")
        found = violations(page)
        page.unroute_all()
        page.route(
            re.compile(r"^http://[^/]+/(promises|tree|queues|statistics)\b"),
            lambda route: waiting.append(route),
        )
        page.goto(f"{visitor.url}/ui/{path}")
        page.wait_for_selector(".loading", state="visible")
        found += violations(page)

    assert found == []


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
