"""Who is let in: every row of the table, every kind of credentials, and hostile ones."""

import base64
import hmac
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.http.admin.test_accounts import bearer, new_account, new_token, operator, secret_of
from tests.http.client import NOW_MS, Answer, World, running
from troth.core import limits
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.rows import Endpoint
from troth.http.api.streams import CONNECTED, KEEP_ALIVE
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.identity.credentials import TOKEN_PREFIX
from troth.http.settings.settings import Settings
from troth.http.wire.fields import example
from troth.http.wire.principals import ACCOUNT_SCOPES

GUARDED = [row for row in API_ENDPOINTS if not row.public]
POLL_STREAMS = [row for row in POLL_ENDPOINTS if not row.public]
ENVELOPE = {
    "kind": "promise.get",
    "head": {"corrId": "1", "version": "2026-04-01"},
    "data": {"id": "x"},
}
STRANGER = TOKEN_PREFIX + "x" * 43
PATIENT = Settings(failed_attempts_limit_count=0)


def target_of(row: Endpoint) -> str:
    """A path that means this row."""
    path = row.path
    for parameter in row.path_parameters:
        text = str(parameter.example or "x").replace("/", "%2F")
        path = path.replace(f"{{{parameter.name}...}}", text).replace(f"{{{parameter.name}}}", text)
    return path


async def call(world: World, row: Endpoint, headers: Mapping[str, str]) -> Answer:
    """A request that this row takes, if it is let in."""
    body = None if row.body is None else example(row.body)
    application = world.poll_application if row in POLL_ENDPOINTS else world.application
    return await world.send(row.method, target_of(row), body, headers, application=application)


def basic(user: str, password: str) -> dict[str, str]:
    """The header of HTTP Basic."""
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


# --- every row ------------------------------------------------------------------------------------


def test_every_row_is_public_or_has_a_scope() -> None:
    for row in (*API_ENDPOINTS, *POLL_ENDPOINTS):
        assert row.public != (row.any_scope or row.scope is not None)
        assert row.needs_account == (row.scope in ACCOUNT_SCOPES)
        assert not (row.is_open and row.needs_account)
        if row.path.startswith("/admin"):
            assert row.scope is Scope.ADMIN
        if row.path.startswith("/v1"):
            assert row.needs_account


def test_a_row_without_a_scope_that_is_not_public_cannot_be_made() -> None:
    public = next(row for row in API_ENDPOINTS if row.public)

    with pytest.raises(AssertionError, match="either public or with a scope"):
        Endpoint("x", "g", "GET", "/x", "x", public.handler)


async def test_every_row_refuses_everybody_it_must() -> None:
    async with running(PATIENT) as world:
        every = [scope.value for scope in Scope]
        revoked = await new_token(world, *every)
        expired = await secret_of(world, *every, expiresIn=1)
        disabled = await secret_of(world, *every, account="disabled")
        admin = await operator(world)
        await world.send("DELETE", f"/admin/tokens/{revoked.json['id']}", headers=admin)
        await world.send("PATCH", "/admin/accounts/disabled", {"disabled": True}, admin)
        world.clock.time_ms += 1
        strangers = {
            "nobody": {},
            "an unknown token": bearer(STRANGER),
            "a revoked token": bearer(revoked.json["token"]),
            "an expired token": expired,
            "a token of a disabled account": disabled,
            "an unknown user": basic("ann", "word"),
        }
        for row in (*GUARDED, *POLL_STREAMS):
            for who, headers in strangers.items():
                answer = await call(world, row, headers)
                assert (answer.status, answer.code) == (401, Code.UNAUTHORIZED), (row.name, who)
            if row.any_scope:
                continue
            allowed = {row.scope, row.or_scope}
            lacking = [scope.value for scope in Scope if scope not in allowed]
            answer = await call(world, row, await secret_of(world, *lacking))
            assert (answer.status, answer.code) == (403, Code.FORBIDDEN_SCOPE), row.name


@pytest.mark.slow
async def test_every_row_lets_in_a_token_with_its_scope() -> None:
    async with running() as world:
        for row in GUARDED:
            if any(one.media_type == "text/event-stream" for one in row.successes):
                continue  # ends with its token; see the tests of streams
            for scope in {row.scope, row.or_scope} - {None}:
                # Another account than the one that the examples are about, and disable.
                headers = await secret_of(world, str(scope), account="owner")
                answer = await call(world, row, headers)
                is_refused = answer.status in {401, 403, 429} and answer.code in {
                    Code.UNAUTHORIZED,
                    Code.FORBIDDEN_SCOPE,
                    Code.TOO_MANY_ATTEMPTS,
                }
                assert not is_refused, (row.name, answer.body)


async def test_users_may_do_everything_but_what_needs_an_account() -> None:
    async with running(Settings(basic_auth={"ann": "word"})) as world:
        for row in GUARDED:
            if any(one.media_type == "text/event-stream" for one in row.successes):
                continue
            answer = await call(world, row, basic("ann", "word"))
            is_refused = answer.status == 403 and answer.code == Code.FORBIDDEN_SCOPE
            assert is_refused == row.needs_account, (row.name, answer.body)


async def test_while_there_are_no_accounts_v1_and_administration_need_credentials() -> None:
    async with running() as world:
        for row in GUARDED:
            if any(one.media_type == "text/event-stream" for one in row.successes):
                continue
            answer = await call(world, row, {})
            is_needed = row.needs_account or row.scope is Scope.ADMIN
            assert (answer.status == 401) == is_needed, row.name


async def test_public_rows_need_nothing() -> None:
    async with running() as world:
        await new_account(world)
        for row in API_ENDPOINTS:
            if row.auth_in_body:
                # Nothing in the table guards it: what its body asks for does.
                answer = await world.send(row.method, row.path, ENVELOPE, bearer(STRANGER))
                assert answer.status in (400, 401)
            elif row.public:
                assert (await call(world, row, bearer(STRANGER))).status in (200, 308)


# --- ways to show a token -------------------------------------------------------------------------


async def test_a_token_is_taken_in_every_form() -> None:
    async with running() as world:
        token = (await new_token(world, "promises:read")).json["token"]
        for headers in (
            bearer(token),
            {"Authorization": f"bearer {token}"},
            {"Authorization": f"BEARER   {token} "},
            {"Authorization": token},
            basic("anybody", token),
            basic("", token),
            basic(token, ""),
        ):
            assert (await world.send("GET", "/promises/a", headers=headers)).status == 404, headers


@pytest.mark.parametrize(
    "shown",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer  ",
        b"Bearer \xff\xfe",
        b"Basic",
        b"Basic ",
        b"Basic %%%",
        b"Basic /w==",
        b"Basic Og==",
        b"\xc3\xa4",
        b"Digest {token}",
        b"Bearer Bearer {token}",
        b"Bearer {token}x",
        b"Bearer {upper}",
        b"Bearer {lower}",
        b"Bearer {token},{token}",
        b"Bearer\t{token}",
        b"Bearer " + b"x" * 30_000,
        b"Basic " + b"eDp5" * 7_000,
    ],
)
async def test_whatever_is_shown_else_is_a_strangers(shown: bytes) -> None:
    async with running() as world:
        token = (await new_token(world, "promises:read")).json["token"]
        for name in ("upper", "lower"):
            assert getattr(token, name)() != token
            shown = shown.replace(f"{{{name}}}".encode(), getattr(token, name)().encode())
        shown = shown.replace(b"{token}", token.encode())
        answer = await world.send("GET", "/promises/a", headers=[(b"authorization", shown)])

        assert (answer.status, answer.code) == (401, Code.UNAUTHORIZED)
        challenge = answer.header("www-authenticate") or ""
        assert challenge.startswith("Basic realm=")
        assert "Bearer realm=" in challenge


async def test_of_several_headers_the_first_counts() -> None:
    async with running() as world:
        token = (await new_token(world, "promises:read")).json["token"].encode()
        right, wrong = (b"authorization", b"Bearer " + token), (b"authorization", b"Bearer x")

        assert (await world.send("GET", "/promises/a", headers=[right, wrong])).status == 404
        assert (await world.send("GET", "/promises/a", headers=[wrong, right])).status == 401


async def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    real = hmac.compare_digest

    def compare(left: Any, right: Any) -> bool:
        compared.append((left, right))
        return real(left, right)

    async with running(Settings(basic_auth={"ann": "word"})) as world:
        headers = await secret_of(world, "promises:read")
        monkeypatch.setattr(hmac, "compare_digest", compare)
        for shown in (headers, basic("ann", "word"), basic("eve", "word")):
            compared.clear()
            await world.send("GET", "/promises/a", headers=shown)
            # The operator's key, and the token's digest or the password's; never the text itself.
            assert len(compared) == 2, shown
            assert all(len(one) == 64 for one in compared[-1]), shown


async def test_a_password_may_be_latin1() -> None:
    """Python's requests encodes users and passwords so."""
    async with running(Settings(basic_auth={"ann\u00e9": "w\u00f6rd"})) as world:
        for encoding in ("utf-8", "latin-1"):
            shown = base64.b64encode("ann\u00e9:w\u00f6rd".encode(encoding)).decode()
            headers = {"Authorization": f"Basic {shown}"}
            assert (await world.send("GET", "/promises/a", headers=headers)).status == 404


# --- the operator ---------------------------------------------------------------------------------


async def test_the_operators_key_is_good_for_administration_only() -> None:
    async with running(Settings(basic_auth={"ann": "word"}, allow_anonymous=True)) as world:
        admin = await operator(world)
        assert (await world.send("GET", "/admin/accounts", headers=admin)).status == 200
        answer = await world.send("GET", "/promises/a", headers=admin)
        assert (answer.status, answer.code) == (403, Code.FORBIDDEN_SCOPE)


async def test_without_a_key_nobody_is_the_operator() -> None:
    async with running(Settings(basic_auth={"ann": "word"})) as world:
        assert world.api.credentials.operator_key == ""
        for headers in (bearer(""), {"Authorization": ""}, basic("", "")):
            answer = await world.send("GET", "/admin/accounts", headers=headers)
            assert answer.status == 401


async def test_an_address_of_this_machine_is_no_credential_even_while_open() -> None:
    async with running() as world:
        for headers in ({}, bearer("x"), basic("ann", "word"), {"X-Forwarded-For": "127.0.0.1"}):
            refused = await world.send("GET", "/admin/accounts", headers=headers)
            assert (refused.status, refused.code) == (401, Code.UNAUTHORIZED)
            assert "admin.key" in refused.json["error"]["details"][0]["message"]
        headers = await operator(world)
        assert (await world.send("GET", "/admin/accounts", headers=headers)).status == 200


# --- failed attempts ------------------------------------------------------------------------------


async def test_after_too_many_failures_an_address_waits_with_a_right_password_too() -> None:
    async with running(Settings(basic_auth={"ann": "secret"})) as world:
        right = basic("ann", "secret")
        token = await secret_of(world, "promises:read")
        for _ in range(limits.FAILED_ATTEMPTS_LIMIT_COUNT):
            assert (await world.send("GET", "/promises/a", headers=bearer("x"))).status == 401
        for headers in (bearer("x"), right, basic("ann", "x")):
            answer = await world.send("GET", "/promises/a", headers=headers)
            assert (answer.status, answer.code) == (429, Code.TOO_MANY_ATTEMPTS)
            assert answer.header("retry-after") == "60"

        # A token cannot be guessed: whoever has one need not wait for others behind his address.
        for headers in (token, basic("", token["Authorization"][7:])):
            assert (await world.send("GET", "/promises/a", headers=headers)).status == 404

        # Who shows nothing tries nothing, and the operator can always help.
        assert (await world.send("GET", "/promises/a")).status == 401
        admin = await operator(world)
        assert (await world.send("GET", "/admin/accounts", headers=admin)).status == 200

        world.clock.time_ms += limits.FAILED_ATTEMPTS_WINDOW_MS
        assert (await world.send("GET", "/promises/a", headers=right)).status == 404


async def test_right_credentials_without_the_scope_are_no_failed_attempt() -> None:
    async with running() as world:
        headers = await secret_of(world, "tasks:read")
        for _ in range(limits.FAILED_ATTEMPTS_LIMIT_COUNT + 1):
            assert (await world.send("GET", "/promises/a", headers=headers)).status == 403


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["revoke", "disable"])
async def test_a_stream_ends_with_its_token(end: str) -> None:
    async with running() as world:
        made = await new_token(world, "promises:write")
        admin = await operator(world)
        answers: list[Answer] = []

        async def listen(target: str, *, port: str) -> None:
            answers.append(
                await world.send(
                    "GET",
                    target,
                    headers=bearer(made.json["token"]),
                    application=getattr(world, port),
                )
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: listen("/poll/g/a", port="application"))
            nursery.start_soon(lambda: listen("/g/b", port="poll_application"))
            await trio.testing.wait_all_tasks_blocked()
            assert world.api.polls.statistics().connections_count == 2
            if end == "revoke":
                await world.send("DELETE", f"/admin/tokens/{made.json['id']}", headers=admin)
            else:
                await world.send("PATCH", "/admin/accounts/billing", {"disabled": True}, admin)

        assert [answer.status for answer in answers] == [200, 200]
        assert world.api.polls.statistics().connections_count == 0
        assert world.api.credentials._watched == {}


async def test_a_stream_ends_when_its_token_expires(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as world:
        headers = await secret_of(world, "promises:write", expiresIn=50_000)
        began = trio.current_time()
        monkeypatch.setattr(
            world.api.credentials,
            "_now_ms",
            lambda: NOW_MS + int((trio.current_time() - began) * 1000),
        )
        answer = await world.send("GET", "/poll/g/a", headers=headers)

        assert answer.parts == [CONNECTED, *[KEEP_ALIVE] * 3]
        assert trio.current_time() - began == pytest.approx(50)


async def test_a_stream_of_a_token_that_has_ended_meanwhile_ends_at_once() -> None:
    """Between letting somebody in and opening the stream, a handler may wait."""
    async with running() as world:
        directory = world.api.credentials
        made = await new_token(world, "promises:write")
        principal = directory.bearer(made.json["token"])
        assert principal is not None
        stopped: list[str] = []
        directory.watch(principal, lambda: stopped.append("early"))()
        await world.send(
            "DELETE", f"/admin/tokens/{made.json['id']}", headers=await operator(world)
        )
        directory.watch(principal, lambda: stopped.append("late"))()

        assert stopped == ["late"]
        assert directory._watched == {}
