"""DELETE /promises/{id}: what it answers."""

from tests.http.client import FAR_MS, World, running
from troth.core.codes import Code


async def complete(world: World, promise_id: str) -> None:
    """Resolve a promise."""
    answer = await world.send("PATCH", f"/promises/{promise_id}", {"state": "RESOLVED"})
    assert answer.status == 201


async def test_a_completed_promise_is_deleted_and_its_id_is_free() -> None:
    async with running() as world:
        await world.create("a/b", headers={"Idempotency-Key": "k"})
        refused = await world.send("DELETE", "/promises/a/b")
        assert (refused.status, refused.code) == (409, Code.PROMISE_PENDING)
        await complete(world, "a/b")

        deleted = await world.send("DELETE", "/promises/a/b")
        assert (deleted.status, deleted.body) == (204, b"")
        assert (await world.send("DELETE", "/promises/a/b")).code == Code.PROMISE_NOT_FOUND
        assert (await world.send("GET", "/promises/a/b")).status == 404
        assert (await world.send("GET", "/promises?id=*")).json["promises"] == []
        again = await world.create("a/b", headers={"Idempotency-Key": "k"})
        assert again.status == 201


async def test_what_is_in_use_stays_with_a_reason() -> None:
    async with running() as world:
        await world.create("w")
        await world.create("w.1", tags={"resonate:root": "w"})
        await complete(world, "w.1")
        answer = await world.send("DELETE", "/promises/w.1")
        assert (answer.status, answer.code) == (409, Code.ORIGIN_PENDING)

        subscription = {"id": "s", "promiseId": "w", "timeout": FAR_MS, "recv": "poll://g"}
        await world.send("POST", "/subscriptions", subscription)
        await complete(world, "w")
        answer = await world.send("DELETE", "/promises/w")
        assert (answer.status, answer.code) == (409, Code.PROMISE_IN_USE)
