"""Messages and their homes: whatever group a task is in, the workers of its group get it, once."""

from typing import Any

import pytest
import trio

from tests.shards.stage import FAR_MS
from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    CompletePromise,
    CompleteTask,
    CreateCallback,
    CreatePromise,
    RetryTask,
)
from troth.core.grammar import task_ids
from troth.core.model import EMPTY_VALUE, RESOLVED, TaskState
from troth.core.workflow_commands import EnsurePromise, RegisterListener, SettlePromise
from troth.shards.delivery.dialects import Dialect
from troth.shards.mesh.homes import _Entrusted

from .home_world import HomeWorld, homes
from .world import until

PATIENCE_S = 60.0


async def rest_task(server: HomeWorld, group: int, receiver: str, name: str = "work") -> str:
    """Make a promise with an invoke task in a group; return the task's id."""
    promise_id = server.server.id_of(group, name)
    tags = {"resonate:invoke": receiver}
    reply = await server.server.call(group, CreatePromise(promise_id, FAR_MS, tags=tags))
    assert reply.code is Code.CREATED
    return task_ids.invoke_id(promise_id)


async def workflow(server: HomeWorld, group: int, target: str, name: str = "flow") -> str:
    """Make a promise with a workflow task in a group; return its id."""
    promise_id = server.server.id_of(group, name)
    tags = {"resonate:target": target}
    await server.server.call(group, EnsurePromise(promise_id, FAR_MS, EMPTY_VALUE, tags))
    return promise_id


async def got(texts: list[str], *wanted: str) -> None:
    """Wait until all of these texts, and nothing else, have come."""
    with trio.fail_after(PATIENCE_S):
        await until(lambda: set(wanted) <= set(texts))
    assert sorted(texts) == sorted(wanted)


async def test_a_worker_gets_the_messages_of_every_group(autojump_clock: object) -> None:
    async with homes(3) as server:
        group = server.group_at(0)
        worker = server.connect(0, group)
        task_ids_made = [
            await rest_task(server, owner, f"poll://any@{group}", f"work{owner}")
            for owner in range(3)
        ]
        await got(worker.texts, *(f"{one}/1" for one in task_ids_made))
        for one in task_ids_made:
            reply = await server.server.call(1, ClaimTask(one, 1, "one", 60_000))
            assert reply.code is Code.CREATED
            reply = await server.server.call(2, CompleteTask(one, 1))
            assert reply.task is not None
            assert reply.task.state is TaskState.COMPLETED
        await trio.sleep(1)
        assert [home.homes.entrusted_count for home in server.alive] == [0, 0, 0]


async def test_a_worker_that_comes_later_gets_what_has_waited(autojump_clock: object) -> None:
    async with homes(2) as server:
        group = server.group_at(0)
        task_id = await rest_task(server, 1, f"poll://any@{group}")
        flow = await workflow(server, 1, f"poll://any@{group}")
        await trio.sleep(1)
        worker = server.connect(0, group)
        await got(worker.texts, f"{task_id}/1", f"execute {flow}/0")


async def test_listeners_of_other_groups_promises_are_told(autojump_clock: object) -> None:
    async with homes(2) as server:
        group = server.group_at(0)
        worker = server.connect(0, group)
        promise_id = server.server.id_of(1, "order")
        await server.server.call(1, EnsurePromise(promise_id, FAR_MS, EMPTY_VALUE, None))
        address = f"poll://uni@{group}/one"
        await server.server.call(0, RegisterListener(promise_id, address))
        await server.server.call(0, SettlePromise(promise_id, RESOLVED, EMPTY_VALUE))
        await got(worker.texts, f"unblock {promise_id}")
        await trio.sleep(1)
        assert not server.alive[1].homes.entrusted_count
        assert not any(state.unblocks for state in server.alive[1].process.shards.states())


async def test_a_task_that_ends_is_withdrawn_at_its_home(autojump_clock: object) -> None:
    async with homes(2) as server:
        group = server.group_at(0)
        task_id = await rest_task(server, 1, f"poll://any@{group}")
        await trio.sleep(1)
        assert server.alive[1].homes.entrusted_count == 1
        await server.server.call(0, CompletePromise(task_ids.home(task_id), RESOLVED))
        await trio.sleep(1)
        assert not server.alive[1].homes.entrusted_count
        assert list(server.alive[0].delivery.receivers()) == [], "nothing of it is left"
        worker = server.connect(0, group)
        await trio.sleep(20)
        assert worker.texts == []


async def test_the_home_is_killed_with_messages_in_its_queue(autojump_clock: object) -> None:
    async with homes(3) as server:
        group = server.group_at(0)
        task_id = await rest_task(server, 1, f"poll://any@{group}")
        flow = await workflow(server, 2, f"poll://any@{group}")
        await trio.sleep(1)
        await server.kill(0)
        during = await rest_task(server, 1, f"poll://any@{group}", "during")
        other_group = server.group_at(1)
        beside = server.connect(1, other_group)
        other = await rest_task(server, 2, f"poll://any@{other_group}", "other")
        await got(beside.texts, f"{other}/1")
        await trio.sleep(5)
        await server.start(0)
        worker = server.connect(0, group)
        await got(worker.texts, f"{task_id}/1", f"execute {flow}/0", f"{during}/1")


async def test_what_a_worker_lost_with_its_home_comes_again(autojump_clock: object) -> None:
    """A workflow task was sent and not claimed when the home died: another worker gets it."""
    async with homes(2) as server:
        group = server.group_at(0)
        worker = server.connect(0, group)
        flow = await workflow(server, 1, f"poll://any@{group}")
        await got(worker.texts, f"execute {flow}/0")
        await server.kill(0)
        await server.start(0)
        again = server.connect(0, group, "two")
        began_s = trio.current_time()
        await got(again.texts, f"execute {flow}/0")
        assert trio.current_time() - began_s < 5, "without waiting for the claim's time"


@pytest.mark.parametrize("seed", range(6))
async def test_links_that_break_lose_nothing(autojump_clock: object, seed: int) -> None:
    async with homes(3, seed=seed, delay_s=0.05) as server:
        group = server.group_at(0)
        worker = server.connect(0, group)
        made = []
        for number in range(12):
            owner = 1 + number % 2
            made.append(await rest_task(server, owner, f"poll://any@{group}", f"work{number}"))
            pair = server.luck.choice(sorted(server.server.wires))
            server.server.wires[pair].cut()
            await trio.sleep(server.luck.random() * 0.1)
            server.server.mend_all()
            with trio.fail_after(PATIENCE_S):
                await server.server.until_linked()
        with trio.fail_after(PATIENCE_S):
            await until(lambda: {f"{one}/1" for one in made} <= set(worker.texts))
            await until(lambda: not any(home.homes.entrusted_count for home in server.alive))


async def test_a_home_that_is_away_holds_up_no_message_for_others(autojump_clock: object) -> None:
    """Of the tasks of one root at most one is under way: another's turn comes all the same."""
    async with homes(3) as server:
        away, there = server.group_at(0), server.group_at(1)
        worker = server.connect(1, there)
        await server.kill(0)
        task_id = await rest_task(server, 2, f"poll://any@{away}")
        root_id = task_ids.home(task_id)
        leaf_id = server.server.id_of(2, "leaf")
        await server.server.call(2, CreatePromise(leaf_id, FAR_MS))
        await server.server.call(2, CreateCallback(leaf_id, root_id, FAR_MS, f"poll://any@{there}"))
        await server.server.call(1, CompletePromise(leaf_id, RESOLVED))
        await got(worker.texts, f"{task_ids.resume_id(root_id, leaf_id)}/1")


def test_a_report_ends_only_the_message_that_it_is_about() -> None:
    entrusted = _Entrusted()
    entrusted.there["task"] = 2
    entrusted.done("task", 1)
    assert entrusted.there == {"task": 2}
    entrusted.done("task", 2)
    assert entrusted.there == {}


async def test_a_home_that_hangs_holds_up_no_others(autojump_clock: object) -> None:
    """SIGSTOP: its links say nothing, and go on later where they were."""
    async with homes(3) as server:
        group, other_group = server.group_at(0), server.group_at(1)
        worker, beside = server.connect(0, group), server.connect(1, other_group)
        silent = [wire for pair, wire in server.server.wires.items() if 0 in pair]
        for wire in silent:
            wire.is_silent = True
        hung = [
            await rest_task(server, 2, f"poll://any@{group}", f"hung{number}")
            for number in range(3)
        ]
        other = await rest_task(server, 2, f"poll://any@{other_group}", "other")
        await got(beside.texts, f"{other}/1")
        await trio.sleep(5)
        late = await rest_task(server, 2, f"poll://any@{group}", "late")
        for wire in silent:
            wire.is_silent = False
        with trio.fail_after(PATIENCE_S):
            await until(lambda: {f"{one}/1" for one in [*hung, late]} <= set(worker.texts))
        # None may be there twice: the home that hung had not forgotten what it had got.
        assert len(worker.texts) == 4


async def test_more_than_there_is_room_for_waits_with_the_group(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with homes(2) as server:
        parcels = server.alive[1].homes._parcels
        monkeypatch.setattr(parcels, "_waiting_count", 4)
        put, most = parcels.put, 0

        def counted(process: int, content: Any) -> None:
            nonlocal most
            put(process, content)
            most = max(most, len(parcels._outbound[process].kept))

        monkeypatch.setattr(parcels, "put", counted)
        group = server.group_at(0)
        promise_id = server.server.id_of(1, "order")
        await server.server.call(1, EnsurePromise(promise_id, FAR_MS, EMPTY_VALUE, None))
        for number in range(60):
            address = f"poll://any@{group}/w{number}"
            await server.server.call(1, RegisterListener(promise_id, address))
        workers = [server.connect(0, group, f"w{number}") for number in range(60)]
        await server.server.call(1, SettlePromise(promise_id, RESOLVED, EMPTY_VALUE))
        with trio.fail_after(PATIENCE_S):
            await until(lambda: all(one.texts for one in workers))
        assert [len(one.texts) for one in workers] == [1] * 60
        assert most == 4


async def test_more_reports_than_can_be_kept_are_made_up_for(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with homes(2) as server:
        parcels = server.alive[0].homes._parcels
        group = server.group_at(0)
        made = [
            await rest_task(server, 1, f"poll://any@{group}", f"work{number}")
            for number in range(8)
        ]
        server.server.wires[0, 1].cut()
        await trio.sleep(0.5)
        monkeypatch.setattr(parcels, "_limit_count", 3)
        worker = server.connect(0, group)
        await trio.sleep(0.5)
        monkeypatch.undo()
        server.server.mend_all()
        with trio.fail_after(PATIENCE_S):
            await until(lambda: {f"{one}/1" for one in made} <= set(worker.texts))
            await until(lambda: not server.alive[1].homes.entrusted_count)


async def test_a_message_that_its_home_has_given_back_is_entrusted_no_longer(
    autojump_clock: object,
) -> None:
    """It is not sent again while another task of its root is under way, and never once that ends.

    The simulation found it: of tasks that were claimed by a late message a note stayed for good.
    """
    async with homes(2) as server:
        url, group = server.target_at(0), server.group_at(0)
        host = url.removeprefix("http://").rstrip("/")
        server.alive[0].push.behaviour[host] = "fail"
        worker = server.connect(0, group)
        task_id = await rest_task(server, 1, url)
        root_id, leaf_id = task_ids.home(task_id), server.server.id_of(1, "leaf")
        await trio.sleep(0.1)  # now it is stalled, so another task of the root may go out
        await server.server.call(1, CreatePromise(leaf_id, FAR_MS))
        receiver = f"poll://any@{group}"
        await server.server.call(1, CreateCallback(leaf_id, root_id, FAR_MS, receiver))
        await server.server.call(1, CompletePromise(leaf_id, RESOLVED))
        resume_id = task_ids.resume_id(root_id, leaf_id)
        await got(worker.texts, f"{resume_id}/1")
        await server.server.call(1, ClaimTask(resume_id, 1, "one", 600_000))
        retry = RetryTask(task_id, 1)
        with trio.fail_after(PATIENCE_S):
            await until(lambda: retry in server.alive[1].reports, 0.5)
        await server.server.call(1, CompletePromise(root_id, RESOLVED))
        await trio.sleep(1)
        assert not server.alive[1].homes.entrusted_count


async def test_one_breaker_for_a_push_target_over_all_processes(autojump_clock: object) -> None:
    async with homes(3) as server:
        url = server.target_at(0)
        host = url.removeprefix("http://").removesuffix("/")
        server.alive[0].push.behaviour[host] = "fail"
        for owner in range(3):
            for number in range(4):
                await rest_task(server, owner, url, f"push{owner}-{number}")
        await trio.sleep(3)
        assert [len(home.push.arrivals) for home in server.alive[1:]] == [0, 0]
        probes = len(server.alive[0].push.arrivals)
        assert probes <= 4, "the breaker is open, one at a time tries"
        assert server.alive[0].delivery.statistics().push_targets_open_count == 1
        server.alive[0].push.behaviour[host] = 0.01
        with trio.fail_after(200):
            await until(lambda: len(server.alive[0].push.arrivals) >= probes + 12, 0.5)
            await until(lambda: not any(home.homes.entrusted_count for home in server.alive), 0.5)


async def test_messages_go_after_the_answer_wherever_worker_and_client_are(
    autojump_clock: object,
) -> None:
    async with homes(3) as server:
        worker = server.connect(0, server.group_at(0))
        promise_id = server.server.id_of(1, "held")
        held = server.alive[2].process.shards.hold()
        tags = {"resonate:invoke": f"poll://any@{server.group_at(0)}"}
        asked = server.server.ask(2, CreatePromise(promise_id, FAR_MS, tags=tags), held)
        await trio.sleep(1)
        assert asked.is_done
        assert worker.texts == [], "its client has not got the answer"
        held.release()
        await got(worker.texts, f"{task_ids.invoke_id(promise_id)}/1")


async def test_released_is_lost_with_the_link(autojump_clock: object) -> None:
    """A broken link counts as the word that the answer is written: no message waits forever."""
    async with homes(3) as server:
        worker = server.connect(0, server.group_at(0))
        promise_id = server.server.id_of(1, "held")
        held = server.alive[2].process.shards.hold()
        tags = {"resonate:invoke": f"poll://any@{server.group_at(0)}"}
        asked = server.server.ask(2, CreatePromise(promise_id, FAR_MS, tags=tags), held)
        await trio.sleep(1)
        assert asked.is_done
        server.server.wires[2, 1].cut()
        held.release()
        await got(worker.texts, f"{task_ids.invoke_id(promise_id)}/1")


async def test_no_message_before_its_record_is_durable(autojump_clock: object) -> None:
    async with homes(2, manual=True) as server:
        worker = server.connect(0, server.group_at(0))
        promise_id = server.server.id_of(1, "undurable")
        tags = {"resonate:target": f"poll://any@{server.group_at(0)}"}
        server.server.ask(0, EnsurePromise(promise_id, FAR_MS, EMPTY_VALUE, tags))
        await trio.sleep(1)
        assert worker.texts == []
        assert not server.alive[1].homes.entrusted_count
        server.alive[1].process.writer.make_all_durable()
        await got(worker.texts, f"execute {promise_id}/0")


async def test_what_a_worker_speaks_is_known_where_its_streams_are(autojump_clock: object) -> None:
    async with homes(3) as server:
        group = server.group_at(0)
        worker = server.connect(0, group)
        server.alive[2].polls.decide("one", Dialect.ENVELOPE)
        await trio.sleep(1)
        assert worker.connection.dialect is Dialect.ENVELOPE
        await rest_task(server, 1, f"poll://any@{group}")
        flow = await workflow(server, 1, f"poll://any@{group}")
        await got(worker.texts, f"execute {flow}/0")
        await server.kill(0)
        await server.start(0)
        await server.server.until_linked()
        await trio.sleep(1)
        again = server.connect(0, group)
        assert again.connection.dialect is Dialect.ENVELOPE, "the others have told it again"
