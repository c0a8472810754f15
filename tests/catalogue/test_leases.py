"""The catalogue's entries about leases: of tasks, locks and executions."""

import pytest
import trio.testing

from tests.core.system import System
from tests.helpers.server import ServerProcess
from tests.model.wire import START_MS, running
from troth.core import commands as c
from troth.core.codes import Code
from troth.core.deciding import Options
from troth.core.limits import LEASE_LEAST_MS
from troth.core.model import ClaimRequest, TaskState

pytestmark = pytest.mark.slow

FAR_MS = 10**15
FAR = 4_102_444_800_000
ROUTED = {"resonate:invoke": "poll://g"}
AWAY_MS = 6_000


def test_a_server_that_was_away_takes_its_workers_leases() -> None:
    """ "a server that was away takes its workers' leases": each has its full time again.

    A task's lease, a lock, and the time to claim a message; they end when that is over.
    """
    system = System(1, Options(), now=START_MS)
    system.ask(c.CreatePromise("p", FAR_MS, tags=ROUTED, claim=ClaimRequest("w", 5_000)))
    system.ask(c.AcquireLock("r", "e", "w", 5_000))
    system.ask(c.CreatePromise("q", FAR_MS, tags=ROUTED))
    system.report_sent("__invoke:q", 1)
    system.now += AWAY_MS + 10_000
    after = system.restarted()
    after.fire_due()

    assert after.ask(c.HeartbeatTasks("w")).count == 1
    assert after.ask(c.HeartbeatLocks("w")).count == 1
    after.let_time_pass(after.now + 4_999)
    assert after.ask(c.AcquireLock("r", "other", "x", 1)).code is Code.LOCK_HELD
    after.let_time_pass(after.now + 1)
    assert after.ask(c.AcquireLock("r", "other", "x", 1)).code is Code.CREATED
    tasks = {task.id: task for task in after.tasks()}
    assert (tasks["__invoke:p"].state, tasks["__invoke:p"].counter) == (TaskState.INIT, 2)
    assert (tasks["__invoke:q"].state, tasks["__invoke:q"].counter) == (TaskState.ENQUEUED, 1)
    after.let_time_pass(after.now + 5_000)
    assert after.delivering["__invoke:q"] == 2


def test_a_server_killed_and_started_again_leaves_leases_alone(server: ServerProcess) -> None:
    """ "a server that was away takes its workers' leases": with `kill -9`, over HTTP."""
    promise = {"id": "p", "timeout": FAR, "tags": {"resonate:invoke": "poll://any@g"}}
    claim = {"id": "__invoke:p", "counter": 1, "processId": "w", "ttl": 1}
    lock = {"resourceId": "r", "executionId": "e", "processId": "w", "ttl": 1}
    assert server.request("POST", "/promises", promise)[0] == 201
    assert server.request("POST", "/tasks/claim", claim)[0] == 201
    assert server.request("POST", "/locks/acquire", lock)[0] == 201
    server.kill9()
    trio.run(trio.sleep, 1.5 * LEASE_LEAST_MS / 1_000)
    server.start()

    # The start takes a while, and 500 ms are short: a claim by somebody else tells as well.
    status, answer = server.request("POST", "/tasks/claim", claim | {"processId": "x"})
    held = server.request("POST", "/locks/acquire", lock | {"executionId": "other"})
    assert (status, answer["error"]["code"]) == (403, 40305)
    assert held[0] == 403


async def test_the_sdk_claims_with_a_ttl_of_0_and_beats_at_once(
    mock_clock: trio.testing.MockClock,
) -> None:
    """ "the SDK claims with a ttl of 0 and beats at once": a lease lasts 500 ms at least."""
    async with running(2) as wire:
        await wire.ask("create promise", {"id": "p", "timeout": FAR_MS, "tags": ROUTED})
        task = {"id": "__invoke:p", "counter": 1, "processId": "w"}
        lock = {"resourceId": "r", "executionId": "e", "processId": "w", "ttl": 0}
        assert (await wire.ask("claim task", task)).code == 20100
        acquired = await wire.ask("acquire lock", lock)
        assert acquired.body == lock | {"expiresAt": START_MS + LEASE_LEAST_MS}
        for at_ms in (0, LEASE_LEAST_MS - 1, 2 * LEASE_LEAST_MS - 2):
            await wire.pass_time(START_MS + at_ms)
            beat = await wire.ask("heartbeat tasks", {"processId": "w"})
            assert beat.body == {"tasksAffected": 1}
            beat = await wire.ask("heartbeat locks", {"processId": "w"})
            assert beat.body == {"locksAffected": 1}
        await wire.pass_time(START_MS + 3 * LEASE_LEAST_MS - 2)
        assert (await wire.ask("heartbeat tasks", {"processId": "w"})).body == {"tasksAffected": 0}
        assert (await wire.ask("heartbeat locks", {"processId": "w"})).body == {"locksAffected": 0}


async def test_locks_of_older_sdks_say_expiry_in_milliseconds() -> None:
    """ "locks of older SDKs say expiryInMilliseconds": read as the ttl where that is absent."""
    async with running(2) as wire:
        lock = {"resourceId": "r", "executionId": "e", "processId": "w"}
        acquired = await wire.ask("acquire lock", lock | {"expiryInMilliseconds": 60_000})
        assert acquired.body == lock | {"ttl": 60_000, "expiresAt": START_MS + 60_000}
        both = lock | {"expiryInMilliseconds": 60_000, "ttl": 2_000}
        assert (await wire.ask("acquire lock", both)).body == lock | {
            "ttl": 2_000,
            "expiresAt": START_MS + 2_000,
        }
        released = await wire.ask("release lock", {"resourceId": "r", "executionId": "e"})
        assert released.code == 20400
