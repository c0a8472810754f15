"""Which requests are noted in the log, and what their lines say."""

from collections.abc import Mapping
from typing import Any

import pytest
import structlog.testing

from tests.http.admin.test_accounts import secret_of
from tests.http.client import Answer, World, running
from troth.core.codes import Code
from troth.core.limits import REQUEST_LINES_PER_SECOND_COUNT
from troth.http.api.request_log import RequestLog
from troth.http.settings.settings import Settings
from troth.http.wire.principals import Principal, PrincipalKind
from troth.http.wire.requests import Request

CHOICES = ["off", "refused", "slow", "all"]


def lines(logged: Any) -> list[Mapping[str, Any]]:
    """What was noted of requests."""
    return [line for line in logged if line["event"] == "request"]


Line = Mapping[str, Any]


async def noted(world: World, *request: Any, **more: Any) -> tuple[Answer, Line | None]:
    """Make a request; its answer, and the line that was written of it."""
    with structlog.testing.capture_logs() as logged:
        answer = await world.send(*request, **more)
    found = lines(logged)
    assert len(found) <= 1
    return answer, found[0] if found else None


async def test_who_was_refused_a_right_can_be_found_by_the_id_of_the_request() -> None:
    async with running() as world:
        token = await secret_of(world, "promises:read", idPrefix="a/")
        refusals = [
            ("/promises/a/1", {}, Code.UNAUTHORIZED, "anonymous"),
            ("/promises/b", token, Code.FORBIDDEN_PREFIX, "token"),
            ("/promises/troth:x", token, Code.RESERVED_ID, "token"),
            ("/v1/task/list", token, Code.FORBIDDEN_SCOPE, "token"),
            ("/tasks/claim/a/1", {"Sec-Fetch-Site": "cross-site"}, Code.ORIGIN_FORBIDDEN, "anon"),
        ]
        for target, headers, code, who in refusals:
            sent = {**headers, "Request-Id": f"find {target}"}
            answer, line = await noted(world, "GET", target, headers=sent)
            assert line is not None, target
            assert line["code"] == answer.code == code
            assert line["request_id"] == f"find {target}"
            assert line["status"] == answer.status
            assert line["who"].startswith(who)
            assert line["peer"] == "127.0.0.1"
            assert line["ms"] >= 0
            assert line["log_level"] == "warning"
    async with running() as world:
        _, line = await noted(world, "GET", "/promises/a", headers={"Host": "evil.example"})
        assert line is not None
        assert line["code"] == Code.MISDIRECTED


async def test_ordinary_refusals_are_not_noted() -> None:
    async with running() as world:
        await world.create("a")
        for request in (
            ("GET", "/promises/none"),
            ("GET", "/nothing"),
            ("PUT", "/promises"),
            ("POST", "/promises", {"id": "a"}),
            ("POST", "/promises", {"id": 1}),
            ("GET", "/promises/a"),
        ):
            assert (await noted(world, *request))[1] is None, request


async def test_what_the_server_could_not_do_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:

        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(world.api.shards, "ask", fail)
        answer, line = await noted(world, "GET", "/promises/a")

        assert answer.status == 500
        assert line is not None
        assert (line["status"], line["code"], line["log_level"]) == (500, 50000, "error")


@pytest.mark.parametrize("choice", CHOICES)
def test_what_each_choice_notes(choice: Any) -> None:
    principal = Principal(PrincipalKind.USER, frozenset(), "ann")

    def is_noted(
        status: int, duration_s: float, refusal: Code | None = None, endpoint: str = "x"
    ) -> bool:
        request = Request("GET", b"/", b"", {}, principal=principal, refusal=refusal, id="r")
        request.endpoint = endpoint
        with structlog.testing.capture_logs() as logged:
            RequestLog(choice).note(request, status, duration_s)
        assert all(line["who"] == "user ann" for line in logged)
        return bool(logged)

    rank = CHOICES.index(choice)
    assert is_noted(503, 0.0) == (rank >= 3)  # the status of a function's own answer
    assert is_noted(503, 0.0, Code.SHUTTING_DOWN, "readPromise") == (rank >= 1)
    assert is_noted(503, 0.0, Code.SHUTTING_DOWN, "ready") == (rank >= 3)
    assert is_noted(503, 0.0, Code.STARTING, "ready") == (rank >= 3)
    assert is_noted(503, 0.0, Code.STORE_FAILED, "ready") == (rank >= 1)
    assert is_noted(503, 0.0, Code.OVERLOADED) == (rank >= 1)
    assert is_noted(503, 0.0, Code.STARTING) == (rank >= 3)
    assert is_noted(401, 0.0, Code.UNAUTHORIZED) == (rank >= 1)
    assert is_noted(403, 0.0, Code.PROMISE_RESOLVED) == (rank >= 3)
    assert is_noted(200, 1.1) == (rank >= 2)
    assert is_noted(200, 0.9) == (rank >= 3)


async def test_all_requests_are_noted_if_asked_for() -> None:
    async with running(Settings(log_requests="all")) as world:
        _, line = await noted(world, "GET", "/ready", headers={"Request-Id": "r"})

        assert line is not None
        assert (line["request_id"], line["endpoint"], line["status"]) == ("r", "ready", 200)


def test_nobody_fills_the_log_with_refusals() -> None:
    now_s = 5.5
    log = RequestLog("slow", lambda: now_s)
    request = Request("GET", b"/", b"", {}, refusal=Code.UNAUTHORIZED)
    with structlog.testing.capture_logs() as logged:
        for _ in range(REQUEST_LINES_PER_SECOND_COUNT + 50):
            log.note(request, 401, 0.0)
        assert len(logged) == REQUEST_LINES_PER_SECOND_COUNT
        now_s = 6.0
        log.note(request, 401, 0.0)
        log.note(request, 401, 0.0)
    assert logged[-2]["left_out"] == 50
    assert "left_out" not in logged[-1]
