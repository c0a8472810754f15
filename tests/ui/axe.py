"""What axe finds on a page: breaches of WCAG 2.2 A and AA, wide and narrow, in light and dark."""

from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .browser import NARROW, WIDE

RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
# What a narrow page may break that the wide one does not: its elements are the same.
NARROW_RULES: Final = (
    *("color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size"),
    *("empty-heading", "empty-table-header", "aria-hidden-focus", "label", "th-has-data-cells"),
)
SHOWN_COUNT: Final = 3
_SCRIPT: Final = Axe().axe_script


def violations(page: Page, *only: str) -> list[str]:
    """Return what axe finds, of each rule at most some places. `only` are the rules to judge."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_SCRIPT)
    rules: Any = {"type": "rule", "values": only} if only else list(RULES)
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    found = page.evaluate("(options) => axe.run(options)", options)
    return [
        f"{page.url}: {fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found["violations"]
        for node in fault["nodes"][:SHOWN_COUNT]
    ]


def violations_in_both(page: Page) -> list[str]:
    """Return what axe finds wide and in light, in dark, and on a narrow screen."""
    found = violations(page)
    page.emulate_media(color_scheme="dark")
    found += violations(page, "color-contrast")
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    found += violations(page, *NARROW_RULES)
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > NARROW[0]:
        found.append(f"{page.url}: is {width} px wide on a screen of {NARROW[0]} px")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    return found
