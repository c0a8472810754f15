"""Sessions of browsers: what a cookie allows, when it counts, and when it ends."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.http.admin.test_accounts import bearer, new_account, new_token, operator
from tests.http.api.test_authentication import call
from tests.http.client import FAR_MS, NOW_MS, Answer, World, running
from troth.core import limits
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.session_cookies import cookie_of
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.identity.sessions import Sessions
from troth.http.settings.settings import Settings
from troth.http.wire.principals import OPERATOR, Principal, PrincipalKind

USERS: Final = Settings(basic_auth={"ann": "word"})
NAME: Final = "troth_session"
OWN: Final = {"Sec-Fetch-Site": "same-origin"}
FOREIGN: Final = ("same-site", "cross-site", "none", "", "Same-Origin", "same-origin, cross-site")
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
BODY: Final = {"id": "made", "timeout": FAR_MS}


class Page:
    """A page of the UI in a browser that is signed in."""

    def __init__(self, world: World, answer: Answer) -> None:
        assert answer.status == 201, answer.body
        self.world = world
        self.opened: Any = answer.json
        self.cookie = (answer.header("set-cookie") or "").partition(";")[0]

    @property
    def csrf(self) -> str:
        """What goes with all that changes something."""
        text: str = self.opened["csrf"]
        return text

    async def send(
        self,
        method: str,
        target: str,
        body: object = None,
        headers: Mapping[str, str] = OWN,
        **more: Any,
    ) -> Answer:
        """Make a request, as the browser would, with the page's own headers."""
        sent = {"Cookie": f"theme=dark; {self.cookie}", **headers}
        if method not in ("GET", "HEAD"):
            sent.setdefault("X-Troth-CSRF", self.csrf)
        return await self.world.send(method, target, body, sent, **more)


async def signed_in(world: World, *scopes: str, **more: Any) -> Page:
    """Sign in with a new token."""
    token = (await new_token(world, *(scopes or ("promises:read",)), **more)).json["token"]
    return Page(world, await sign_in(world, token=token))


async def sign_in(world: World, headers: Mapping[str, str] = OWN, **body: Any) -> Answer:
    """Try to sign in."""
    return await world.send("POST", "/session", body, headers)


async def code_of(world: World) -> str:
    """A one-time code, made by the operator."""
    made = await world.send("POST", "/admin/session-code", headers=await operator(world))
    assert (made.status, made.json["expiresIn"]) == (201, limits.CODE_LIMIT_MS)
    code: str = made.json["code"]
    return code


# --- the cookie -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "troth_session={}; Path=/; HttpOnly; SameSite=Strict"),
        ("http://box:8001", "troth_session_8001={}; Path=/; HttpOnly; SameSite=Strict"),
        ("https://x.example", "__Host-troth_session={}; Path=/; HttpOnly; SameSite=Strict; Secure"),
        (
            "https://x.example/troth/",
            "troth_session={}; Path=/troth/; HttpOnly; SameSite=Strict; Secure",
        ),
        (
            "https://x.example:8443",
            "__Host-troth_session_8443={}; Path=/; HttpOnly; SameSite=Strict; Secure",
        ),
    ],
)
async def test_session_cookie_flags(url: str | None, expected: str) -> None:
    async with running(USERS) as world:
        if url is not None:
            world.api.session_cookie = cookie_of(url, Settings(url=url).base_path)
        answer = await sign_in(world, user="ann", password="word")

        assert answer.status == 201
        given = answer.header("set-cookie") or ""
        secret = given.partition(";")[0].partition("=")[2]
        assert given == expected.format(secret)
        assert len(secret) == 43  # 256 bits
        assert answer.header("cache-control") == "no-store"
        ended = await Page(world, answer).send("DELETE", "/session")
        cleared = ended.header("set-cookie") or ""
        assert (ended.status, cleared) == (204, expected.format("").replace("=;", "=; Max-Age=0;"))


async def test_no_secret_is_kept() -> None:
    async with running() as world:
        page = await signed_in(world)
        secret = page.cookie.partition("=")[2]

        sessions = world.api.credentials.sessions
        assert secret not in repr([vars(sessions), list(sessions._sessions)])
        assert secret not in str(page.opened)


async def test_a_session_says_whose_it_is() -> None:
    async with running() as world:
        page = await signed_in(world, "promises:read", idPrefix="a/")
        shown = await page.send("GET", "/session")

        assert shown.json == page.opened
        who = shown.json["who"]
        assert (who["kind"], who["name"], who["idPrefix"]) == ("token", "billing", "a/")
        assert who["scopes"] == ["promises:read"]
        assert shown.json["openedOn"] == NOW_MS
        assert shown.json["endsOn"] == NOW_MS + 7 * DAY_MS
        assert shown.json["idleLimit"] == 12 * HOUR_MS
        other = await world.send("GET", "/session", headers=await operator(world))
        assert (other.json["who"]["kind"], "csrf" in other.json) == ("operator", False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"token": "x", "code": "y"},
        {"user": "ann", "password": "word", "token": "x"},
        {"user": "ann", "code": "x"},
        {"token": 1},
        {"unknown": "x"},
    ],
)
async def test_one_way_to_sign_in_is_named(body: dict[str, Any]) -> None:
    async with running(USERS) as world:
        answer = await world.send("POST", "/session", body, OWN)

        assert (answer.status, answer.code) == (400, Code.INVALID)


# --- when it counts -------------------------------------------------------------------------------


async def test_session_needs_csrf_and_same_origin() -> None:
    async with running() as world:
        page = await signed_in(world, "promises:read", "promises:write", "metrics:read")
        for site in FOREIGN:
            # A page of another port or host, or an address that a person typed.
            for method, target in (("GET", "/promises/none"), ("POST", "/promises")):
                answer = await page.send(method, target, BODY, {"Sec-Fetch-Site": site})
                assert (answer.status, answer.code) == (401, Code.UNAUTHORIZED), site
        without = await page.send("GET", "/promises/none", None, {})
        assert (without.status, without.code) == (401, Code.UNAUTHORIZED)
        for csrf in ("", "x", page.csrf[:-1], page.csrf + "x", page.csrf.swapcase()):
            headers = {**OWN, "X-Troth-CSRF": csrf}
            answer = await page.send("POST", "/promises", BODY, headers)
            assert (answer.status, answer.code) == (403, Code.CSRF_MISSING), csrf
        assert (await page.send("GET", "/promises/none")).code == Code.PROMISE_NOT_FOUND
        # To http beyond this machine browsers say nothing about pages.
        ui = {"X-Troth-UI": "1"}
        assert (await page.send("GET", "/promises/none", None, ui)).code == Code.PROMISE_NOT_FOUND
        both = {**ui, "Sec-Fetch-Site": "cross-site"}
        assert (await page.send("GET", "/promises/none", None, both)).status == 401
        assert (await page.send("HEAD", "/events?topics=counters", None, {})).status == 200
        assert (await page.send("HEAD", "/events?topics=counters", None, both)).status == 401

        assert (
            await world.send("GET", "/promises/made", headers=await reading(world))
        ).status == 404
        assert (await page.send("POST", "/promises", BODY)).status == 201


async def reading(world: World) -> dict[str, str]:
    """The header of a token that reads."""
    return bearer((await new_token(world, "promises:read")).json["token"])


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site", "X-Troth-UI": "1"}])
async def test_pages_of_others_open_no_sessions(headers: dict[str, str]) -> None:
    async with running(USERS) as world:
        answer = await sign_in(world, headers, user="ann", password="word")

        assert (answer.status, answer.code) == (403, Code.SESSION_FORBIDDEN)
        assert answer.header("set-cookie") is None
        assert (
            await sign_in(world, {"X-Troth-UI": "1"}, user="ann", password="word")
        ).status == 201


async def test_a_page_of_another_origin_is_refused_first() -> None:
    async with running(USERS) as world:
        page = Page(world, await sign_in(world, user="ann", password="word"))
        headers = {**OWN, "Origin": "http://localhost:3000", "Host": "localhost:8001"}
        for method, target in (("POST", "/promises"), ("DELETE", "/session"), ("POST", "/session")):
            answer = await page.send(method, target, BODY, headers)
            assert (answer.status, answer.code) == (403, Code.ORIGIN_FORBIDDEN)


async def test_cookie_never_claims_by_link() -> None:
    async with running(USERS) as world:
        page = Page(world, await sign_in(world, user="ann", password="word"))
        tags = {"resonate:invoke": "poll://any@nobody"}
        await page.send("POST", "/promises", {**BODY, "tags": tags})
        for target in ("/tasks/claim/__invoke:made/1", "/tasks/heartbeat/__invoke:made/1"):
            answer = await page.send("GET", target)
            assert (answer.status, answer.code) == (403, Code.SESSION_FORBIDDEN)
        task = await page.send("GET", "/tasks/show/__invoke:made")
        assert (task.status, task.json["state"]) == (200, "init")
        links = [row for row in (*API_ENDPOINTS, *POLL_ENDPOINTS) if row.changes_by_link]
        assert len(links) >= 7  # tasks' links, workers' streams of both ports, nodes' streams
        headers = {"Cookie": page.cookie, **OWN, "X-Troth-CSRF": page.csrf}
        for row in links:
            answer = await call(world, row, headers)
            assert (answer.status, answer.code) == (403, Code.SESSION_FORBIDDEN), row.name


async def test_with_authorization_the_cookie_is_not_looked_at() -> None:
    async with running() as world:
        page = await signed_in(world, "promises:write")
        headers = {**OWN, **await reading(world)}
        # Not the cookie's rights, and not its rules.
        assert (await page.send("GET", "/promises/x", None, headers)).status == 404
        answer = await page.send("POST", "/promises", BODY, headers)
        assert (answer.status, answer.code) == (403, Code.FORBIDDEN_SCOPE)
        page.cookie = f"{NAME}=stale"
        assert (await page.send("GET", "/promises/x", None, headers)).status == 404
        wrong = {**OWN, **bearer("troth_" + "x" * 43)}
        good = await signed_in(world, "promises:read")
        assert (await good.send("GET", "/promises/x", None, wrong)).status == 401


async def test_one_of_several_cookies_counts() -> None:
    async with running() as world:
        page = await signed_in(world)
        page.cookie = f"{NAME}=planted; other; {NAME}x=1; {page.cookie};; x={'y' * 99}"

        assert (await page.send("GET", "/promises/x")).status == 404


async def test_the_answers_to_a_session_are_not_stored() -> None:
    async with running() as world:
        page = await signed_in(world, "promises:read", "metrics:read")
        await world.create("a")
        for target in ("/promises/x", "/promises?id=*", "/whoami", "/session", "/admin/tokens"):
            answer = await page.send("GET", target)
            assert answer.header("cache-control") == "no-store", target
        stream = await page.send("HEAD", "/events?topics=counters")
        assert stream.header("cache-control") == "no-store"
        other = await world.send("GET", "/promises/x", headers=await reading(world))
        assert other.header("cache-control") is None


async def test_scripts_get_no_challenge_that_makes_browsers_ask() -> None:
    async with running(USERS) as world:
        for headers in (
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
            {"Sec-Fetch-Mode": "no-cors"},
            {"X-Troth-UI": "1"},
        ):
            answer = await world.send("GET", "/promises/x", headers=headers)
            assert answer.status == 401
            assert answer.header("www-authenticate") == 'Session realm="Troth"', headers
        for headers in ({}, {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}):
            answer = await world.send("GET", "/promises/x", headers=headers)
            assert (answer.header("www-authenticate") or "").startswith("Basic realm="), headers


# --- what it allows -------------------------------------------------------------------------------


async def test_a_session_has_its_tokens_rights() -> None:
    async with running() as world:
        page = await signed_in(world, "promises:read", "promises:write", idPrefix="a/")

        assert (await page.send("POST", "/promises", {**BODY, "id": "a/1"})).status == 201
        assert (await page.send("POST", "/promises", {**BODY, "id": "b/1"})).code == 40313
        for target in ("/workers", "/admin/tokens", "/v1/function/list"):
            assert (await page.send("GET", target)).code == Code.FORBIDDEN_SCOPE, target


async def test_a_session_of_the_operator_may_do_what_an_open_server_allows() -> None:
    async with running() as world:
        await new_account(world)
        page = Page(world, await sign_in(world, code=await code_of(world)))
        assert page.opened["who"]["kind"] == "operator"
        assert (await page.send("POST", "/promises", BODY)).status == 201
        assert (await page.send("GET", "/admin/accounts")).status == 200
        assert (await page.send("GET", "/workers")).status == 200
        assert (await page.send("GET", "/v1/function/list")).status == 403
        by_key = await operator(world)
        assert (await world.send("GET", "/promises/made", headers=by_key)).status == 403


async def test_an_open_server_has_sessions_of_its_operator() -> None:
    async with running() as world:
        nobody = await world.send("GET", "/session")
        assert (nobody.status, nobody.json["who"]["kind"]) == (200, "anonymous")
        assert "csrf" not in nobody.json
        page = Page(world, await sign_in(world, code=await code_of(world)))
        assert (await page.send("GET", "/session")).json["who"]["kind"] == "operator"
        assert (await page.send("GET", "/admin/accounts")).status == 200
        assert (await world.send("GET", "/admin/accounts")).status == 401


# --- when it ends ---------------------------------------------------------------------------------


async def test_signing_out_ends_it() -> None:
    async with running() as world:
        page = await signed_in(world)
        assert (await page.send("DELETE", "/session")).status == 204

        answer = await page.send("GET", "/promises/x")
        assert (answer.status, answer.code) == (401, Code.SESSION_ENDED)
        assert (answer.header("set-cookie") or "").startswith(f"{NAME}=; Max-Age=0; ")
        assert len(world.api.credentials.sessions) == 0


async def test_a_session_ends_with_its_token() -> None:
    async with running() as world:
        revoked = await new_token(world, "promises:read")
        one = Page(world, await sign_in(world, token=revoked.json["token"]))
        disabled = await signed_in(world, account="other")
        expiring = await signed_in(world, expiresIn=HOUR_MS)
        kept = await signed_in(world)
        admin = await operator(world)
        await world.send("DELETE", f"/admin/tokens/{revoked.json['id']}", headers=admin)
        await world.send("PATCH", "/admin/accounts/other", {"disabled": True}, admin)

        assert len(world.api.credentials.sessions) == 2
        for page in (one, disabled):
            assert (await page.send("GET", "/promises/x")).code == Code.SESSION_ENDED
        assert expiring.opened["endsOn"] == NOW_MS + HOUR_MS
        assert (await expiring.send("GET", "/promises/x")).status == 404
        world.clock.time_ms += HOUR_MS
        assert (await expiring.send("GET", "/promises/x")).code == Code.SESSION_ENDED
        assert (await kept.send("GET", "/promises/x")).status == 404
        # Enabling the account again does not bring it back.
        await world.send("PATCH", "/admin/accounts/other", {"disabled": False}, admin)
        assert (await disabled.send("GET", "/promises/x")).code == Code.SESSION_ENDED


async def test_a_session_ends_when_it_is_not_used() -> None:
    async with running() as world:
        page = await signed_in(world)
        for _ in range(3):
            world.clock.time_ms += 12 * HOUR_MS - 1
            assert (await page.send("GET", "/promises/x")).status == 404
        world.clock.time_ms += 12 * HOUR_MS
        assert (await page.send("GET", "/promises/x")).code == Code.SESSION_ENDED


async def test_a_session_ends_after_a_week_however_it_is_used() -> None:
    async with running() as world:
        page = await signed_in(world)
        for _ in range(7 * 24 - 1):
            world.clock.time_ms += HOUR_MS
            assert (await page.send("GET", "/promises/x")).status == 404
        world.clock.time_ms += HOUR_MS
        assert (await page.send("GET", "/promises/x")).code == Code.SESSION_ENDED


def test_an_open_stream_is_use() -> None:
    time_ms = 0
    sessions = Sessions(lambda: time_ms)
    secret, session = sessions.open(OPERATOR)
    stopped: list[int] = []
    forget = sessions.watch(session.principal, lambda: stopped.append(1))
    time_ms = 13 * HOUR_MS
    assert sessions.find(secret) is session
    time_ms = 30 * HOUR_MS
    forget()
    time_ms += 12 * HOUR_MS - 1
    assert sessions.find(secret) is session
    assert sessions.remaining_ms(session.principal) == 7 * DAY_MS - time_ms
    sessions.watch(session.principal, lambda: stopped.append(2))
    sessions.end(session)
    assert stopped == [2]
    assert sessions.remaining_ms(session.principal) == 0
    sessions.watch(session.principal, lambda: stopped.append(3))  # too late
    assert stopped == [2, 3]


def user(number: int) -> Principal:
    """A user."""
    return Principal(PrincipalKind.USER, frozenset(Scope), f"user {number}")


def test_there_are_not_too_many_sessions() -> None:
    time_ms = 0
    sessions = Sessions(lambda: time_ms)
    first, _ = sessions.open(user(0))
    others = [sessions.open(user(number))[0] for number in range(1, limits.SESSIONS_LIMIT_COUNT)]
    assert sessions.find(first) is not None
    sessions.open(user(0))
    assert len(sessions) == limits.SESSIONS_LIMIT_COUNT
    # The one that was not used for longest had to go.
    assert sessions.find(others[0]) is None
    assert sessions.find(first) is not None
    # Those that have ended make room without anybody having to go.
    time_ms = 12 * HOUR_MS
    sessions.open(user(1))
    assert len(sessions) == 1


def test_nobody_ends_the_sessions_of_others() -> None:
    sessions = Sessions(lambda: 0)
    mine, _ = sessions.open(user(1))
    theirs = [sessions.open(user(2))[0] for _ in range(limits.SESSIONS_LIMIT_COUNT)]

    assert len(sessions) == limits.SESSIONS_OF_ONE_LIMIT_COUNT + 1
    assert sessions.find(mine) is not None
    assert sessions.find(theirs[0]) is None
    assert sessions.find(theirs[-1]) is not None


# --- one-time codes -------------------------------------------------------------------------------


async def test_one_time_code_works_once_within_a_minute() -> None:
    async with running(USERS) as world:
        code = await code_of(world)
        assert (await sign_in(world, code=code)).status == 201
        again = await sign_in(world, code=code)
        assert (again.status, again.code) == (401, Code.UNAUTHORIZED)
        late = await code_of(world)
        world.clock.time_ms += limits.CODE_LIMIT_MS
        assert (await sign_in(world, code=late)).status == 401
        in_time = await code_of(world)
        world.clock.time_ms += limits.CODE_LIMIT_MS - 1
        assert (await sign_in(world, code=in_time)).status == 201
        assert (await sign_in(world, code="x")).status == 401


async def test_only_administrators_make_codes() -> None:
    async with running() as world:
        for headers in ({}, await reading(world)):
            answer = await world.send("POST", "/admin/session-code", headers=headers)
            assert answer.status in (401, 403)
        token = (await new_token(world, "admin")).json["token"]
        made = await world.send("POST", "/admin/session-code", headers=bearer(token))
        page = Page(world, await sign_in(world, code=made.json["code"]))
        # A session that a token's code opened has that token's rights, and makes no others.
        assert page.opened["who"]["scopes"] == ["admin"]
        answer = await page.send("POST", "/admin/session-code")
        assert (answer.status, answer.code) == (403, Code.SESSION_FORBIDDEN)


def test_there_are_not_too_many_codes() -> None:
    sessions = Sessions(lambda: 0)
    codes = [sessions.new_code(OPERATOR) for _ in range(limits.CODES_LIMIT_COUNT + 1)]

    assert sessions.take_code(codes[0]) is None
    assert all(sessions.take_code(code) is OPERATOR for code in codes[1:])


# --- who tried ------------------------------------------------------------------------------------


async def test_failed_attempts_are_counted() -> None:
    async with running(
        Settings(basic_auth={"ann": "word"}, failed_attempts_limit_count=3)
    ) as world:
        for body in ({"user": "ann", "password": "no"}, {"token": "x"}, {"code": "x"}):
            answer = await world.send("POST", "/session", body, OWN)
            assert (answer.status, answer.code) == (401, Code.UNAUTHORIZED)
        answer = await sign_in(world, user="ann", password="word")
        assert (answer.status, answer.code) == (429, Code.TOO_MANY_ATTEMPTS)
        # A stale cookie is nobody's attempt: after a restart every open page has one.
        page_headers = {"Cookie": f"{NAME}=stale", **OWN}
        world.clock.time_ms += limits.FAILED_ATTEMPTS_WINDOW_MS
        for _ in range(9):
            assert (await world.send("GET", "/promises/x", headers=page_headers)).code == 40101
        assert (await sign_in(world, user="ann", password="word")).status == 201


async def test_sessions_are_in_the_audit_log() -> None:
    async with running(USERS) as world:
        await sign_in(world, user="ann", password="no")
        page = Page(world, await sign_in(world, user="ann", password="word"))
        await page.send("DELETE", "/session")
        await sign_in(world, code=await code_of(world))
        entries = [(one["act"], one["outcome"], one["by"]) for one in await world.api.audit.read(9)]

        assert entries == [
            ("session.open", "done", "user ann"),
            ("session.close", "done", "user ann"),
            ("session.code", "done", "operator"),
            ("session.open", "done", "operator"),
        ]
