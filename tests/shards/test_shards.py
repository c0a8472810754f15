"""All shards together: routing, questions to many of them, starting and stopping."""

from random import Random

import pytest
import structlog
import trio
from trio.testing import MockClock

from troth.core import records
from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    CompletePromise,
    CreateCallback,
    CreatePromise,
    CreateSchedule,
    ReadPromise,
    ReadSchedule,
    TaskSent,
)
from troth.core.grammar.task_ids import resume_id
from troth.core.model import Promise, PromiseState
from troth.core.replies import Reply
from troth.core.workflow_commands import CreateWorkflow, EnsurePromise
from troth.core.workflows import ACQUIRED
from troth.persistence.errors import LogFailed, UnknownRecord
from troth.persistence.wal.log import LogRecord
from troth.shards.errors import Overloaded, ShardsError, Stopping, StorageFailed
from troth.shards.storage import MemoryStorage

from .stage import (
    EPOCH_MS,
    FAR_MS,
    WORKER,
    CalledBack,
    Outgoing,
    Stage,
    id_in,
    make_shards,
    settle,
    stage,
)

ALL_STATES = tuple(PromiseState)


async def test_a_claimed_resume_task_shows_root_and_leaf_of_other_shards() -> None:
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    async with stage(2) as s:
        for identifier in (leaf, root):
            await s.call(CreatePromise(identifier, FAR_MS))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        await s.call(CompletePromise(leaf, PromiseState.RESOLVED))
        reply = await s.call(ClaimTask(resume_id(root, leaf), 1, "pid", 60_000))

        assert reply.claimed is not None
        assert reply.claimed.root is not None
        assert reply.claimed.leaf is not None
        assert (reply.claimed.root.id, reply.claimed.leaf.id) == (root, leaf)
        assert reply.claimed.leaf.state is PromiseState.RESOLVED


async def test_a_claim_is_answered_although_the_leafs_shard_is_overloaded() -> None:
    """Refusing it then would say that nothing was done, and the task would wait for its lease."""
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    async with stage(2, mailbox_limit_count=1) as s:
        await s.call(CreatePromise(leaf, FAR_MS))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        await s.call(CompletePromise(leaf, PromiseState.RESOLVED))
        await s.write_all()
        claim = s.ask(ClaimTask(resume_id(root, leaf), 1, "pid", 60_000))
        await settle()
        s.writer.make_all_durable()
        s.shards.submit(ReadPromise(leaf), None, CalledBack())
        await s.write_all()

        assert claim.error is None
        assert claim.reply is not None
        assert claim.reply.code is Code.CREATED


async def test_heartbeats_renew_what_a_process_holds_in_every_shard() -> None:
    async with stage(4) as s:
        for index in range(4):
            tags = {"resonate:invoke": WORKER}
            await s.call(CreatePromise(id_in(index, 4, "p"), FAR_MS, tags=tags))
            await s.call(ClaimTask(f"__invoke:{id_in(index, 4, 'p')}", 1, "pid", 60_000))
            await s.call(AcquireLock(id_in(index, 4, "lock"), "e", "pid", 60_000))
        counts: list[int] = []

        async def beat() -> None:
            counts.append(await s.shards.heartbeat_tasks("pid"))
            counts.append(await s.shards.heartbeat_locks("pid"))
            counts.append(await s.shards.heartbeat_tasks("nobody"))
            counts.append(await s.shards.heartbeat_locks("nobody"))

        s.nursery.start_soon(beat)
        await settle()
        assert counts == []
        await s.write_all()

        assert counts == [4, 4, 0, 0]


async def test_a_heartbeat_refused_half_way_leaves_nobody_waiting() -> None:
    """One shard had room, the next had not; what the first one does is answered to nobody."""
    async with stage(2, mailbox_limit_count=1) as s:
        for index in range(2):
            await s.call(AcquireLock(id_in(index, 2, "lock"), "e", "pid", 60_000))
        s.shards.submit(ReadPromise(id_in(1, 2, "p")), None, CalledBack())
        with pytest.raises(Overloaded):
            await s.shards.heartbeat_locks("pid")
        s.shards.run_turn()
        await s.write_all()

        assert (await s.call(ReadPromise("p"))).code is Code.PROMISE_NOT_FOUND


@pytest.mark.parametrize("seed", range(5))
async def test_search_is_newest_first_over_all_shards(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr("troth.shards.gathering.SEARCH_SCAN_COUNT", 3)
    async with stage(4, direct=True) as s:
        made: list[Promise] = []
        for number in range(40):
            tags = {"colour": random.choice(("red", "blue"))}
            reply = await s.shards.ask(CreatePromise(f"p/{number}", FAR_MS, tags=tags))
            assert reply.promise is not None
            made.append(reply.promise)
        expected = [one for one in reversed(made) if one.tags == {"colour": "red"}]
        found: list[Promise] = []
        before: int | None = None
        while True:
            rows, before = await s.shards.search_promises(
                "p/*", ALL_STATES, {"colour": "red"}, 7, before
            )
            found += rows
            if before is None:
                break

        assert found == expected, f"seed {seed}"


async def test_an_exact_id_is_searched_in_its_shard_only() -> None:
    async with stage(4, direct=True) as s:
        await s.shards.ask(CreatePromise("p", FAR_MS))
        before = [shard.commands_count for shard in s.shards.statistics().shards]

        rows, cursor = await s.shards.search_promises("p", ALL_STATES, {}, 10, None)

        after = [shard.commands_count for shard in s.shards.statistics().shards]
        assert ([row.id for row in rows], cursor) == (["p"], None)
        assert sum(after) - sum(before) == 1


async def test_schedules_are_searched_too() -> None:
    async with stage(4, direct=True) as s:
        for number in range(5):
            await s.shards.ask(CreateSchedule(f"s{number}", "0 0 1 1 *", f"p{number}", 1000))

        rows, cursor = await s.shards.search_schedules("s*", {}, 3, None)
        assert [row.id for row in rows] == ["s4", "s3", "s2"]
        rows, cursor = await s.shards.search_schedules("s*", {}, 3, cursor)
        assert ([row.id for row in rows], cursor) == (["s1", "s0"], None)


async def test_a_schedule_creates_promises_in_other_shards(autojump_clock: MockClock) -> None:
    schedule = id_in(0, 4, "s")
    async with stage(4, direct=True) as s:
        await s.shards.ask(CreateSchedule(schedule, "* * * * *", "run/{{.timestamp}}", 10**9))
        await trio.sleep(10 * 60)

        rows, _ = await s.shards.search_promises("run/*", ALL_STATES, {}, 100, None)
        first_ms = (EPOCH_MS // 60_000 + 1) * 60_000
        assert [row.id for row in reversed(rows)] == [
            f"run/{first_ms + minute * 60_000}" for minute in range(10)
        ]
        reply = await s.shards.ask(ReadSchedule(schedule))
        assert reply.schedule is not None
        assert reply.schedule.last_run_time == first_ms + 9 * 60_000


async def test_stop_waits_for_what_was_taken_and_refuses_the_rest() -> None:
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    async with stage(2) as s:
        await s.call(CreatePromise(leaf, FAR_MS))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        asked = s.ask(CompletePromise(leaf, PromiseState.RESOLVED))
        await settle()
        stopped = trio.Event()

        async def stop() -> None:
            await s.shards.stop()
            stopped.set()

        s.nursery.start_soon(stop)
        await settle()
        with pytest.raises(Stopping):
            await s.shards.ask(ReadPromise(leaf))
        assert not stopped.is_set()
        await s.write_all()

        assert stopped.is_set()
        assert asked.reply is not None
        assert sum(shard.outbox_count for shard in s.shards.statistics().shards) == 0


async def test_stop_returns_when_the_log_has_failed() -> None:
    shards = make_shards(1, Outgoing())
    shards.tell(TaskSent("__invoke:p", 1))

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        shards.committer.fail(LogFailed("gone"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with trio.fail_after(60):
            await shards.stop()


async def test_what_was_appended_is_written_when_running_ends() -> None:
    async with stage() as s:
        asked = s.ask(CreatePromise("p", FAR_MS))
        await settle()
        s.nursery.cancel_scope.cancel()
    assert len(s.writer.written) == 1
    assert s.writer.closed
    assert not asked.is_done


async def test_a_replay_that_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.shards.replay.PROGRESS_S", 0.0)
    shards = make_shards(1, Outgoing())
    body = records.encode(records.TasksRenewed("nobody", 0))
    entries = ((number, LogRecord(0, number, body)) for number in range(1, 2_002))

    with structlog.testing.capture_logs() as logged:
        assert shards.replay(entries) == 2_001

    assert [line["records"] for line in logged] == [0, 1_000, 2_000]


async def test_who_stands_by_says_nothing_of_how_far_it_has_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.shards.replay.PROGRESS_S", 0.0)
    shards = make_shards(1, Outgoing())
    body = records.encode(records.TasksRenewed("nobody", 0))
    entries = ((number, LogRecord(0, number, body)) for number in range(1, 2_002))
    is_standing_by = iter((False, True, True))

    with structlog.testing.capture_logs() as logged:
        shards.replay(entries, is_standing_by=lambda: next(is_standing_by))

    assert [line["records"] for line in logged] == [0]


async def test_a_record_that_this_version_does_not_know_is_refused() -> None:
    shards = make_shards(1, Outgoing())

    with pytest.raises(UnknownRecord, match=r"record 7 of the log .* a newer one"):
        shards.replay([(7, LogRecord(0, 1, b'["promise-forgotten/9","a"]'))])


async def test_a_replay_gives_the_same_state_and_goes_on_counting() -> None:
    async with stage(2) as s:
        for number in range(6):
            await s.call(CreatePromise(f"p{number}", FAR_MS, tags={"resonate:invoke": WORKER}))
        await s.call(CompletePromise("p3", PromiseState.REJECTED))
        written = s.writer.written

    again = make_shards(2, Outgoing(), next_sequence=len(written) + 1)
    assert again.replay(enumerate(written, 1)) == len(written)

    for old, new in zip(s.shards.states(), again.states(), strict=True):
        assert (old.promises_count, old.tasks_count) == (new.promises_count, new.tasks_count)
    assert again._serials.next() > s.shards._serials.last


class Places:
    """An asker that keeps what it is told, by place."""

    def __init__(self) -> None:
        self.codes: dict[int, Code] = {}
        self.counts: list[int] = []

    def answer(self, place: int, reply: Reply) -> None:
        assert place not in self.codes
        self.codes[place] = reply.code
        self.counts.append(reply.count)

    def refuse(self, error: ShardsError) -> None:
        raise AssertionError(error)


async def test_commands_that_are_submitted_together_are_answered_by_their_places() -> None:
    """As many of them as there is room for; the rest was not taken."""
    ids = [id_in(0, 2, f"p{number}") for number in range(3)]
    commands = [CreatePromise("other", FAR_MS), *(CreatePromise(one, FAR_MS) for one in ids)]
    async with stage(2, direct=True, mailbox_limit_count=2) as s:
        asked = Places()
        assert s.shards.submit_all(commands, range(1, 4), None, asked) == 2
        s.shards.run_turn()
        await settle()
        assert asked.codes == {1: Code.CREATED, 2: Code.CREATED}
        assert s.shards.submit_all(commands, range(3, 4), None, asked) == 1
        s.shards.run_turn()
        await settle()
        assert asked.codes[3] is Code.CREATED
        assert (await s.shards.ask(ReadPromise("other"))).code is Code.PROMISE_NOT_FOUND
        assert await s.shards.ask_each([]) == []


async def test_commands_in_order_see_what_those_before_have_done() -> None:
    """Though they are of different shards, and what one leaves for another is part of them."""
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    commands = [
        CreatePromise(leaf, FAR_MS),
        CreatePromise(root, FAR_MS),
        CreateCallback(leaf, root, FAR_MS, WORKER),
        CompletePromise(leaf, PromiseState.RESOLVED),
        ReadPromise(leaf),
    ]
    async with stage(2, direct=True) as s:
        asked = Places()
        assert s.shards.run_in_order(commands, range(5), None, asked) == 5
        assert asked.codes == {}, "nothing of it is durable"
        s.shards.flush()
        await settle()
        created = Code.CREATED
        assert asked.codes == {0: created, 1: created, 2: created, 3: created, 4: Code.OK}
        assert resume_id(root, leaf) in s.shards.states()[1].tasks


async def test_commands_in_order_end_where_there_is_no_room() -> None:
    async with stage(1, mailbox_limit_count=1) as s:
        asked = Places()
        s.shards.submit(ReadPromise("p"), None, CalledBack())
        assert s.shards.run_in_order([ReadPromise("q")], range(1), None, asked) == 0
        await s.write_all()
        assert asked.codes == {}


async def flows(s: Stage, count: int) -> list[tuple[str, int]]:
    """Make workflows that a worker has, in all shards."""
    made = [(f"flow{number}", 1) for number in range(count)]
    for name, _ in made:
        tags = {"resonate:target": WORKER}
        await s.shards.ask(CreateWorkflow(name, FAR_MS, "worker", 60_000, tags=tags))
    return made


async def test_leases_of_workflows_are_renewed_in_every_shard() -> None:
    """With a waiting task or with a callback for each shard; what is not held is not counted."""
    async with stage(4, direct=True) as s:
        held = await flows(s, 8)
        assert await s.shards.renew_workflows("worker", [*held, ("none", 1)]) == 8
        asked = Places()
        shards_count = len({s.shards.shard_of(name) for name, _ in held})
        assert s.shards.submit_renewals("worker", held, None, asked) == shards_count
        s.shards.run_turn()
        await settle()
        assert sorted(asked.codes) == list(range(shards_count))
        assert sum(asked.counts) == 8


async def test_a_renewal_that_a_shard_has_no_room_for_is_refused_as_a_whole() -> None:
    async with stage(2, direct=True, mailbox_limit_count=1) as s:
        held = await flows(s, 8)
        for index in range(2):
            s.shards.submit(ReadPromise(id_in(index, 2, "p")), None, CalledBack())
        asked = Places()
        with pytest.raises(Overloaded):
            s.shards.submit_renewals("worker", held, None, asked)
        s.shards.run_turn()
        await settle()
        assert asked.codes == {}


async def test_workflow_tasks_of_all_shards_are_searched_in_pages() -> None:
    async with stage(4, direct=True) as s:
        held = await flows(s, 7)
        await s.shards.ask(EnsurePromise("idle", FAR_MS, tags={"resonate:target": WORKER}))
        found: list[str] = []
        before: int | None = None
        while True:
            rows, before = await s.shards.search_workflows(ACQUIRED, 3, before, "flow")
            found += [row.id for row in rows]
            if before is None:
                break
        assert found == [name for name, _ in reversed(held)]
        rows, _ = await s.shards.search_workflows(None, 10, None)
        assert [row.id for row in rows] == ["idle", *found]


async def test_what_is_looked_at_is_not_shown_when_the_log_has_failed() -> None:
    with pytest.RaisesGroup(LogFailed, flatten_subgroups=True):
        async with stage() as s:
            s.ask(CreatePromise("p", FAR_MS))
            await settle()
            s.writer.fail()
            with pytest.raises(StorageFailed):
                await s.shards.wait_shown()


async def test_nothing_is_carried_out_when_the_log_has_failed() -> None:
    """It could not be acknowledged; and some of what came before it was dropped."""
    asked = CalledBack()
    with pytest.RaisesGroup(LogFailed, flatten_subgroups=True):
        async with stage(1) as s:
            s.shards.submit(CreatePromise("p", FAR_MS), None, asked)
            s.writer.fail()
            s.shards.run_turn()
            assert "p" not in s.shards.state_of("p").promises
            await settle()
    assert [type(error) for error in asked.errors] == [StorageFailed]


async def test_a_server_in_memory_makes_no_checkpoints() -> None:
    storage = MemoryStorage(3)
    shards = make_shards(storage.shard_count, Outgoing())
    assert shards.recover(storage).records_count == 0
    assert shards.make_checkpointer(storage, interval_ms=1_000, log_bytes=1) is None
    assert (storage.torn(), storage.doubt()) == ((0, None), None)
    storage.close()
    await trio.lowlevel.checkpoint()
