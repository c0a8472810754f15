"""Releasing a task, sending it now, breaking a lock, and who may do so."""

from trio.testing import MockClock

from tests.http.admin.test_accounts import operator
from tests.http.client import FAR_MS, running

from .world import create_with_task, limited


async def test_a_claimed_task_is_taken_from_its_holder(mock_clock: MockClock) -> None:
    async with running() as world:
        await create_with_task(world, "a")
        claim = {"id": "__invoke:a", "counter": 1, "processId": "w1", "ttl": 3_600_000}
        assert (await world.send("POST", "/tasks/release", {"id": "__invoke:a"})).code == 40308
        await world.send("POST", "/tasks/claim", claim)
        answer = await world.send("POST", "/tasks/release", {"id": "__invoke:a"})
        assert answer.status == 200, answer.body
        assert (answer.json["state"], answer.json["counter"]) == ("init", 2)
        assert "processId" not in answer.json
        done = {"id": "__invoke:a", "counter": 1}
        assert (await world.send("POST", "/tasks/complete", done)).status == 403
        again = {**claim, "counter": 2, "processId": "w2"}
        assert (await world.send("POST", "/tasks/claim", again)).status == 201


async def test_an_acquired_task_keeps_its_version(mock_clock: MockClock) -> None:
    async with running() as world:
        await world.create("f", tags={"resonate:target": "poll://any@g"})
        head = {"corrId": "1", "version": "2026-04-01"}
        data = {"id": "f", "version": 0, "pid": "w", "ttl": 60_000}
        body = {"kind": "task.acquire", "head": head, "data": data}
        answer = await world.send("POST", "/", body)
        assert answer.json["head"]["status"] == 200, answer.body
        answer = await world.send("POST", "/tasks/release", {"id": "f"})
        assert answer.status == 200, answer.body
        assert (answer.json["state"], answer.json["counter"]) == ("pending", 1)


async def test_tasks_that_cannot_be_released_or_retried_are_refused(
    mock_clock: MockClock,
) -> None:
    async with running() as world:
        await create_with_task(world, "a/1")
        for path in ("/tasks/release", "/tasks/retry"):
            assert (await world.send("POST", path, {"id": "__invoke:x"})).code == 40403
            assert (await world.send("POST", path, {"id": "__invoke:a/1"})).code == 40308
            assert (await world.send("POST", path, {})).wrong_fields == ["id"]
        headers = await limited(world, "b/")
        for path in ("/tasks/release", "/tasks/retry"):
            answer = await world.send("POST", path, {"id": "__invoke:a/1"}, headers)
            assert answer.status == 403


async def test_a_lock_is_broken_by_an_administrator(mock_clock: MockClock) -> None:
    async with running() as world:
        lock = {"resourceId": "r", "executionId": "e", "processId": "p", "ttl": FAR_MS}
        await world.send("POST", "/locks/acquire", lock)
        body = {"resourceId": "r"}
        assert (await world.send("POST", "/locks/break", body)).status == 401
        admin = await operator(world)
        assert (await world.send("POST", "/locks/break", body, admin)).status == 204
        assert (await world.send("POST", "/locks/break", body, admin)).code == 40402
        other = {**lock, "executionId": "f"}
        assert (await world.send("POST", "/locks/acquire", other)).status == 201
        (line,) = [
            one for one in await world.api.audit.read(10) if b"lock.break" in str(one).encode()
        ]
        assert "r" in str(line)
