"""Tokens over time: when they were last used, and new secrets for old ones."""

from typing import Any

from tests.http.admin.test_accounts import bearer, new_token, operator
from tests.http.client import World, running
from troth.core.catalog import Token
from troth.core.codes import Code
from troth.http.admin.token_uses import SAVE_MS, TokenUses

MINUTE_MS = 60_000


async def listed(world: World) -> list[Any]:
    """The tokens that an administrator sees."""
    answer = await world.send("GET", "/admin/tokens", headers=await operator(world))
    found: list[Any] = answer.json
    return found


async def stored(world: World) -> Token:
    """The only token, as the catalog has it."""
    (token,) = await world.api.shards.list_entries(Token, None)
    return token


async def status_of(world: World, secret: str) -> int:
    """What a request with a secret is answered."""
    return (await world.send("GET", "/promises/none", headers=bearer(secret))).status


async def rotated(world: World, **body: Any) -> Any:
    """What a rotation is answered."""
    return await world.send("POST", "/admin/tokens/rotate", body, await operator(world))


async def test_the_last_use_is_shown_and_stored_now_and_then() -> None:
    async with running() as world:
        uses = TokenUses(world.api)
        secret = (await new_token(world, "promises:read")).json["token"]
        await uses.look()
        assert (await listed(world))[0]["lastUsedOn"] is None
        assert await status_of(world, "troth_" + "x" * 43) == 401
        assert (await listed(world))[0]["lastUsedOn"] is None

        first_on = world.clock.time_ms
        assert await status_of(world, secret) == 404
        assert (await listed(world))[0]["lastUsedOn"] == first_on
        await uses.look()
        assert (await stored(world)).used_on == first_on
        revision = (await stored(world)).revision
        for _ in range(SAVE_MS // MINUTE_MS - 1):
            world.clock.time_ms += MINUTE_MS
            assert await status_of(world, secret) == 404
            await uses.look()
        assert (await listed(world))[0]["lastUsedOn"] == world.clock.time_ms
        assert (await stored(world)).revision == revision, "once in ten minutes is enough"
        world.clock.time_ms += MINUTE_MS
        assert await status_of(world, secret) == 404
        await uses.look()
        assert (await stored(world)).used_on == world.clock.time_ms
        assert await status_of(world, secret) == 404


async def test_open_streams_and_sessions_are_use() -> None:
    async with running() as world:
        credentials, uses = world.api.credentials, TokenUses(world.api)
        secret = (await new_token(world, "promises:read")).json["token"]
        principal = credentials.bearer(secret)
        assert principal is not None
        opened = credentials.open_session(principal)
        assert opened is not None
        cookie, session = opened

        async def used_a_minute_later() -> bool:
            world.clock.time_ms += MINUTE_MS
            await uses.look()
            (shown,) = await listed(world)
            return bool(shown["lastUsedOn"] == world.clock.time_ms)

        assert await used_a_minute_later(), "the bearer was looked up"
        assert not await used_a_minute_later(), "a session that lies idle is no use"
        assert credentials.sessions.find(cookie) is session
        assert await used_a_minute_later()
        for watching in (principal, session.principal):
            forget = credentials.watch(watching, lambda: None)
            assert await used_a_minute_later()
            assert await used_a_minute_later()
            forget()
            await uses.look()
            assert not await used_a_minute_later()
        credentials.sessions.end(session)
        assert not await used_a_minute_later()


async def test_a_rotated_token_has_another_secret_and_the_same_rights() -> None:
    async with running() as world:
        made = await new_token(world, "promises:read", name="job", idPrefix="none")
        old, token_id = made.json["token"], made.json["id"]
        ended = []
        principal = world.api.credentials.bearer(old)
        assert principal is not None
        world.api.credentials.watch(principal, lambda: ended.append("old"))

        answer = await rotated(world, id="job")
        assert (answer.status, answer.json["id"]) == (200, token_id)
        assert answer.header("cache-control") == "no-store"
        new = answer.json["token"]
        assert (await status_of(world, old), await status_of(world, new)) == (401, 404)
        assert ended == ["old"]
        (shown,) = await listed(world)
        assert (shown["scopes"], shown["idPrefix"]) == (["promises:read"], "none")
        audit = await world.send("GET", "/admin/audit", headers=await operator(world))
        line = next(one for one in audit.json if one["act"] == "token.rotate")
        assert (line["outcome"], line["token"], line["name"]) == ("done", token_id, "job")
        assert new not in audit.body.decode()


async def test_the_old_secret_works_for_its_time() -> None:
    async with running() as world:
        made = await new_token(world, "promises:read")
        uses, secrets = TokenUses(world.api), [made.json["token"]]
        for _ in range(2):
            answer = await rotated(world, id=made.json["id"], grace=MINUTE_MS)
            secrets.append(answer.json["token"])
        assert [await status_of(world, one) for one in secrets] == [401, 404, 404]
        until = world.clock.time_ms + MINUTE_MS
        assert (await listed(world))[0]["oldSecretUntil"] == until
        ended = []
        principal = world.api.credentials.bearer(secrets[1])
        assert principal is not None
        assert principal.expires_on == until
        world.api.credentials.watch(principal, lambda: ended.append("streams"))
        world.clock.time_ms = until
        assert [await status_of(world, one) for one in secrets] == [401, 401, 404]
        await uses.look()
        assert (await stored(world)).old_digest == ""
        assert ended == ["streams"]
        assert [await status_of(world, one) for one in secrets] == [401, 401, 404]


async def test_only_a_token_that_is_meant_without_doubt_is_rotated() -> None:
    async with running() as world:
        for _ in range(2):
            await new_token(world, "promises:read", name="twin")
        assert (await rotated(world, id="twin")).wrong_fields == ["id"]
        assert (await rotated(world, id="none")).code == Code.TOKEN_NOT_FOUND
        assert (await rotated(world, id="")).wrong_fields == ["id"]
        (one, two) = await listed(world)
        path = f"/admin/tokens/{one['id']}"
        await world.send("DELETE", path, headers=await operator(world))
        assert (await rotated(world, id=one["id"])).wrong_fields == ["id"]
        assert (await rotated(world, id="twin", grace=31 * 86_400_000)).wrong_fields == ["grace"]
        assert (await rotated(world, id="twin")).json["id"] == two["id"]
