"""`/docs` in a browser: axe finds nothing, it fits a phone, and its commands can be copied."""

import pytest
from playwright.sync_api import Browser, expect

from tests.helpers.seeds import RUNS_ALL
from tests.helpers.server import ServerProcess

from .axe import violations, violations_in_both

pytestmark = pytest.mark.slow


@pytest.mark.seeds
@pytest.mark.parametrize("path", ["/docs", "/docs/errors", "/docs/metrics"])
def test_axe_finds_nothing_in_documents(
    browser: Browser, busy_server: ServerProcess, path: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(busy_server.url + path)

    # Colors and widths are those of the other two, and `/docs` is long: a look takes seconds.
    is_close = RUNS_ALL or path != "/docs"
    assert (violations_in_both if is_close else violations)(page) == []
    assert said == []
    context.close()


def test_contents_lead_to_a_command_that_can_be_copied(
    browser: Browser, busy_server: ServerProcess
) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(busy_server.url + "/docs")
    page.get_by_role("navigation").get_by_text("Promises", exact=True).click()
    page.locator('nav a[href="#createPromise"]').click()
    expect(page.locator("#createPromise")).to_be_in_viewport()
    copy = page.locator("#createPromise ~ .command-box button").first
    copy.click()
    expect(copy).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl {busy_server.url}/promises ")
    context.close()
