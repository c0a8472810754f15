"""Who may do what through `POST /`: tokens in `head.auth` and `Authorization` (decisions.md 3)."""

import base64
from typing import Any, Final

import pytest

from tests.http.admin.test_accounts import new_account, operator, secret_of
from tests.http.client import FAR_MS, World, running
from tests.http.envelope.conversation import TARGET, VERSION, Conversation
from troth.core.catalog import Scope
from troth.http.envelope.operations import QUESTIONS
from troth.http.envelope.searches import PROCEDURES
from troth.http.settings.settings import Settings

PATIENT: Final = Settings(failed_attempts_limit_count=0)
READ, WRITE = Scope.PROMISES_READ.value, Scope.PROMISES_WRITE.value
NEW: Final = {"id": "p", "timeoutAt": FAR_MS}

MADE: Final = {"timeoutAt": FAR_MS, "tags": {"resonate:target": TARGET}}


def naming(identifier: str) -> dict[str, Any]:
    """Data of each kind that names an id, and no other but `a/…` ones."""
    held = {"id": identifier, "version": 1}
    return {
        "promise.get": {"id": identifier},
        "promise.create": {"id": identifier, **MADE},
        "promise.settle": {"id": identifier, "state": "resolved"},
        "promise.register_callback": {"awaited": "a/x", "awaiter": identifier},
        "promise.register_listener": {"awaited": identifier, "address": "poll://uni@g/i"},
        "task.get": {"id": identifier},
        "task.create": {"pid": "w", "ttl": 1, "action": {"data": {"id": identifier, **MADE}}},
        "task.acquire": {**held, "pid": "w", "ttl": 1},
        "task.fence": {
            "id": "a/x",
            "version": 1,
            "action": {"kind": "promise.create", "data": {"id": identifier, **MADE}},
        },
        "task.suspend": {
            "id": "a/x",
            "version": 1,
            "actions": [{"data": {"awaited": identifier, "awaiter": "a/x"}}],
        },
        "task.fulfill": {**held, "action": {"data": {"id": identifier, "state": "resolved"}}},
        "task.release": held,
        "task.heartbeat": {"pid": "w", "tasks": [{"id": "a/x", "version": 1}, held]},
        "task.halt": {"id": identifier},
        "task.continue": {"id": identifier},
        "schedule.create": {
            "id": "a/s",
            "cron": "* * * * *",
            "promiseId": identifier,
            "promiseTimeout": 1,
            "promiseTags": {"resonate:target": TARGET},
        },
        "schedule.get": {"id": identifier},
        "schedule.delete": {"id": identifier},
    }


SEARCHES: Final = ("promise.search", "task.search", "schedule.search")


def token_of(headers: dict[str, str]) -> str:
    """The token in what `secret_of` returns."""
    return headers["Authorization"].removeprefix("Bearer ")


async def guarded(world: World) -> None:
    """Create an account, so that nobody is let in without a token."""
    await operator(world)
    await new_account(world)


def test_every_kind_is_tried_here() -> None:
    assert {*naming("x"), *SEARCHES} == {*QUESTIONS, *PROCEDURES}


@pytest.mark.parametrize("kind", [*naming("x"), *SEARCHES])
async def test_every_kind_needs_a_token_that_allows_it(kind: str) -> None:
    async with running(PATIENT) as world:
        await guarded(world)
        data = naming("a/y").get(kind, {})
        writes = (QUESTIONS.get(kind) or PROCEDURES[kind]).scope is Scope.PROMISES_WRITE
        for auth, status in (
            ({}, 401),
            ({"auth": "troth_unknown"}, 401),
            ({"auth": ""}, 401),
            ({"auth": token_of(await secret_of(world, READ if writes else WRITE))}, 403),
        ):
            spoken = await Conversation(world).say(kind, data, **auth)
            assert spoken.status == status, auth
        for scope in (READ, WRITE):
            token = token_of(await secret_of(world, scope))
            spoken = await Conversation(world).say(kind, data, auth=token)
            assert (spoken.status in (200, 404)) == (writes == (scope == WRITE)), (scope, spoken)


@pytest.mark.slow
@pytest.mark.parametrize("kind", naming("x"))
async def test_a_token_with_a_prefix_names_no_other_ids(kind: str) -> None:
    async with running() as world:
        token = await secret_of(world, READ, WRITE, idPrefix="a/")
        conversation = Conversation(world, token)

        refused = await conversation.say(kind, naming("b/y")[kind])
        assert refused.status == 403
        assert "a/" in refused.text
        assert (await conversation.say(kind, naming("a/y")[kind])).status in (200, 404)


# Heartbeats pass over in silence whatever is not a task of the sender's.
@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(naming("x").keys() - {"task.heartbeat"}))
async def test_the_servers_own_ids_are_nobody_s(kind: str) -> None:
    async with running() as world:
        refused = await Conversation(world).say(kind, naming("troth:x")[kind])

        assert refused.status == 403


async def test_searches_show_what_the_prefix_allows() -> None:
    async with running() as world:
        await operator(world)
        everything = Conversation(world, await secret_of(world, READ, WRITE))
        for identifier in ("a/1", "b/1", "a/2"):
            await everything.create(identifier)
            await everything.good(
                "schedule.create",
                id=f"{identifier}/s",
                cron="0 0 1 1 *",
                promiseId=identifier,
                promiseTimeout=1,
                promiseTags={"resonate:target": TARGET},
            )
        within = Conversation(world, await secret_of(world, READ, idPrefix="a/"))
        for kind, name in (("promise", "promises"), ("task", "tasks"), ("schedule", "schedules")):
            found = await within.good(f"{kind}.search")
            ids = {one["id"].removesuffix("/s") for one in found[name]}
            assert ids == {"a/1", "a/2"}, kind
            assert len((await everything.good(f"{kind}.search"))[name]) == 3


async def test_a_token_is_taken_from_either_place_and_the_same_from_both() -> None:
    async with running(PATIENT) as world:
        await guarded(world)
        headers = await secret_of(world, READ, WRITE)
        token, other = token_of(headers), token_of(await secret_of(world, READ, WRITE))
        for header, auth, status in (
            (headers, None, 200),
            ({}, token, 200),
            (headers, token, 200),
            ({"Authorization": token}, token, 200),
            ({"Authorization": f"bearer {token}"}, token, 200),
            (headers, other, 401),
            (headers, "troth_unknown", 401),
            ({"Authorization": "Bearer troth_unknown"}, token, 401),
        ):
            head = {} if auth is None else {"auth": auth}
            spoken = await Conversation(world, header, head).say("promise.create", NEW)
            assert spoken.status == status, (header, auth)


def basic(user: str, password: str) -> dict[str, str]:
    """The header of Basic credentials."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


async def test_basic_credentials_are_for_the_rest_api() -> None:
    async with running(Settings(basic_auth={"ann": "word"})) as world:
        token = token_of(await secret_of(world, READ, WRITE))
        for header in (basic("ann", "word"), basic("ann", token), basic(token, "")):
            assert (await world.send("GET", "/promises?id=*", headers=header)).status == 200
            for auth in ({}, {"auth": token}):
                refused = await Conversation(world, header, auth).say("promise.create", NEW)
                assert refused.status == 401
                assert "Basic" in refused.text
        header = {"Authorization": basic("ann", "word")["Authorization"].replace("Basic", "basic")}
        answer = await Conversation(world, header).send(
            {"kind": "promise.get", "head": {"corrId": "c", "version": VERSION}, "data": {}}
        )
        assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    async with running() as world:
        # Nobody has to show anything, so nothing of what is shown is judged.
        assert await Conversation(world, basic("ann", "word")).good("promise.create", **NEW)


async def test_a_token_stops_working_when_it_expires_or_is_revoked() -> None:
    async with running(PATIENT) as world:
        await guarded(world)
        expiring = token_of(await secret_of(world, READ, WRITE, expiresIn=10))
        conversation = Conversation(world, head={"auth": expiring})
        assert (await conversation.say("promise.create", NEW)).status == 200
        world.clock.time_ms += 10_000
        assert (await conversation.say("promise.create", NEW)).status == 401


async def test_a_wrong_token_counts_as_a_failed_attempt_and_none_does_not() -> None:
    async with running(Settings(failed_attempts_limit_count=2)) as world:
        await guarded(world)
        for status in (401, 401, 401):
            assert (await Conversation(world).say("promise.create", NEW)).status == status
        wrong = Conversation(world, head={"auth": "troth_unknown"})
        statuses = [(await wrong.say("promise.create", NEW)).status for _ in range(3)]
        assert statuses == [401, 401, 429]
