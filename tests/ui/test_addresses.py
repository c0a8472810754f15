"""Where the web UI is: below another path behind a proxy, and what an open server offers."""

import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Playwright, expect

from tests.helpers.server import ServerProcess

from .browser import ADVICE, VARIABLE, NoBrowserError, find, visiting
from .conftest import Visit
from .test_promises import create

PREFIX: Final = "/troth"
READ_BYTES: Final = 65_536
DROPPED: Final = frozenset({"connection", "transfer-encoding", "date", "server"})


class Front:
    """A reverse proxy: it serves what listens on `target_port` below `/troth/` of `url`."""

    def __init__(self, port: int) -> None:
        """Know the proxy's own port; it has no target yet."""
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        self.target_port = 0


@contextmanager
def proxy() -> Iterator[Front]:
    """Run a reverse proxy."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            length = int(self.headers.get("Content-Length") or 0)
            headers = {**self.headers, "Host": f"127.0.0.1:{front.target_port}"}
            body = self.rfile.read(length) if length else None
            self.close_connection = True
            with closing(HTTPConnection("127.0.0.1", front.target_port, timeout=60)) as connection:
                connection.request(self.command, self.path.removeprefix(PREFIX), body, headers)
                with connection.getresponse() as response:
                    self.send_response(response.status)
                    for name, value in response.getheaders():
                        if name.lower() not in DROPPED:
                            self.send_header(name, value)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    while chunk := response.read1(READ_BYTES):
                        self.wfile.write(chunk)

        do_GET = do_POST = do_PATCH = do_DELETE = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of clients that hang up: pages do, when one leaves them."""

    server = Quiet(("127.0.0.1", 0), Handler)
    front = Front(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_sub_path_behind_a_proxy(browser: Browser, tmp_path: Path) -> None:
    with proxy() as front, ServerProcess(tmp_path, "--url", front.url) as server:
        front.target_port = int(server.url.rpartition(":")[2])
        create(server, "a/b/c")
        with visiting(browser, front.url) as visitor:
            page = visitor.open("promises")
            page.get_by_role("link", name="a/b/c").click()
            expect(page.locator("h1")).to_have_text("a/b/c")
            assert page.url.endswith("/troth/ui/promises/a%2Fb%2Fc")
            page.reload()
            expect(page.locator(".call-panel h2")).to_have_text("a/b/c")
            page.get_by_role("button", name="Complete …").click()
            page.locator("dialog").get_by_role("button", name="Resolve").click()
            expect(page.locator(".call-panel .state")).to_have_text("Resolved")
            page.get_by_role("link", name="Overview").click()
            expect(page.locator(".tile").first).to_contain_text("of 1")
            expect(page.get_by_role("button", name="Pause")).to_contain_text("Live")
            outside = [one for one in visitor.requests if f" {front.url}/" not in one]

    assert outside == []


def test_open_server_hides_admin(visit: Visit) -> None:
    with visit() as visitor:
        page = visitor.open("locks")
        links = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
        names = {re.sub(r"[\d,\s]+$", "", text) for text in links}
        assert {"Overview", "Promises", "Tasks", "Locks"} <= names
        assert not {"Access", "Snapshots & data"} & names
        expect(page.locator(".open-server")).to_contain_text("full access")
        # Breaking a lock is for administrators.
        expect(page.locator("tr[data-row]")).to_have_count(3)
        expect(page.get_by_role("button", name="Break …")).to_have_count(0)
        visitor.go(page, "access")
        expect(page.locator("h1")).to_have_text("Not allowed")


def test_without_a_browser_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, browser: Browser
) -> None:
    class Chromium:
        executable_path = str(tmp_path / "none")

    class NoPlaywright:
        chromium = Chromium()

    playwright: Playwright = NoPlaywright()  # type: ignore[assignment]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NoBrowserError) as found:
        find(playwright)
    assert str(found.value) == ADVICE

    monkeypatch.setenv(VARIABLE, "my-chromium")
    assert find(playwright) == "my-chromium"
