"""Paths, methods, who is let in, and what every answer has, whatever the endpoint."""

import base64
from types import MappingProxyType

import pytest

from tests.http.client import running
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.http.api.context import Readiness
from troth.http.api.router import Router
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.settings.settings import Settings
from troth.shards.errors import Overloaded, ShardsError, Stopping, StorageFailed
from troth.shards.held import HeldMessages

ORIGIN = "https://app.example"


@pytest.mark.parametrize(
    ("target", "promise_id"),
    [
        ("/promises/a", "a"),
        ("/promises/a/b/c", "a/b/c"),
        ("/promises/a%2Fb", "a/b"),
        ("/promises//a", "/a"),
        ("/promises/a//", "a//"),
        ("/promises/sp+plus", "sp+plus"),
        ("/promises/sp%2Bplus", "sp+plus"),
        ("/promises/x%20y", "x y"),
        ("/promises/q%3Fz", "q?z"),
        ("/promises/100%2525", "100%25"),
        ("/promises/%C3%A9%3C%26%3E", "é<&>"),
        ("/promises/%00%0A", "\0\n"),
        ("/promises/task", "task"),
        ("/promises/callback/x", "callback/x"),
        ("/%70romises/a", "a"),
        ("/promises/../a", "../a"),
        ("/promises/http://h/p", "http://h/p"),
        ("http://troth.localhost:80/promises/a", "a"),
        ("/promises/a;b=c", "a;b=c"),
    ],
)
async def test_an_id_is_everything_after_the_slash_decoded_once(
    target: str, promise_id: str
) -> None:
    async with running() as world:
        assert (await world.create(promise_id)).status == 201
        answer = await world.send("GET", target)

        assert (answer.status, answer.json["id"]) == (200, promise_id)
        assert (await world.send("PATCH", target, {"state": "RESOLVED"})).status == 201


@pytest.mark.parametrize(
    "target", ["/promises/%", "/promises/%zz", "/promises/%f", "/promises/%ff", "/%", "/x%C3"]
)
async def test_a_path_that_cannot_be_decoded_is_refused(target: str) -> None:
    async with running() as world:
        answer = await world.send("GET", target)

        assert (answer.status, answer.code, answer.wrong_fields) == (400, 40000, ["path"])


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/promises/", 40400),
        ("/schedules/", 40401),
        ("/nothing", 40410),
        ("/promises2", 40410),
        ("/Promises/a", 40410),
        ("//", 40410),
        ("*", 40410),
        ("", 40410),
        ("/tasks/none", 40410),
        ("/tasks/claim/x", 40410),
        ("/tasks/claim//1", 40403),
        ("/docs//", 40410),
        ("/poll/g", 40410),
    ],
)
async def test_what_is_not_there_is_404_with_a_body(target: str, code: int) -> None:
    async with running() as world:
        answer = await world.send("GET", target) if target else await world.send("GET", b"*x")

        assert (answer.status, answer.code) == (404, code)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PUT", "/promises", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/promises/task", "DELETE, GET, HEAD, OPTIONS, PATCH, POST"),
        ("POST", "/promises/", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("TRACE", "/ping", "GET, HEAD, OPTIONS"),
        ("get", "/ping", "GET, HEAD, OPTIONS"),
        ("M-SEARCH", "/schedules/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("GET", "/locks/acquire", "OPTIONS, POST"),
        ("PATCH", "/tasks/claim/x/1", "GET, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(
    method: str, target: str, allow: str
) -> None:
    async with running() as world:
        answer = await world.send(method, target)

        assert (answer.status, answer.code, answer.header("allow")) == (405, 40500, allow)


@pytest.mark.parametrize("target", ["/promises/a", "/promises/none", "/", "/ready", "/v1/x"])
async def test_head_is_get_without_the_body(target: str) -> None:
    async with running() as world:
        await world.create("a")
        shown = await world.send("GET", target, headers={"Request-Id": "r"})
        head = await world.send("HEAD", target, headers={"Request-Id": "r"})

        assert (head.status, head.body) == (shown.status, b"")
        assert head.headers == shown.headers
        assert head.header("content-length") == str(len(shown.body))


async def test_head_of_a_stream_opens_nothing() -> None:
    async with running() as world:
        for target, application in (("/poll/g/a", None), ("/g/a", world.poll_application)):
            head = await world.send("HEAD", target, application=application)
            assert (head.status, head.body) == (200, b"")
            assert head.header("content-type") == "text/event-stream"
            assert head.header("content-length") is None
            assert world.api.polls.statistics().connected_total_count == 0


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/locks/acquire", "OPTIONS, POST"),
        ("/tasks/claim/x/1", "GET, OPTIONS"),
        ("/tasks/heartbeat/x/1", "GET, OPTIONS"),
    ],
)
async def test_head_changes_nothing(target: str, allow: str) -> None:
    async with running() as world:
        answer = await world.send("HEAD", target)
        assert (answer.status, answer.body, answer.header("allow")) == (405, b"", allow)


async def test_options_of_everything_says_what_there_is() -> None:
    async with running() as world:
        answer = await world.send("OPTIONS", "*")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.header("allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, POST"
        polls = await world.send("OPTIONS", "*", application=world.poll_application)
        assert polls.header("allow") == "GET, HEAD, OPTIONS"


async def test_the_poll_port_answers_probes() -> None:
    async with running() as world:
        for target in ("/ping", "/health", "/ready"):
            answer = await world.send("GET", target, application=world.poll_application)
            assert answer.status == 200
        world.api.readiness = Readiness.STOPPING
        answer = await world.send("GET", "/ready", application=world.poll_application)
        assert answer.status == 503


LINKS = ["/tasks/claim/x/1", "/tasks/complete/x/1", "/tasks/drop/x/1", "/tasks/heartbeat/x/1"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [*LINKS, "/poll/g/w"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Referer": "http://evil.example/page?x"},
    ],
)
async def test_links_that_change_something_are_not_for_pages_of_other_sites(
    target: str, headers: dict[str, str]
) -> None:
    async with running() as world:
        answer = await world.send("GET", target, headers={"Host": "localhost:8001", **headers})
        assert (answer.status, answer.code) == (403, 40310)
        assert world.api.polls.statistics().connected_total_count == 0
    async with running(Settings(cors_allow_origin=("*",))) as world:
        if target in LINKS:
            assert (await world.send("GET", target, headers=headers)).status in {200, 404}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost:8001"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {"Referer": "http://localhost:8001/docs"},
        {"Referer": "about:blank"},
    ],
)
async def test_links_are_for_programs_and_pages_of_ones_own(headers: dict[str, str]) -> None:
    async with running(Settings(cors_allow_origin=(ORIGIN,))) as world:
        for target in LINKS:
            answer = await world.send("GET", target, headers={"Host": "localhost:8001", **headers})
            assert answer.status in {200, 404}


def test_every_get_that_changes_something_is_a_link_that_changes() -> None:
    """These are the links of tasks, and the streams, which take messages away from others."""
    changing = {row.name for row in (*API_ENDPOINTS, *POLL_ENDPOINTS) if row.changes_by_link}

    assert changing == {
        *("claimTaskByLink", "completeTaskByLink", "dropTaskByLink", "heartbeatTaskByLink"),
        *("poll", "pollPort", "streamWork"),
    }


@pytest.mark.parametrize(
    ("path", "group", "worker"),
    [
        ("/team%2Fg/w", "team/g", "w"),
        ("/team%2fg/w/1", "team/g", "w/1"),
        ("/team%2Fg/w%2F1", "team/g", "w/1"),
        ("/g/w%2F1", "g", "w/1"),
        ("/g%2Fw", "g", "w"),
        ("/g%252F/w", "g%2F", "w"),
    ],
)
def test_an_escaped_slash_belongs_to_its_segment(path: str, group: str, worker: str) -> None:
    for router, start in ((Router(API_ENDPOINTS), "/poll"), (Router(POLL_ENDPOINTS), "")):
        for target in (f"{start}{path}", f"http://troth{start}{path}"):
            found = router.match("GET", target.encode())
            assert dict(found.values) == {"group": group, "id": worker}


async def test_options_says_what_is_allowed() -> None:
    async with running() as world:
        known = await world.send("OPTIONS", "/promises")
        unknown = await world.send("OPTIONS", "/nothing")

        assert (known.status, known.body, known.header("allow")) == (
            204,
            b"",
            "GET, HEAD, OPTIONS, POST",
        )
        assert known.header("content-length") is None
        assert known.header("content-type") is None
        assert (unknown.status, unknown.code) == (404, 40410)


async def test_error_bodies_have_one_form() -> None:
    async with running() as world:
        answer = await world.send("GET", "/promises/x", headers={"Request-Id": "r-1"})
        wrong = await world.send("POST", "/locks/release", {}, {"Request-Id": "r-2"})

        assert answer.json == {
            "error": {
                "code": 40400,
                "message": "The specified promise was not found",
                "details": [
                    {
                        "@type": "RequestError",
                        "message": "No promise has this id.",
                        "domain": "request",
                        "metadata": {
                            "url": "http://troth.test/docs/errors#40400",
                            "requestId": "r-1",
                        },
                    }
                ],
            }
        }
        assert [detail["@type"] for detail in wrong.json["error"]["details"]] == [
            "FieldValidationError",
            "FieldValidationError",
        ]
        assert wrong.json["error"]["details"][0]["metadata"] == {
            "field": "resourceId",
            "url": "http://troth.test/docs/errors#40000",
            "requestId": "r-2",
        }


@pytest.mark.parametrize("given", [b"", b"\x85", b"x" * 257, b"a\x0fb", "\u0085".encode()])
async def test_an_unusable_request_id_is_replaced(given: bytes) -> None:
    async with running() as world:
        answer = await world.send("GET", "/ping", headers=[(b"request-id", given)])

        assert answer.status == 200
        made = answer.header("request-id")
        assert made is not None
        assert len(made) == 36


async def test_a_request_id_is_echoed() -> None:
    async with running() as world:
        for method, target in (("GET", "/ping"), ("GET", "/nothing"), ("PUT", "/promises")):
            answer = await world.send(method, target, headers={"Request-Id": "ä-7"})
            assert answer.header("request-id") == "ä-7"
            answer = await world.send(method, target, headers=[(b"request-id", b"\xe4-7")])
            assert answer.header("request-id") == "ä-7"


# --- who is let in --------------------------------------------------------------------------------

USERS = Settings(basic_auth=MappingProxyType({"ann": "secret:ü", "bob": ""}))


def _basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Bearer x"},
        _basic("ann"),
        _basic("ann:"),
        _basic("ann:secret"),
        _basic("Ann:secret:ü"),
        _basic(":"),
        _basic("eve:x"),
    ],
)
async def test_strangers_are_refused(headers: dict[str, str]) -> None:
    async with running(USERS) as world:
        answer = await world.send("GET", "/promises/a", headers=headers)

        assert (answer.status, answer.code) == (401, 40100)
        assert (answer.header("www-authenticate") or "").startswith("Basic realm=")

        # A stream that is let in does not end, so this comes after the other has been refused.
        poll = await world.send("GET", "/g/w", headers=headers, application=world.poll_application)

        assert (poll.status, poll.code) == (401, 40100)


async def test_users_are_let_in() -> None:
    async with running(USERS) as world:
        for credentials in ("ann:secret:ü", "bob:"):
            answer = await world.send("GET", "/promises/a", headers=_basic(credentials))
            assert (answer.status, answer.code) == (404, 40400)


async def test_only_public_endpoints_need_no_user() -> None:
    async with running(USERS) as world:
        public = {row.path for row in API_ENDPOINTS if row.public and row.method == "GET"}

        assert public == {
            "/",
            "/ping",
            "/health",
            "/ready",
            "/openapi.json",
            "/docs",
            "/docs/errors",
            "/docs/metrics",
            "/docs/script.js",
            "/docs/style.css",
            "/ui",
            "/ui/{path...}",
        }
        for path in public:
            assert (await world.send("GET", path)).status == (308 if path == "/ui" else 200)
        writing = {row.path for row in API_ENDPOINTS if row.public and row.method != "GET"}
        assert writing == {"/", "/session"}  # what their bodies hold is judged
        assert (await world.send("GET", "/metrics")).status == 401


async def test_a_schedule_whose_promises_would_have_too_long_ids_is_refused() -> None:
    body = {"id": "s" * 300, "cron": "* * * * *", "promiseId": "{{.id}}{{.id}}{{.id}}{{.id}}"}
    async with running() as world:
        answer = await world.send("POST", "/schedules", body)

        assert (answer.status, answer.code) == (400, 40000)
        assert "1200 bytes" in answer.body.decode()


# --- origins --------------------------------------------------------------------------------------

CORS = Settings(cors_allow_origin=(ORIGIN,), basic_auth=MappingProxyType({"ann": "secret"}))


async def test_a_browser_may_call_from_an_allowed_origin() -> None:
    async with running(CORS) as world:
        asked = await world.send("OPTIONS", "/promises/a", headers={"Origin": ORIGIN})
        answer = await world.send(
            "GET", "/promises/a", headers={"Origin": ORIGIN, **_basic("ann:secret")}
        )
        stranger = await world.send("GET", "/promises/a", headers={"Origin": ORIGIN})

        assert (asked.status, asked.header("access-control-allow-origin")) == (204, ORIGIN)
        assert "PATCH" in (asked.header("access-control-allow-methods") or "")
        for header in ("content-type", "idempotency-key", "strict", "authorization"):
            assert header in (asked.header("access-control-allow-headers") or "").lower()
        assert answer.status == 404
        assert answer.header("access-control-allow-origin") == ORIGIN
        assert "Resonate-Version" in (answer.header("access-control-expose-headers") or "")
        assert answer.header("vary") == "Origin"
        # A page must be able to tell a refusal from a broken network.
        assert (stranger.status, stranger.header("access-control-allow-origin")) == (401, ORIGIN)


async def test_other_origins_are_refused() -> None:
    async with running(CORS) as world:
        for method in ("GET", "OPTIONS"):
            answer = await world.send(method, "/ping", headers={"Origin": "https://evil.example"})
            assert (answer.status, answer.code) == (403, 40310)
            assert answer.header("access-control-allow-origin") is None
        same = {"Origin": "http://troth.lan", "Host": "troth.lan"}
        assert (await world.send("GET", "/ping", headers=same)).status == 200
        assert (await world.send("GET", "/ping")).status == 200


async def test_a_page_of_another_origin_may_not_write_unless_it_is_allowed() -> None:
    body = {"id": "a", "timeout": 1}
    async with running() as world:
        foreign = {"Origin": "https://evil.example", "Host": "troth.lan"}
        refused = await world.send("POST", "/promises", body, foreign)
        read = await world.send("GET", "/promises/a", headers=foreign)
        same = {"Origin": "http://troth.lan", "Host": "troth.lan"}
        allowed = await world.send("POST", "/promises", body, same)

        assert (refused.status, refused.code) == (403, 40310)
        assert read.status == 404
        assert allowed.status == 201


async def test_any_origin_and_no_origin_configured() -> None:
    async with running(Settings(cors_allow_origin=("*",))) as world:
        answer = await world.send("GET", "/ping", headers={"Origin": ORIGIN})
        assert answer.header("access-control-allow-origin") == "*"
    async with running() as world:
        answer = await world.send("GET", "/ping", headers={"Origin": ORIGIN})
        assert (answer.status, answer.header("access-control-allow-origin")) == (200, None)


# --- when the server cannot -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readiness", "code"), [(Readiness.STARTING, 50305), (Readiness.STOPPING, 50300)]
)
async def test_requests_are_refused_while_the_server_is_not_ready(
    readiness: Readiness, code: int
) -> None:
    async with running() as world:
        assert (await world.send("GET", "/ready")).json == {"status": "ready"}
        world.api.readiness = readiness
        for path in ("/promises/a", "/ready"):
            answer = await world.send("GET", path)
            assert (answer.status, answer.code) == (503, code)
            assert answer.header("retry-after") == "1"
        for path in ("/health", "/ping", "/docs", "/metrics", "/openapi.json"):
            assert (await world.send("GET", path)).status == 200


async def test_a_process_that_drains_answers_what_its_clients_have_sent() -> None:
    """Its group still serves, as do the others: there is no reason to refuse it."""
    async with running() as world:
        world.api.readiness, world.api.is_draining = Readiness.STOPPING, True
        assert (await world.send("GET", "/promises/a")).status == 404
        assert (await world.send("GET", "/ready")).status == 503


@pytest.mark.parametrize(
    ("error", "code"), [(Overloaded(), 50301), (Stopping(), 50300), (StorageFailed(), 50304)]
)
async def test_failures_inside_the_shards_are_503(
    error: ShardsError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object) -> Reply:
        raise error

    async with running() as world:
        for name in ("ask", "search_promises", "heartbeat_tasks", "heartbeat_locks"):
            monkeypatch.setattr(world.api.shards, name, fail)
        for method, path, body in (
            ("GET", "/promises/a", None),
            ("GET", "/promises?id=*", None),
            ("POST", "/tasks/heartbeat", {"processId": "p"}),
            ("POST", "/locks/heartbeat", {"processId": "p"}),
        ):
            answer = await world.send(method, path, body)
            assert (answer.status, answer.code) == (503, code)
            assert answer.header("retry-after") == "1"
            assert answer.json["error"]["details"][0]["@type"] == "ServerError"


async def test_a_defect_is_500_and_told_to_nobody_but_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(command: Command, held: HeldMessages | None = None) -> Reply:
        raise RuntimeError("the inside of the server")

    async with running() as world:
        monkeypatch.setattr(world.api.shards, "ask", fail)
        answer = await world.send("GET", "/promises/a")

        assert (answer.status, answer.code) == (500, Code.INTERNAL)
        assert b"inside" not in answer.body
        assert "the inside of the server" in capsys.readouterr().out
