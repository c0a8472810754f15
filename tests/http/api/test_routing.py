"""Paths, methods, who is let in, and what every answer has, whatever the endpoint."""

import base64
from types import MappingProxyType

import pytest

from tests.http.client import running
from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.http.api.context import Readiness
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.settings import Settings
from troth.shards.errors import Overloaded, ShardsError, Stopping, StorageFailed
from troth.shards.held import HeldMessages


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
        ("/tasks", 40410),
        ("/tasks/claim/x", 40410),
        ("/tasks/claim//1", 40403),
        ("/docs/", 40410),
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
        ("PUT", "/promises", "GET, OPTIONS, POST"),
        ("HEAD", "/promises/x", "GET, OPTIONS, PATCH"),
        ("DELETE", "/promises/task", "GET, OPTIONS, PATCH, POST"),
        ("POST", "/promises/", "GET, OPTIONS, PATCH"),
        ("TRACE", "/ping", "GET, OPTIONS"),
        ("get", "/ping", "GET, OPTIONS"),
        ("M-SEARCH", "/schedules/x", "DELETE, GET, OPTIONS"),
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


async def test_options_says_what_is_allowed() -> None:
    async with running() as world:
        known = await world.send("OPTIONS", "/promises")
        unknown = await world.send("OPTIONS", "/nothing")

        assert (known.status, known.body, known.header("allow")) == (
            204,
            b"",
            "GET, OPTIONS, POST",
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
        public = {endpoint.path for endpoint in API_ENDPOINTS if endpoint.public}

        assert public == {
            "/",
            "/ping",
            "/health",
            "/ready",
            "/openapi.json",
            "/docs",
            "/docs/errors",
        }
        for path in public:
            assert (await world.send("GET", path)).status == 200
        assert (await world.send("GET", "/metrics")).status == 401


async def test_a_schedule_whose_promises_would_have_too_long_ids_is_refused() -> None:
    body = {"id": "s" * 300, "cron": "* * * * *", "promiseId": "{{.id}}{{.id}}{{.id}}{{.id}}"}
    async with running() as world:
        answer = await world.send("POST", "/schedules", body)

        assert (answer.status, answer.code) == (400, 40000)
        assert "1200 bytes" in answer.body.decode()


# --- origins --------------------------------------------------------------------------------------

ORIGIN = "https://app.example"
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
        for path in ("/promises/a", "/ready", "/poll/g/w"):
            answer = await world.send("GET", path)
            assert (answer.status, answer.code) == (503, code)
            assert answer.header("retry-after") == "1"
        for path in ("/health", "/ping", "/docs", "/metrics", "/openapi.json"):
            assert (await world.send("GET", path)).status == 200


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
