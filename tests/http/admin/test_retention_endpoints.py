"""POST /admin/retention and /admin/import: who may, what is refused, what is answered."""

from typing import Any, cast

import pytest

from tests.http.admin.test_accounts import operator
from tests.http.client import FAR_MS, NOW_MS, Answer, World, running
from troth.core.codes import Code
from troth.core.limits import IMPORT_LIMIT_COUNT
from troth.http.settings.settings import Settings
from troth.shards.upkeep.retention import Sweeper

PROMISE = {"id": "p", "state": "RESOLVED", "timeout": 9, "createdOn": 5, "completedOn": 7}


@pytest.mark.parametrize(
    ("target", "body"),
    [("/admin/retention", {"dryRun": True}), ("/admin/import", {"promises": [PROMISE]})],
)
async def test_only_administrators_may(target: str, body: object) -> None:
    for settings in (
        Settings(),
        Settings(allow_anonymous=True),
        Settings(basic_auth={"user": "word"}),
    ):
        async with running(settings) as world:
            assert (await world.send("POST", target, body)).code == Code.UNAUTHORIZED
            page = {**await operator(world), "origin": "http://elsewhere.test"}
            assert (await world.send("POST", target, body, page)).code == Code.ORIGIN_FORBIDDEN
            if world.api.credentials.is_open:
                assert (await world.send("GET", "/promises/p")).status == 404


async def ask(world: World, what: str, body: object) -> Answer:
    """A request of the operator's."""
    return await world.send("POST", f"/admin/{what}", body, await operator(world))


async def test_a_dry_run_may_try_rules() -> None:
    async with running() as world:
        world.api.sweeper = Sweeper(
            cast(Any, world.api.shards),
            (),
            (),
            interval_ms=1_000,
            now_ms=lambda: 0,
        )
        await world.create("a")
        await world.send("PATCH", "/promises/a", {"state": "REJECTED"})
        tried = {"dryRun": False, "retain": "resolved:0s,all:0s"}
        answer = await ask(world, "retention", tried)

        assert answer.json["dryRun"] is True
        assert [row["count"] for row in answer.json["rules"]] == [0, 1]
        assert (await world.send("GET", "/promises/a")).status == 200
        answer = await ask(world, "retention", {"dryRun": False})
        assert answer.json["rules"] == []
        wrong = {"dryRun": True, "retain": "soon"}
        assert (await ask(world, "retention", wrong)).wrong_fields == ["retain"]
        assert (await ask(world, "retention", {})).wrong_fields == ["dryRun"]


async def test_a_promise_is_taken_in_as_it_was() -> None:
    async with running() as world:
        late = {"id": "late", "state": "PENDING", "timeout": NOW_MS - 1, "createdOn": 4}
        body = {"promises": [PROMISE, late, {**PROMISE, "value": {"data": "eA=="}}]}
        answer = await ask(world, "import", body)

        assert [row["result"] for row in answer.json["promises"]] == [
            "created",
            "created",
            "conflict",
        ]
        shown = (await world.send("GET", "/promises/p")).json
        assert shown == {**PROMISE, "param": {}, "value": {}}
        # Its time had come on the way.
        shown = (await world.send("GET", "/promises/late")).json
        assert (shown["state"], shown["completedOn"]) == ("REJECTED_TIMEDOUT", NOW_MS - 1)
        again = await ask(world, "import", {"promises": [PROMISE, late]})
        assert [row["result"] for row in again.json["promises"]] == ["present", "present"]


async def test_work_that_is_pending_is_sent_out_and_work_that_is_done_is_not() -> None:
    async with running() as world:
        tags = {"resonate:invoke": "poll://any@g"}
        body = {
            "promises": [
                {**PROMISE, "id": "done", "tags": tags},
                {"id": "open", "state": "PENDING", "timeout": FAR_MS, "createdOn": 1, "tags": tags},
            ]
        }
        await ask(world, "import", body)

        assert world.outbox.sent == ["__invoke:open"]


async def test_every_wrong_field_is_named() -> None:
    async with running() as world:
        body = {"promises": [PROMISE, {**PROMISE, "state": "DONE", "createdOn": -1}, {}]}
        answer = await ask(world, "import", body)

        assert answer.wrong_fields == [
            *("promises[1].state", "promises[1].createdOn"),
            *("promises[2].id", "promises[2].state"),
        ]
        for given in ([], [PROMISE] * (IMPORT_LIMIT_COUNT + 1), None):
            answer = await ask(world, "import", {"promises": given})
            assert answer.wrong_fields == ["promises"]
        assert (await world.send("GET", "/promises/p")).status == 404
