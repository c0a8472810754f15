"""The catalogue's entries about trust: who may call, who may be called, what is believed.

Asked over real sockets, of a server with the hot lane and of one without: both must hold alike.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, Final

import pytest

from tests.helpers.server import REPOSITORY, ServerProcess
from tests.http.executions import test_execution_endpoints as endpoints
from tests.proofs.wire import Answer, Wire

FAR_MS: Final = 4_102_444_800_000
ENVELOPE: Final = {
    "kind": "promise.get",
    "head": {"corrId": "c", "version": "2026-04-01"},
    "data": {"id": "none"},
}
"""A request of the envelope protocol for a promise that is not there."""
WAYS: Final = ("--hot-lane", "--no-hot-lane")


class Caller:
    """Requests on connections of their own; `poll` ones to the poll port."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    @property
    def key(self) -> dict[str, str]:
        """The header that shows the operator's key."""
        return {"Authorization": (self.server.data / "admin.key").read_text().strip()}

    def token(self, *scopes: str, **more: object) -> dict[str, str]:
        """Make a token of the account `team`; the header that shows it."""
        body = {"account": "team", "scopes": scopes, **more}
        made = self.send("POST", "/admin/tokens", body, self.key)
        assert made.status == 201, made.body
        return {"Authorization": made.json["token"]}

    def send(
        self,
        method: str,
        target: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        host: str = "127.0.0.1",
        poll: bool = False,
        is_stream: bool = False,
    ) -> Answer:
        """Send a request; the answer. Of a stream, only the head."""
        content = b"" if body is None else body if isinstance(body, bytes) else _json(body)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {text}" for name, text in (headers or {}).items()]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        with Wire(self.server.poll_url if poll else self.server.url) as wire:
            wire.send(head + content)
            return wire.answer(without_body=is_stream or method == "HEAD")


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture(scope="module", params=WAYS)
def caller(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A caller of an open server, which stays open."""
    with ServerProcess(tmp_path_factory.mktemp("open"), request.param) as server:
        yield Caller(server)


@pytest.fixture(scope="module", params=WAYS)
def guarded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A caller of a server that has the account `team`."""
    with ServerProcess(
        tmp_path_factory.mktemp("guarded"), request.param, "--function-private-networks"
    ) as server:
        caller = Caller(server)
        made = caller.send("POST", "/admin/accounts", {"name": "team"}, caller.key)
        assert made.status == 201
        yield caller


class Receiver(ThreadingHTTPServer):
    """Something on this machine that takes pushes; `came` has their paths and headers."""

    def __init__(self, port: int = 0) -> None:
        self.came: Queue[tuple[str, dict[str, str]]] = Queue()
        super().__init__(("127.0.0.1", port), _Take)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.rfile.read(int(self.headers["content-length"]))
        shown = {name.lower(): text for name, text in self.headers.items()}
        self.server.came.put((self.path, shown))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def pushed(promise_id: str, url: str) -> dict[str, object]:
    """A promise whose work goes to a URL, with headers that are not for clients to set."""
    headers = {"Authorization": "x", "Metadata-Flavor": "Google", "Cookie": "a=b", "X-Mine": "yes"}
    address = {"type": "http", "data": {"url": url, "headers": headers}}
    return {"id": promise_id, "timeout": FAR_MS, "tags": {"resonate:invoke": json.dumps(address)}}


def failed_pushes_count(caller: Caller, headers: Mapping[str, str]) -> float:
    """How many sendings have failed since the start."""
    text = caller.send("GET", "/metrics", headers=headers).body.decode()
    found = re.search(
        r'^troth_messages_total\{kind="push",result="failed"\} (\S+)$', text, re.MULTILINE
    )
    assert found is not None
    return float(found[1])


def test_push_is_ssrf(receiver: Receiver, tmp_path: Path) -> None:
    """ "push is SSRF": a token's holder reaches neither this machine nor the server itself."""
    named = {"type": "http", "data": {"url": f"{receiver.url}/named", "headers": {"Cookie": "own"}}}
    with ServerProcess(tmp_path, "--targets", json.dumps({"hook": named})) as server:
        caller = Caller(server)
        # As long as nobody but this machine can reach an open server, its clients may.
        caller.send("POST", "/promises", pushed("open", f"{receiver.url}/open"))
        path, headers = receiver.came.get(timeout=30)
        assert (path, headers["x-mine"]) == ("/open", "yes")
        assert headers.keys() & {"authorization", "metadata-flavor", "cookie"} == set()
        # Itself it never calls.
        caller.send("POST", "/promises", pushed("itself", f"{server.url}/admin/snapshot"))
        wait_until(lambda: failed_pushes_count(caller, {}) == 1)

        caller.send("POST", "/admin/accounts", {"name": "team"}, caller.key)
        writer, reader = caller.token("promises:write"), caller.token("metrics:read")
        caller.send("POST", "/promises", pushed("closed", f"{receiver.url}/closed"), writer)
        wait_until(lambda: failed_pushes_count(caller, reader) >= 2)
        promise = {"id": "named", "timeout": FAR_MS, "tags": {"resonate:invoke": "hook"}}
        caller.send("POST", "/promises", promise, writer)
        path, headers = receiver.came.get(timeout=30)
        assert (path, headers["cookie"]) == ("/named", "own")
        assert receiver.came.empty()


def test_results_command_the_proxy() -> None:
    """ "results command the proxy": only what a result says of itself is handed on."""
    endpoints.test_what_a_result_says_of_itself_is_handed_on()


def test_repeated_request_headers_reach_a_function_as_the_first_only(
    guarded: Caller, receiver: Receiver
) -> None:
    """ "repeated request headers reach a function as the first only": all of them do, joined."""
    token = guarded.token("functions:write", "tasks:write")
    wanted = {"name": "f", "type": "HTTP", "url": receiver.url}
    function_id = guarded.send("POST", "/v1/function", wanted, token).json["id"]
    head = (
        f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        f"Authorization: {token['Authorization']}\r\nX-Forwarded-For: 203.0.113.66\r\n"
        "X-One: 1\r\nX-Forwarded-For: 10.1.2.3\r\nX-Name: J\xfcrgen\r\nX-One: 1\r\n\r\n"
    )
    with Wire(guarded.server.url) as wire:
        wire.send(head.encode("latin-1"))
        assert wire.answer().status == 201
    _, headers = receiver.came.get(timeout=30)
    assert headers["x-forwarded-for"] == "203.0.113.66, 10.1.2.3"
    assert headers["x-one"] == "1, 1"
    assert headers["x-name"].encode("latin-1").decode() == "J\u00fcrgen"


def test_a_header_that_is_not_utf8_kills_workers(caller: Caller) -> None:
    """ "a header that is not UTF-8 kills workers": it is Latin-1, and comes back as text."""
    body = {"id": "approval \u00fc", "timeout": FAR_MS}
    for text in ("approval \xfc", "approval \xfc".encode().decode("latin-1")):
        answer = caller.send("POST", "/promises", body, {"Idempotency-Key": text})
        assert answer.status in {201, 200}
        assert answer.json["idempotencyKeyForCreate"] == "approval \u00fc"
    answer = caller.send("GET", "/promises/none", headers={"Request-Id": "\xfc"})
    assert answer.headers["request-id"].encode("latin-1").decode() == "\u00fc"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_state_changing_gets(caller: Caller, site: str) -> None:
    """ "state-changing GETs claim tasks from any page": no page of another site opens them."""
    promise_id = f"{site}-{uuid.uuid4()}"
    promise = {"id": promise_id, "timeout": FAR_MS, "tags": {"resonate:invoke": "poll://any@none"}}
    assert caller.send("POST", "/promises", promise).status == 201
    page = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "image"}
    for act in ("claim", "complete", "drop", "heartbeat"):
        answer = caller.send("GET", f"/tasks/{act}/__invoke:{promise_id}/1", headers=page)
        assert (answer.status, answer.code) == (403, 40310)
        answer = caller.send("HEAD", f"/tasks/{act}/__invoke:{promise_id}/1")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, OPTIONS")
    # A stream takes messages away from the workers, so it is such a link too.
    for target, poll in (("/poll/g/page", False), ("/g/page", True)):
        assert caller.send("GET", target, headers=page, poll=poll).status == 403
        head = caller.send("HEAD", target, poll=poll)
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    text = caller.send("GET", "/metrics").body.decode()
    assert "troth_worker_streams_opened_total 0.0" in text
    assert caller.send("GET", f"/tasks/claim/__invoke:{promise_id}/1").status == 201


def test_token_requests_ignore_unknown_fields(guarded: Caller) -> None:
    """ "token requests ignore unknown fields": none is made that lasts longer than meant."""
    wanted = {"account": "team", "scopes": ["promises:read"]}
    for more in ({"expiresOn": FAR_MS}, {"id_prefix": "team-a/"}, {"expiresAt": None}):
        answer = guarded.send("POST", "/admin/tokens", {**wanted, **more}, guarded.key)
        assert (answer.status, answer.code) == (400, 40000)
        assert answer.json["error"]["details"][0]["metadata"]["field"] in more


def test_prefix_tokens_cannot_listen(guarded: Caller) -> None:
    """ "prefix tokens cannot listen": they do, to groups that begin so, and are sent the work."""
    token = guarded.token("promises:write", idPrefix="team-a/")
    for target, poll in (("/poll/team-a%2Fg/w", False), ("/team-a%2Fg/w", True)):
        answer = guarded.send("GET", target, headers=token, poll=poll, is_stream=True)
        assert answer.status == 200
    for target in ("/poll/team-b%2Fg/w", "/poll/g/team-a%2F", "/poll/team-a/g"):
        answer = guarded.send("GET", target, headers=token)
        assert (answer.status, answer.code) == (403, 40313)
    with Wire(guarded.server.url) as wire:
        head = "GET /poll/team-a%2Fg/w HTTP/1.1\r\nHost: x\r\nAuthorization: "
        wire.send(f"{head}{token['Authorization']}\r\n\r\n".encode())
        assert wire.answer(without_body=True).status == 200
        tags = {"resonate:invoke": "poll://any@team-a%2Fg"}
        promise_id = f"team-a/{uuid.uuid4()}"
        promise = {"id": promise_id, "timeout": FAR_MS, "tags": tags}
        assert guarded.send("POST", "/promises", promise, token).status == 201
        wire._until(f"__invoke:{promise_id}".encode())  # or else it is never sent


def test_probes_ask_with_head_and_on_either_port(caller: Caller) -> None:
    """ "HEAD is 405 everywhere; `OPTIONS *` 404; the poll port has no probes": all are answered."""
    for method in ("GET", "HEAD"):
        for target in ("/ping", "/health", "/ready"):
            for poll in (False, True):
                assert caller.send(method, target, poll=poll).status == 200
    shown = caller.send("GET", "/docs/errors")
    head = caller.send("HEAD", "/docs/errors")
    assert (head.status, head.headers["content-length"]) == (200, str(len(shown.body)))
    everything = caller.send("OPTIONS", "*")
    assert everything.status == 204
    assert everything.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST"


def test_a_request_id_leads_to_a_line_in_the_log(guarded: Caller) -> None:
    """ "no request log": who is refused a right finds a line with the id in the error's body."""
    token = guarded.token("promises:read", idPrefix="a/")
    for headers, target, status in (({}, "/promises/x", 401), (token, "/promises/x", 403)):
        answer = guarded.send("GET", target, headers=headers)
        assert answer.status == status
        named = answer.json["error"]["details"][0]["metadata"]["requestId"]
        (line,) = lines_with(guarded.server, named)
        assert f"status={status}" in line
        assert "endpoint=readPromise" in line
        assert f"who={'anonymous' if status == 401 else chr(39) + 'token '}" in line


def test_http_that_tools_speak(caller: Caller) -> None:
    """ "gzip bodies, BOM, empty lines between requests, links under a prefix": all are taken."""
    promise = _json({"id": f"http-{uuid.uuid4()}", "timeout": FAR_MS})
    answer = caller.send("POST", "/promises", promise, {"Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (415, 41500)
    assert caller.send("POST", "/promises", b"\xef\xbb\xbf" + promise).status == 201
    assert caller.send("POST", "/", b"\xef\xbb\xbf" + _json(ENVELOPE)).status == 404
    encoded = caller.send("POST", "/", ENVELOPE, {"Content-Encoding": "gzip"})
    assert (encoded.status, encoded.json["head"]["status"]) == (415, 415)
    request = b"GET /promises/none HTTP/1.1\r\nHost: x\r\n\r\n"
    for end in (request, request.replace(b"promises/none", b"ping")):
        with Wire(caller.server.url) as wire:
            wire.send(b"\r\n" + request + b"\r\n\r\n" + end + b"\r\n" + end)
            statuses = [wire.answer().status for _ in range(3)]
            assert statuses == [404, *[404 if end == request else 200] * 2]
    slash = caller.send("GET", "/docs/")
    assert (slash.status, slash.headers["location"]) == (308, "../docs")
    for page in ("/", "/docs", "/docs/errors"):
        assert b'href="/' not in caller.send("GET", page).body


def test_status_lines_say_their_reason(caller: Caller) -> None:
    """ "status line with its reason": people read it, and the Resonate command line prints it."""
    promise = {"id": f"line-{uuid.uuid4()}", "timeout": FAR_MS}
    for method, target, body, line in (
        ("POST", "/promises", promise, b"HTTP/1.1 201 Created\r\n"),
        ("POST", "/promises", promise, b"HTTP/1.1 409 Conflict\r\n"),
        ("GET", "/promises/none", None, b"HTTP/1.1 404 Not Found\r\n"),
        ("GET", "/ping", None, b"HTTP/1.1 200 OK\r\n"),
        ("DELETE", "/ping", None, b"HTTP/1.1 405 Method Not Allowed\r\n"),
        ("BAD REQUEST", "x", None, b"HTTP/1.1 400 Bad Request\r\n"),
    ):
        with Wire(caller.server.url) as wire:
            content = b"" if body is None else _json(body)
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}"
            wire.send(head.encode() + b"\r\n\r\n" + content)
            assert wire._until(b"\r\n") + b"\r\n" == line


OFF_THE_LANE: Final = {
    "`/metrics`": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "does not exist": b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD": b"HEAD /promises/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "OPTIONS": b"OPTIONS /promises HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.0 without `Host`": b"GET /promises/x HTTP/1.0\r\n\r\n",
    "`Connection: close`": b"GET /promises/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n?",
    "`TE`": b"GET /promises/x HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n",
    "`Upgrade`": b"GET /promises/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    "`Content-Encoding`": b"GET /promises/x HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n\r\n",
    "a target with a host": b"GET http://x/promises/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "two `Content-Length`": b"POST /promises HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"Content-Length: 2\r\n\r\n{}",
}
"""Words of the table in http/README.md, and a request that shows them."""


@pytest.mark.slow
def test_what_takes_a_connection_off_the_lane_is_written(tmp_path: Path) -> None:
    """ "a foreign load test is slow, and nothing says what takes a connection off the lane"."""
    page = (REPOSITORY / "http" / "README.md").read_text()
    table = page.partition("### What takes a connection off the lane")[2].partition("\n## ")[0]
    plain = b"GET /promises/x HTTP/1.1\r\nHost: x\r\n\r\n"
    with ServerProcess(tmp_path) as server:
        before = handed_over_count(server)
        for words, request in OFF_THE_LANE.items():
            assert words in table
            with Wire(server.url) as wire:
                wire.send(plain)
                assert wire.answer().status == 404
                wire.send(request)
                wire.answer(without_body=request.startswith(b"HEAD"))
            after = handed_over_count(server)
            assert after - before == 2, words  # asking for the numbers takes one off too
            before = after


def handed_over_count(server: ServerProcess) -> float:
    """How many connections have left the lane since the start."""
    text = Caller(server).send("GET", "/metrics").body.decode()
    found = re.search(r'^troth_lane_handed_over_total\{port="api"\} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def lines_with(server: ServerProcess, text: str) -> list[str]:
    """The lines of the log that have a text in them; waits for the first."""
    wait_until(lambda: text in server.log())
    return [line for line in server.log().splitlines() if text in line]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for what will be so soon."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def test_a_strangers_name_for_this_machine(caller: Caller) -> None:
    """ "any name that resolves to loopback may read and write the open server": it may not."""
    promise = {"id": "rebound", "timeout": FAR_MS}
    page = {"Origin": "http://evil.example:8001"}
    for _ in range(2):
        answer = caller.send("POST", "/promises", promise, page, host="evil.example:8001")
        assert (answer.status, answer.code) == (421, 42100)
    assert caller.send("GET", "/promises/rebound").status == 404
    assert caller.send("GET", "http://evil.example/promises/rebound").status == 421
    assert caller.send("GET", "/g/worker", host="evil.example", poll=True).status == 421
    assert caller.send("GET", "/poll/g/worker", host="evil.example").status == 421
    assert caller.send("GET", "/", host="evil.example").status == 421
    envelope = caller.send("POST", "/", ENVELOPE, host="evil.example")
    assert (envelope.status, envelope.json["head"]["status"]) == (421, 421)
    assert caller.send("GET", "/ready", host="evil.example").status == 200
    for host in ("localhost:8001", "troth", "[::1]:8001", "troth.default.svc.cluster.local"):
        assert caller.send("GET", "/promises/rebound", host=host).status == 404
    with Wire(caller.server.url) as wire:
        wire.send(b"GET /promises/rebound HTTP/1.0\r\n\r\n")
        assert wire.answer().status == 404
    with Wire(caller.server.url) as wire:
        wire.send(b"GET /promises/rebound HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 400


def test_a_proxy_on_this_machine(caller: Caller) -> None:
    """ "a proxy on the same machine makes the world local": an address is no credential."""
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    for method, target, body in (
        ("POST", "/admin/accounts", {"name": "mallory"}),
        ("POST", "/admin/snapshot", None),
        ("POST", "/admin/retention", {"dryRun": False}),
        ("POST", "/admin/import", {"promises": []}),
        ("GET", "/admin/audit", None),
    ):
        for headers in ({}, forwarded, {"Authorization": "Bearer guess"}):
            answer = caller.send(method, target, body, headers)
            assert (answer.status, answer.code) == (401, 40100), target
    assert caller.send("GET", "/promises/none").status == 404  # it is still open
    assert caller.send("GET", "/admin/audit", headers=caller.key).json == []
