"""The samples of `deploy/proxies/`, each in a real proxy, in front of a real server."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import pytest

from tests.deploy.proxies import HOST, PREFIX_HOST, PROXIES, Proxy, running
from tests.helpers.server import ServerProcess, http_json

pytestmark = pytest.mark.slow

FAR: Final = 4102444800000
REQUESTS_COUNT: Final = 40
ORDERS: Final = {
    "X-Accel-Redirect": "/metrics",
    "X-Sendfile": "/etc/hostname",
    "X-Reproxy-URL": "http://127.0.0.1/",
}
"""What proxies take for orders of the server behind them."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that knows both names that proxies have for it."""
    directory = tmp_path_factory.mktemp("server")
    names = ("--url", f"https://{HOST}", "--hosts", PREFIX_HOST)
    with ServerProcess(directory, *names) as server:
        yield server


@pytest.fixture(scope="module", params=list(PROXIES))
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of proxy."""
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(
    kind: str, served: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    port = urlsplit(served.url).port
    assert port is not None
    with running(kind, tmp_path_factory.mktemp(kind) / "proxy", port) as one:
        yield one


def promise(identifier: str, **fields: object) -> bytes:
    """The body that creates a promise."""
    return json.dumps({"id": identifier, "timeout": FAR, **fields}).encode()


ODD_IDS: Final = ("a/b", "a//b", "a b?c", "100%", "+", "%2F", "ö", "a;b=c", "..")


@pytest.mark.parametrize(("host", "below"), [(HOST, ""), (PREFIX_HOST, "/troth")])
def test_ids_arrive_as_they_were_sent(kind: str, proxy: Proxy, host: str, below: str) -> None:
    for identifier in ODD_IDS:
        full = f"{kind}{below}:{identifier}"
        made = proxy.ask("POST", f"{below}/promises", promise(full), host=host)
        read = proxy.ask("GET", f"{below}/promises/{quote(full, safe='')}", host=host)

        assert (made[0], read[0]) == (201, 200), (full, made, read)
        assert json.loads(read[2])["id"] == full


def test_answers_go_on_over_kept_connections(proxy: Proxy, served: ServerProcess) -> None:
    def counts() -> tuple[float, float]:
        text = http_json("GET", f"{served.url}/metrics")[1]
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        accepted = float(values['troth_http_connections_accepted_total{port="api"}'])
        return accepted, float(values['troth_lane_handed_over_total{port="api"}'])

    proxy.ask("GET", "/promises/none")
    before = counts()
    for _ in range(REQUESTS_COUNT):
        assert proxy.ask("GET", "/promises/none")[0] == 404
    after = counts()

    assert after[0] - before[0] <= REQUESTS_COUNT / 4, "connections to the server are kept"
    # The question for metrics leaves the fast path, and so do the proxy's own checks.
    assert after[1] - before[1] <= REQUESTS_COUNT / 4, "requests stay on the fast path"


@pytest.mark.parametrize(("host", "below"), [(HOST, ""), (PREFIX_HOST, "/troth")])
def test_messages_come_while_the_stream_is_open(
    kind: str, proxy: Proxy, host: str, below: str
) -> None:
    group = f"{kind}{len(below)}"
    identifier = f"stream-{group}"
    with contextlib.closing(proxy.open(host)) as connection:
        connection.request("GET", f"{below}/poll/{group}/worker")
        stream = connection.getresponse()
        assert stream.status == 200
        assert stream.getheader("content-type", "").startswith("text/event-stream")
        tags = {"resonate:invoke": f"poll://any@{group}"}
        assert proxy.ask("POST", "/promises", promise(identifier, tags=tags))[0] == 201
        line = b""
        while not line.startswith(b"data:"):
            line = stream.readline()
            assert line, "the stream ended"

    assert identifier.encode() in line


def test_bodies_pass_up_to_the_limit_and_not_beyond(kind: str, proxy: Proxy) -> None:
    large = base64.b64encode(b"x" * 2_000_000).decode()
    made = proxy.ask("POST", "/promises", promise(f"large-{kind}", param={"data": large}))
    read = proxy.ask("GET", f"/promises/large-{kind}")
    status = 0
    with contextlib.suppress(OSError):  # it may close while the body is on its way
        status, _, _ = proxy.ask("POST", "/promises", b"x" * 20_000_000)

    assert made[0] == 201
    assert json.loads(read[2])["param"]["data"] == large
    assert status in {0, 413}


def test_below_a_path_pages_and_links_work(proxy: Proxy) -> None:
    redirected = proxy.ask("GET", "/troth", host=PREFIX_HOST)
    start = proxy.ask("GET", "/troth/", host=PREFIX_HOST, headers={"Accept": "text/html"})
    ui = proxy.ask("GET", "/troth/ui/", host=PREFIX_HOST)

    assert (redirected[0], urlsplit(redirected[1]["location"]).path) == (308, "/troth/")
    assert (start[0], start[1]["location"]) == (302, "ui/")
    assert ui[0] == 200
    assert b"<html" in ui[2].lower()


def test_browsers_are_told_to_stay_with_tls(proxy: Proxy) -> None:
    assert "max-age=" in proxy.ask("GET", "/ping")[1]["strict-transport-security"]


class Ordering(BaseHTTPRequestHandler):
    """A server that gives orders to the proxy, and tells what it was asked."""

    def do_GET(self) -> None:
        """Answer with orders in the headers, and with the request's headers."""
        body = json.dumps({name.lower(): text for name, text in self.headers.items()}).encode()
        self.send_response(200)
        for name, text in ORDERS.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def ordering(kind: str, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy in front of a server that gives it orders."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ordering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with running(kind, tmp_path / "proxy", server.server_port) as one:
            yield one
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_answer_gives_the_proxy_orders(ordering: Proxy) -> None:
    status, headers, body = ordering.ask("GET", "/v1/task/1/result")

    assert status == 200
    assert json.loads(body)["host"] == HOST, "the answer is the server's own"
    assert not {name.lower() for name in ORDERS} & set(headers)


def test_a_client_cannot_say_that_it_is_another(kind: str, ordering: Proxy) -> None:
    _, _, body = ordering.ask("GET", "/ping", headers={"X-Forwarded-For": "10.0.0.1"})

    assert json.loads(body)["x-forwarded-for"].split(", ") == ["127.0.0.1"], kind
