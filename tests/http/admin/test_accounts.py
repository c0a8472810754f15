"""Accounts and tokens: how they are made, what they allow, and when they stop working."""

from typing import Any

import pytest

from tests.http.client import FAR_MS, NOW_MS, Answer, World, running
from troth.core import limits
from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.identity.digests import digest_of
from troth.http.settings.settings import Settings

USERS = Settings(basic_auth={"ann": "word"})
EVERY_SCOPE = [scope.value for scope in Scope]


def bearer(token: str) -> dict[str, str]:
    """The header that a token is sent in."""
    return {"Authorization": f"Bearer {token}"}


async def operator(world: World) -> dict[str, str]:
    """Make the operator known; the header they send."""
    world.api.credentials.operator_key = "k" * 64
    return bearer("k" * 64)


async def new_account(world: World, name: str = "billing") -> str:
    """Create an account; its id."""
    answer = await world.send("POST", "/admin/accounts", {"name": name}, await operator(world))
    assert answer.status == 201, answer.body
    account_id: str = answer.json["id"]
    return account_id


async def new_token(world: World, *scopes: str, account: str = "billing", **more: Any) -> Answer:
    """Make a token of an account, which is made first if it is missing."""
    if world.api.credentials.account(account) is None:
        await new_account(world, account)
    body = {"account": account, "scopes": list(scopes), **more}
    answer = await world.send("POST", "/admin/tokens", body, await operator(world))
    assert answer.status == 201, answer.body
    return answer


async def secret_of(world: World, *scopes: str, **more: Any) -> dict[str, str]:
    """Make a token; the header to send it in."""
    return bearer((await new_token(world, *scopes, **more)).json["token"])


# --- accounts -------------------------------------------------------------------------------------


async def test_an_account_is_made_listed_disabled_and_enabled() -> None:
    async with running() as world:
        account_id = await new_account(world)
        admin = await operator(world)
        listed = await world.send("GET", "/admin/accounts", headers=admin)
        shown = {"id": account_id, "name": "billing", "createdOn": NOW_MS, "disabled": False}

        assert listed.json == [shown]
        for disabled, given in ((True, "billing"), (True, account_id), (False, "billing")):
            answer = await world.send(
                "PATCH", f"/admin/accounts/{given}", {"disabled": disabled}, admin
            )
            assert (answer.status, answer.json) == (200, {**shown, "disabled": disabled})


async def test_the_name_of_an_account_is_unique_and_no_id() -> None:
    async with running() as world:
        await new_account(world)
        admin = await operator(world)
        again = await world.send("POST", "/admin/accounts", {"name": "billing"}, admin)

        assert (again.status, again.code) == (409, Code.ENTRY_EXISTS)
        for name in ("", " a", "a ", "a\nb", "0" * 24, "x" * 129, None):
            answer = await world.send("POST", "/admin/accounts", {"name": name}, admin)
            assert (answer.status, answer.wrong_fields) == (400, ["name"]), name


async def test_an_unknown_account_is_not_found() -> None:
    async with running() as world:
        admin = await operator(world)
        change = await world.send("PATCH", "/admin/accounts/x", {"disabled": True}, admin)
        body = {"account": "x", "scopes": ["admin"]}
        token = await world.send("POST", "/admin/tokens", body, admin)
        listed = await world.send("GET", "/admin/tokens?account=x", headers=admin)

        for answer in (change, token, listed):
            assert (answer.status, answer.code) == (404, Code.ACCOUNT_NOT_FOUND)


async def test_there_is_a_limit_to_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACCOUNTS_LIMIT_COUNT", 1)
    async with running() as world:
        await new_account(world)
        answer = await world.send("POST", "/admin/accounts", {"name": "b"}, await operator(world))

        assert (answer.status, answer.wrong_fields) == (400, ["name"])


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_only_its_digest_is_kept() -> None:
    async with running() as world:
        made = await new_token(world, "promises:read", name="nightly", idPrefix="b/")
        secret = made.json["token"]
        listed = await world.send("GET", "/admin/tokens", headers=await operator(world))
        by_account = await world.send(
            "GET", "/admin/tokens?account=billing", headers=await operator(world)
        )
        (token,) = listed.json

        assert secret.startswith("troth_")
        assert len(secret) == 49
        assert made.header("cache-control") == "no-store"
        assert by_account.json == listed.json
        assert token == {
            "id": made.json["id"],
            "account": token["account"],
            "accountName": "billing",
            "name": "nightly",
            "scopes": ["promises:read"],
            "idPrefix": "b/",
            "state": "active",
            "createdOn": NOW_MS,
            "expiresOn": None,
            "revokedOn": None,
            "lastUsedOn": None,
            "oldSecretUntil": None,
        }
        (kept,) = world.api.credentials.tokens()
        assert kept.digest == digest_of(secret)
        assert secret not in repr(kept)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"scopes": []}, ["scopes"]),
        ({"scopes": None}, ["scopes"]),
        ({"scopes": ["promises:read", "all"]}, ["scopes"]),
        ({"account": ""}, ["account"]),
        ({"expiresIn": -1}, ["expiresIn"]),
        ({"expiresAt": NOW_MS}, ["expiresAt"]),
        ({"expiresIn": 5, "expiresAt": FAR_MS}, ["expiresIn"]),
        ({"scopes": ["admin"], "idPrefix": "a"}, ["idPrefix"]),
        ({"idPrefix": "troth:task/"}, ["idPrefix"]),
        ({"idPrefix": ""}, ["idPrefix"]),
        ({"expiresOn": FAR_MS}, ["expiresOn"]),
        ({"id_prefix": "a/", "expires_at": FAR_MS}, ["id_prefix", "expires_at"]),
        ({"idPrefix": None, "expiresAt": None}, ["idPrefix", "expiresAt"]),
        ({"name": "a\0"}, ["name"]),
        ({"name": "x" * 129}, ["name"]),
    ],
)
async def test_a_wrong_wish_for_a_token_is_refused(
    changes: dict[str, Any], wrong: list[str]
) -> None:
    async with running() as world:
        await new_account(world)
        body = {"account": "billing", "scopes": ["promises:read"], **changes}
        answer = await world.send("POST", "/admin/tokens", body, await operator(world))

        assert (answer.status, answer.wrong_fields) == (400, wrong)
        assert world.api.credentials.tokens() == []


async def test_a_token_that_no_longer_works_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENS_LIMIT_COUNT", 2)
    async with running() as world:
        first = (await new_token(world, "promises:read")).json["id"]
        second = (await new_token(world, "promises:read")).json["id"]
        admin = await operator(world)
        body = {"account": "billing", "scopes": ["promises:read"]}
        refused = await world.send("POST", "/admin/tokens", body, admin)
        await world.send("DELETE", f"/admin/tokens/{second}", headers=admin)
        made = await world.send("POST", "/admin/tokens", body, admin)

        assert (refused.status, refused.wrong_fields) == (400, ["account"])
        assert {one.id for one in world.api.credentials.tokens()} == {first, made.json["id"]}


async def test_revoking_is_safe_to_repeat() -> None:
    async with running() as world:
        token_id = (await new_token(world, "promises:read")).json["id"]
        admin = await operator(world)
        answers = [
            await world.send("DELETE", f"/admin/tokens/{token_id}", headers=admin) for _ in range(2)
        ]
        unknown = await world.send("DELETE", "/admin/tokens/x", headers=admin)

        assert [answer.status for answer in answers] == [204, 204]
        assert (unknown.status, unknown.code) == (404, Code.TOKEN_NOT_FOUND)


# --- when a token stops working -------------------------------------------------------------------


async def test_a_revoked_expired_or_disabled_token_is_a_strangers() -> None:
    async with running() as world:
        made = await new_token(world, "promises:read")
        revoked = bearer(made.json["token"])
        expired = await secret_of(world, "promises:read", expiresIn=1000)
        disabled = await secret_of(world, "promises:read", account="other")
        admin = await operator(world)
        for headers in (revoked, expired, disabled):
            assert (await world.send("GET", "/promises/a", headers=headers)).status == 404

        await world.send("DELETE", f"/admin/tokens/{made.json['id']}", headers=admin)
        await world.send("PATCH", "/admin/accounts/other", {"disabled": True}, admin)
        world.clock.time_ms += 1000
        for headers in (revoked, expired, disabled):
            answer = await world.send("GET", "/promises/a", headers=headers)
            assert (answer.status, answer.code) == (401, Code.UNAUTHORIZED)
        states = [one["state"] for one in (await listed(world))]
        assert sorted(states) == ["disabled", "expired", "revoked"]

        await world.send("PATCH", "/admin/accounts/other", {"disabled": False}, admin)
        assert (await world.send("GET", "/promises/a", headers=disabled)).status == 404


async def listed(world: World) -> list[dict[str, Any]]:
    """All tokens as they are shown."""
    answer = await world.send("GET", "/admin/tokens", headers=await operator(world))
    tokens: list[dict[str, Any]] = answer.json
    return tokens


async def test_what_the_shards_hold_is_loaded() -> None:
    async with running() as world:
        headers = await secret_of(world, "promises:read")
        directory = world.api.credentials
        accounts, tokens = directory.accounts(), directory.tokens()
        type(directory).__init__(directory, {}, directory.attempts, directory._now_ms)
        assert directory.is_open
        directory.unload()
        waiting = await world.send("GET", "/promises/a", headers=headers)
        anonymous = await world.send("GET", "/promises/a")
        directory.load(accounts, tokens)

        for answer in (waiting, anonymous):
            assert (answer.status, answer.code) == (503, Code.STARTING)
        assert (await world.send("GET", "/promises/a", headers=headers)).status == 404
        assert (await world.send("GET", "/promises/a")).status == 401


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/admin/accounts", {"name": "a", "disabled": True}),
        ("PATCH", "/admin/accounts/billing", {"disabled": False, "enabled": False}),
        ("POST", "/admin/retention", {"dryRun": False, "dry_run": True}),
        ("POST", "/admin/retention", {"dryRun": False, "retain": None}),
    ],
)
async def test_what_grants_rights_or_deletes_overlooks_nothing(
    method: str, target: str, body: dict[str, object]
) -> None:
    async with running() as world:
        await new_account(world)
        answer = await world.send(method, target, body, await operator(world))

        assert (answer.status, answer.wrong_fields) == (400, [list(body)[-1]])


async def test_a_key_that_is_there_twice_is_refused() -> None:
    async with running() as world:
        await new_account(world)
        raw = b'{"account":"billing","scopes":["promises:read"],"idPrefix":"a/","idPrefix":"b/"}'
        answer = await world.send("POST", "/admin/tokens", headers=await operator(world), raw=raw)

        assert (answer.status, answer.wrong_fields) == (400, ["idPrefix"])
        assert world.api.credentials.tokens() == []
