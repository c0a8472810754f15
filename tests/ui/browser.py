"""The browser that tests of the web UI use, and pages that notice whatever goes wrong on them.

It is Chromium, one a process, without a window. It is looked for in the variable `TROTH_CHROMIUM`,
then as a program of Debian or Google, then where playwright puts its own.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    Route,
    expect,
)

VARIABLE: Final = "TROTH_CHROMIUM"
NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE: Final = (
    f"The tests of the web UI need Chromium. Install it (Debian: apt-get install chromium; "
    f"elsewhere: python -m playwright install chromium), or name it in {VARIABLE}."
)
# A busy machine is no failure.
WAIT_LIMIT_MS: Final = 60_000
WIDE: Final = (1_280, 800)
NARROW: Final = (390, 844)

# Two frames later the old place is no longer shown.
_MOVE: Final = """async (address) => {
  history.pushState(null, '', address);
  dispatchEvent(new PopStateEvent('popstate'));
  for (let count = 0; count < 2; count++) await new Promise(requestAnimationFrame);
}"""

Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")


class NoBrowserError(Exception):
    """There is no browser. The text says what to install."""


def find(playwright: Playwright) -> str:
    """Return the path of the browser. Raises `NoBrowserError`."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    raise NoBrowserError(ADVICE)


def launch(playwright: Playwright, *further: str) -> Browser:
    """Start the browser, with further arguments. Raises `NoBrowserError`."""
    arguments = ["--disable-gpu", "--disable-dev-shm-usage", *further]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to run as root with one
    expect.set_options(timeout=WAIT_LIMIT_MS)
    return playwright.chromium.launch(executable_path=find(playwright), args=arguments)


class Visitor:
    """A person with a browser: pages that share cookies, and what went wrong on any of them.

    `faults` has errors of scripts, breaches of the policy, and requests to other hosts. Answers
    that refuse something are no faults if their status is in `expected_statuses`.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        """Begin without a page. `url` is the server's, without a slash at its end."""
        self.context = context
        self.url = url
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.expected_statuses: set[int] = set()
        context.set_default_timeout(WAIT_LIMIT_MS)
        context.on("request", self._note_request)
        context.on("console", self._note_message)
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))

    def open(self, path: str = "") -> Page:
        """Open a place of the UI in a new tab."""
        page = self.context.new_page()
        self.go(page, path)
        return page

    def go(self, page: Page, path: str) -> None:
        """Go to a place of the UI, and wait until it is shown."""
        page.goto(f"{self.url}/ui/{path}")
        settle(page)

    def move(self, page: Page, path: str) -> None:
        """Go to another place as a link of the UI does: without loading it all again."""
        page.evaluate(_MOVE, f"{self.url}/ui/{path}")
        settle(page)

    def _note_request(self, request: Request) -> None:
        self.requests.append(f"{request.method} {request.url}")
        parts = urlsplit(request.url)
        is_inside = parts.scheme in ("data", "blob") or parts.netloc == urlsplit(self.url).netloc
        if not is_inside:
            self.faults.append(f"request to another host: {request.url}")

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "assert") or "Permissions-Policy" in message.text:
            return
        is_expected = any(
            f"status of {status}" in message.text for status in self.expected_statuses
        )
        is_absence = 0 in self.expected_statuses and "net::ERR" in message.text
        if not (is_expected or is_absence):
            self.faults.append(f"{message.text} ({message.location})")


def settle(page: Page) -> None:
    """Wait until a screen is shown and nothing on it is loading."""
    page.wait_for_selector("h1:not(:empty)")
    page.wait_for_selector("#main .loading", state="detached")


@contextmanager
def visiting(
    browser: Browser, url: str, scheme: Scheme = "light", size: tuple[int, int] = WIDE
) -> Iterator[Visitor]:
    """Visit a server. Raises AssertionError at the end if anything went wrong on a page."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": size[0], "height": size[1]}
    )
    try:
        visitor = Visitor(context, url)
        yield visitor
        assert visitor.faults == [], visitor.faults
    finally:
        for page in context.pages:  # else a route's handler may fail in the test that comes next
            page.unroute_all(behavior="ignoreErrors")
        context.close()


def cut_off(route: Route) -> None:
    """Answer a request as a network does that is gone."""
    route.abort("connectionrefused")
