"""Signing in, and that rights decide what the web UI shows; the server judges all the same."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers.server import ServerProcess

from .browser import settle, visiting
from .demo import HOUR, encoded

SCOPES: Final = (
    *("promises:read", "promises:write", "functions:read", "functions:write"),
    *("tasks:read", "tasks:write", "node", "metrics:read", "admin"),
)
READS: Final = {"Promises", "Tasks", "Schedules", "Locks", "Failures"}
# What the navigation shows with one scope alone, besides the overview and this browser's settings.
SHOWN: Final = {
    "promises:read": READS,
    "promises:write": set[str](),
    "metrics:read": {"Queues & workers", "Failures"},
    "admin": {"Snapshots & data", "Access"},
}


class Guarded:
    """A server with an account, and tokens for it."""

    def __init__(self, server: ServerProcess) -> None:
        """Make the account; from then on the server asks for credentials."""
        self.server = server
        key = (server.data / "admin.key").read_text().strip()
        self.headers = {"Authorization": f"Bearer {key}"}
        self.ask("POST", "/admin/accounts", {"name": "ops"})
        self.writer, _ = self.token("promises:read", "promises:write")

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask as the operator."""
        status, answered = self.server.request(method, path, body, self.headers)
        assert status < 300, answered
        return answered

    def token(self, *scopes: str, prefix: str = "") -> tuple[str, str]:
        """Return a token and its id."""
        body: dict[str, object] = {"account": "ops", "scopes": scopes}
        if prefix:
            body["idPrefix"] = prefix
        made = self.ask("POST", "/admin/tokens", body)
        return made["token"], made["id"]

    def create(self, promise_id: str) -> None:
        """Create a promise that is pending for an hour."""
        body = {
            "id": promise_id,
            "timeout": int(time.time() * 1000) + HOUR,
            "param": encoded({"func": "pay"}),
        }
        headers = {"Authorization": f"Bearer {self.writer}"}
        assert self.server.request("POST", "/promises", body, headers)[0] == 201


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with ServerProcess(tmp_path_factory.mktemp("guarded")) as server:
        yield Guarded(server)


def sign_in(page: Page, token: str) -> None:
    """Fill in the form, and wait for what comes after it."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("nav")
    settle(page)


def links(page: Page) -> set[str]:
    """Return what the navigation shows, without counts."""
    spans = page.get_by_role("navigation").locator("a > span:not(.count)")
    return set(spans.all_inner_texts())


@pytest.mark.newest
def test_sign_in_and_out(browser: Browser, guarded: Guarded) -> None:
    guarded.create("sign-1")
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {401}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/promises/sign-1?tab=raw")
        page.get_by_label("Token").fill("troth_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("token is not known here")
        sign_in(page, guarded.writer)
        # It goes on where one wanted to go.
        expect(page.locator("h1")).to_have_text("sign-1")
        expect(page.get_by_role("tab", name="Raw")).to_have_attribute("aria-selected", "true")
        page.get_by_role("button", name="Complete …").click()
        page.locator("dialog").get_by_role("button", name="Resolve").click()
        expect(page.locator(".call-panel .state")).to_have_text("Resolved")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert visitor.context.cookies() == []


def test_a_revoked_token_ends_what_its_pages_show(browser: Browser, guarded: Guarded) -> None:
    guarded.create("revoked-1")
    token, token_id = guarded.token("promises:read", "metrics:read")
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {401}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/promises?id=revoked*")
        sign_in(page, token)
        expect(page.get_by_role("button", name="Pause")).to_contain_text("Live")
        guarded.ask("DELETE", f"/admin/tokens/{token_id}")
        # The stream ends at once, and the page learns why.
        expect(page.get_by_label("Token")).to_be_visible()
        sign_in(page, guarded.writer)
        assert page.url.endswith("/ui/promises?id=revoked*")
        expect(page.locator("td .id")).to_have_text("revoked-1")


@pytest.mark.parametrize("scope", SHOWN)
def test_actions_follow_scopes(browser: Browser, guarded: Guarded, scope: str) -> None:
    token, _ = guarded.token(scope)
    promise_id = f"scope-{scope.replace(':', '-')}"
    guarded.create(promise_id)
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {401, 403}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/")
        sign_in(page, token)
        shown = links(page) - {"Overview", "Settings"}
        visitor.go(page, f"promises/{promise_id}")
        can_complete = page.get_by_role("button", name="Complete …").count()
    headers = {"Authorization": f"Bearer {token}"}
    change = guarded.server.request(
        "PATCH", f"/promises/{promise_id}", {"state": "RESOLVED"}, headers
    )
    read = guarded.server.request("GET", f"/promises/{promise_id}", None, headers)

    assert SHOWN[scope] <= shown
    assert shown <= SHOWN[scope] | {"Bulk jobs"}
    # What may not be read is not shown, so it has no actions either.
    assert can_complete == 0
    assert change[0] == (201 if scope == "promises:write" else 403)
    assert read[0] == (200 if scope == "promises:read" else 403)


def test_a_prefix_is_shown_and_kept(browser: Browser, guarded: Guarded) -> None:
    guarded.create("team-a/1")
    guarded.create("team-b/1")
    token, _ = guarded.token("promises:read", "promises:write", prefix="team-a/")
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {401, 403}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/promises")
        sign_in(page, token)
        expect(page.locator("td .id")).to_have_text("team-a/1")
        placeholder = page.locator("#search").get_attribute("placeholder")
        assert placeholder is not None
        assert "team-a/" in placeholder
        page.goto(f"{visitor.url}/ui/promises/team-b%2F1")
        expect(page.locator("[role=alert]").first).to_be_visible()
        assert page.get_by_text("pay").count() == 0


def test_a_code_signs_in_once(browser: Browser, guarded: Guarded) -> None:
    code = guarded.ask("POST", "/admin/session-code")["code"]
    with visiting(browser, guarded.server.url) as visitor:
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/access#code={code}")
        expect(page.locator("h1")).to_have_text("Access")
        assert "code" not in page.url
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {401}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/access#code={code}")
        expect(page.locator(".said")).to_contain_text("The code was not accepted")
        expect(page.get_by_label("Token")).to_be_visible()


def test_a_restart_ends_sessions_and_says_so(browser: Browser, guarded: Guarded) -> None:
    with visiting(browser, guarded.server.url) as visitor:
        visitor.expected_statuses = {0, 401, 503}
        page = visitor.context.new_page()
        page.goto(f"{visitor.url}/ui/schedules")
        sign_in(page, guarded.writer)
        guarded.server.restart()
        expect(page.get_by_text("Your session has ended")).to_be_visible()
        sign_in(page, guarded.writer)
        expect(page.locator("h1")).to_have_text("Schedules")


_ATTACK: Final = """<!doctype html><title>Elsewhere</title>
<iframe name="taken" src="{url}/ui/"></iframe>
<iframe name="answer"></iframe>
<form method="post" enctype="text/plain" target="answer" action="{url}/promises">
  <input name='{{"id": "forged-form", "timeout": 9999999999999, "x": "' value='"}}'>
</form>
<script>
  const body = '{{"id": "forged-fetch", "timeout": 9999999999999}}';
  const simple = {{method: 'POST', mode: 'no-cors', credentials: 'include', body}};
  const full = {{method: 'POST', credentials: 'include', body, headers: {{'X-Troth-UI': '1'}}}};
  const read = {{credentials: 'include'}};
  document.forms[0].submit();
  Promise.allSettled([
    fetch('{url}/promises', simple), fetch('{url}/promises', full),
    fetch('{url}/session', read).then((answer) => answer.text()),
  ]).then((all) => {{ document.title = all.map(({{status}}) => status).join(); }});
</script>"""


@contextmanager
def elsewhere(target: str) -> Iterator[int]:
    """Serve a page on another port, which does what it can to a server; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = _ATTACK.format(url=target).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_elsewhere_cannot_use_a_session(
    browser: Browser, guarded: Guarded, host: str
) -> None:
    """Another port is the same site, so the cookie is sent; another host is another site."""
    url = guarded.server.url
    context = browser.new_context()
    page = context.new_page()
    with elsewhere(url) as port:
        page.goto(f"{url}/ui/promises?id=forged-*")
        sign_in(page, guarded.writer)
        page.goto(f"http://{host}:{port}/")
        expect(page).to_have_title(re.compile("(fulfilled|rejected),rejected,rejected"))
        frame = page.frame("taken")
        assert frame is not None
        assert frame.locator("#app").count() == 0, "the UI is not shown within another page"
        page.goto(f"{url}/ui/promises?id=forged-*")
        settle(page)
        expect(page.locator("#main")).to_contain_text("No promise matches")
    context.close()
