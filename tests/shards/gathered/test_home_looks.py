"""What a group says of its tasks, whose messages and workers are in other processes."""

import trio
from trio.testing import MockClock

from tests.http.client import NoPlacement
from tests.shards.mesh.home_world import Home, homes
from tests.shards.mesh.test_homes import rest_task, workflow
from tests.shards.stage import EPOCH_MS
from troth.core.commands import ClaimTask
from troth.core.grammar import task_ids
from troth.core.workflows import execute_key
from troth.shards.delivery.dialects import Dialect
from troth.shards.gathered.home_looks import AllLooks
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.surveys.rows import Cause, Reason
from troth.shards.surveys.surveys import Surveys


def surveys(home: Home) -> Surveys:
    """Return what a process answers of its group."""
    calls, shards = home.process.mesh.calls, home.process.shards
    looks = AllLooks(calls, home.homes, home.delivery, home.polls)
    return Surveys(
        shards,
        home.delivery,
        home.polls,
        NoPlacement(),
        lambda: EPOCH_MS + round(trio.current_time() * 1000),
        looks,
    )


def of_all(home: Home, own: Surveys) -> AllSurveys:
    """Return what a process answers of all groups."""
    process = home.process
    return AllSurveys(process.mesh.calls, process.place.group_shards, process.shards, own)


async def cause_of(known: Surveys, promise_id: str) -> Cause:
    """Return why a promise is pending."""
    why = await known.why(promise_id)
    assert why is not None
    return why.cause


async def test_why_a_task_waits_for_a_worker_elsewhere(autojump_clock: MockClock) -> None:
    async with homes(3) as server:
        _, known, _ = (surveys(home) for home in server.alive)
        group, other = server.group_at(0), server.group_at(2)
        server.connect(2, other, "other")
        task_id = await rest_task(server, 1, f"poll://any@{group}")
        root_id = task_ids.home(task_id)
        await trio.sleep(0.1)
        cause = await cause_of(known, root_id)
        assert (cause.reason, cause.group) == (Reason.NO_LISTENER, group)
        assert cause.connected_groups == (other,), "wherever they are"

        server.alive[0].polls.decide("another", Dialect.ENVELOPE)
        server.connect(0, group, "another")
        await trio.sleep(0.1)
        assert (await cause_of(known, root_id)).reason is Reason.OTHER_PROTOCOL
        server.connect(0, group, "one")
        await trio.sleep(0.1)
        assert (await cause_of(known, root_id)).reason is Reason.SENT


async def test_a_worker_that_holds_a_task_and_is_nowhere(autojump_clock: MockClock) -> None:
    async with homes(2) as server:
        _, known = (surveys(home) for home in server.alive)
        task_id = await rest_task(server, 1, f"poll://any@{server.group_at(0)}")
        await server.server.call(1, ClaimTask(task_id, 1, "gone", 60_000))
        assert (await cause_of(known, task_ids.home(task_id))).reason is Reason.HOLDER_GONE
        server.connect(0, server.group_at(0), "gone")
        assert (await cause_of(known, task_ids.home(task_id))).reason is Reason.HELD


async def test_why_a_push_fails_that_another_process_sends(autojump_clock: MockClock) -> None:
    """And any process that is asked to sends it again at once."""
    async with homes(3) as server:
        own = [surveys(home) for home in server.alive]
        known = own[1]
        whole = [of_all(home, one) for home, one in zip(server.alive, own, strict=True)]
        url = server.target_at(0)
        server.alive[0].push.behaviour[url.removeprefix("http://").removesuffix("/")] = "fail"
        promise_id = await workflow(server, 1, url)
        await trio.sleep(0.1)
        cause = await cause_of(known, promise_id)
        assert (cause.reason, cause.detail) == (Reason.RECEIVER_FAILS, "status 500")
        assert cause.task is not None
        assert cause.task.sending.failed_count == 1
        row = await known.task(promise_id)
        assert row is not None
        assert row.sending.failed_count == 1

        server.alive[0].push.behaviour.clear()
        sent: set[str] = set()
        await whole[2].retry_all([execute_key(promise_id), "no-task"], sent)
        assert sent == {execute_key(promise_id)}
        await trio.sleep(0.1)
        assert len(server.alive[0].push.arrivals) == 2, "at once"


async def test_a_home_that_is_away_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with homes(2) as server:
        _, known = (surveys(home) for home in server.alive)
        task_id = await rest_task(server, 1, f"poll://any@{server.group_at(0)}")
        await known.why(task_ids.home(task_id))
        server.server.cut_off(0)
        await trio.sleep(0.1)
        began_s = trio.current_time()
        cause = await cause_of(known, task_ids.home(task_id))
        assert cause.reason is Reason.NO_LISTENER
        assert trio.current_time() - began_s < 2
