"""Asking with a call-back, and turns that the asker runs instead of the actor."""

import pytest
import trio
from trio.testing import MockClock

from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    Command,
    CompletePromise,
    CreatePromise,
    ReadPromise,
    TaskSent,
)
from troth.core.grammar.task_ids import invoke_id
from troth.core.model import PromiseState
from troth.core.records import TaskEnqueued
from troth.persistence.errors import LogFailed
from troth.shards.errors import Overloaded, Stopping, StorageFailed

from .stage import EPOCH_MS, FAR_MS, CalledBack, id_in, matching, settle, stage


async def test_a_reply_comes_when_it_is_durable_and_not_before() -> None:
    async with stage(2) as s:
        asker = CalledBack()
        s.shards.submit(CreatePromise("a", FAR_MS), None, asker)
        s.shards.run_turn()
        reader = CalledBack()
        s.shards.submit(ReadPromise("a"), None, reader)
        s.shards.run_turn()
        assert asker.replies == reader.replies == []

        s.writer.make_all_durable()
        assert [reply.code for reply in asker.replies] == [Code.CREATED]
        assert [reply.code for reply in reader.replies] == [Code.OK]


async def test_what_is_durable_already_is_answered_within_the_turn() -> None:
    async with stage(2) as s:
        await s.call(CreatePromise("a", FAR_MS))
        asker = CalledBack()
        s.shards.submit(ReadPromise("a"), None, asker)
        assert asker.replies == []
        s.shards.run_turn()
        assert [reply.code for reply in asker.replies] == [Code.OK]


async def test_a_read_waits_until_the_log_may_be_told_of() -> None:
    """As long as the lease of a log that has one is over, another server may know more."""
    async with stage(2) as s:
        await s.call(CreatePromise("a", FAR_MS))
        has_lease = False
        s.shards.committer.may_answer = lambda: has_lease
        asker = CalledBack()
        s.shards.submit(ReadPromise("a"), None, asker)
        s.shards.run_turn()
        s.shards.committer.durable(s.shards.committer.durable_position)
        assert asker.replies == []

        has_lease = True
        s.shards.committer.durable(s.shards.committer.durable_position)
        assert [reply.code for reply in asker.replies] == [Code.OK]


async def test_a_survey_waits_until_the_log_may_be_told_of() -> None:
    async with stage(2) as s:
        has_lease = False
        s.shards.committer.may_answer = lambda: has_lease
        shown = trio.Event()

        async def look() -> None:
            await s.shards.wait_shown()
            shown.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await settle()
            assert not shown.is_set()
            has_lease = True
            s.shards.committer.durable(s.shards.committer.durable_position)


async def test_reads_do_not_wait_for_what_other_shards_write_in_the_same_turn(
    autojump_clock: MockClock,
) -> None:
    """On a clock that stands still: a pass that is over has time for one command."""
    async with stage(2) as s:
        known, pending, new = id_in(0, 2, "known"), id_in(0, 2, "pending"), id_in(1, 2, "new")
        await s.call(CreatePromise(known, FAR_MS))
        creators = [CalledBack(), CalledBack()]
        at_once, with_first, with_second = CalledBack(), CalledBack(), CalledBack()

        s.shards.submit(ReadPromise(known), None, at_once)
        s.shards.submit(CreatePromise(new, FAR_MS), None, creators[0])
        s.shards.run_turn()
        assert [reply.code for reply in at_once.replies] == [Code.OK]
        assert creators[0].replies == []

        s.shards.submit(ReadPromise(new), None, with_first)
        s.shards.submit(CreatePromise(pending, FAR_MS), None, creators[1])
        s.shards.submit(ReadPromise(known), None, with_second)
        s.shards.run_turn()
        assert with_first.replies == with_second.replies == []
        s.writer.make_durable()
        assert [reply.code for reply in with_first.replies] == [Code.OK]
        assert [reply.code for reply in creators[0].replies] == [Code.CREATED]
        assert creators[1].replies == with_second.replies == []
        s.writer.make_durable()
        assert [reply.code for reply in with_second.replies] == [Code.OK]


async def test_one_turn_is_one_batch_for_the_log(autojump_clock: MockClock) -> None:
    async with stage(4) as s:
        for number in range(20):
            s.shards.submit(CreatePromise(f"p{number}", FAR_MS), None, CalledBack())
        s.shards.run_turn()
        assert [len(batch) for batch in s.writer.waiting] == [20]


async def test_turns_of_both_kinds_keep_the_order_of_a_shard() -> None:
    async with stage(1) as s:
        created, completed = CalledBack(), CalledBack()
        s.shards.submit(CreatePromise("a", FAR_MS), None, created)
        s.shards.run_turn()
        asked = s.ask(CompletePromise("a", PromiseState.RESOLVED))
        await settle()
        s.shards.submit(CompletePromise("a", PromiseState.REJECTED), None, completed)
        s.shards.run_turn()
        s.writer.make_all_durable()
        await settle()
        assert asked.is_done
        assert [reply.code for reply in completed.replies] == [Code.PROMISE_RESOLVED]


async def test_a_timer_armed_in_such_a_turn_wakes_the_sleeping_actor(
    autojump_clock: MockClock,
) -> None:
    async with stage(1) as s:
        await s.call(CreatePromise("far", FAR_MS))
        await settle()
        s.shards.submit(CreatePromise("near", EPOCH_MS + 1_500), None, CalledBack())
        s.shards.run_turn()
        s.writer.make_all_durable()
        await trio.sleep(2)
        kinds = [type(record).__name__ for record in s.writer.records()]
        assert kinds[-1] == "PromiseCompleted"


async def test_refusals_come_at_once_and_leave_nothing_behind() -> None:
    async with stage(1, mailbox_limit_count=1) as s:
        asker, refused = CalledBack(), CalledBack()
        s.shards.submit(CreatePromise("a", FAR_MS), None, asker)
        with pytest.raises(Overloaded):
            s.shards.submit(CreatePromise("b", FAR_MS), None, refused)
        s.shards.run_turn()
        s.writer.make_all_durable()
        assert len(asker.replies) == 1
        assert refused == CalledBack()
        await s.shards.stop()
        with pytest.raises(Stopping):
            s.shards.submit(ReadPromise("a"), None, refused)


async def ask_a_log_that_fails(asker: CalledBack, has_turn: bool) -> None:
    async with stage(1) as s:
        s.shards.submit(CreatePromise(id_in(0, 1, "a"), FAR_MS), None, asker)
        if has_turn:
            s.shards.run_turn()
        s.writer.fail()
        await trio.sleep_forever()


@pytest.mark.parametrize("has_turn", [True, False])
async def test_a_failing_log_refuses_those_who_are_called_back(has_turn: bool) -> None:
    asker = CalledBack()
    with pytest.raises(BaseExceptionGroup) as caught:
        await ask_a_log_that_fails(asker, has_turn)
    assert matching(caught.value, LogFailed)
    assert [type(error) for error in asker.errors] == [StorageFailed]
    assert asker.replies == []


async def test_a_note_that_nobody_waits_for_lies_until_somebody_asks(
    autojump_clock: MockClock,
) -> None:
    """A read that shows it has it written; one that shows what was before is answered."""
    tags = {"resonate:invoke": "poll://any@w"}
    async with stage(2) as s:
        known, asked = id_in(0, 2, "known"), id_in(1, 2, "asked")
        await s.call(CreatePromise(known, FAR_MS))
        await s.call(CreatePromise(asked, FAR_MS, tags=tags))
        await s.write_all()
        s.shards.tell(TaskSent(invoke_id(asked), 1))
        await settle()
        assert s.writer.waiting == []
        other, shown = CalledBack(), CalledBack()
        s.shards.submit(ReadPromise(known), None, other)
        s.shards.run_turn()
        assert [reply.code for reply in other.replies] == [Code.OK]
        assert s.writer.waiting == []
        began_s = trio.current_time()
        s.shards.submit(ReadPromise(asked), None, shown)
        s.shards.run_turn()
        assert shown.replies == []
        await settle()
        assert trio.current_time() == began_s
        assert [type(record) for record in s.writer.records()] == [TaskEnqueued]
        s.writer.make_all_durable()
        assert [reply.code for reply in shown.replies] == [Code.OK]


async def test_a_step_by_a_worker_is_written_in_three_batches(autojump_clock: MockClock) -> None:
    """The create, the claim with the note that the message was delivered, and the completion."""
    tags = {"resonate:invoke": "poll://any@w"}
    written_count: list[int] = []
    async with stage(1) as s:

        async def ask(command: Command, code: Code) -> None:
            asker = CalledBack()
            s.shards.submit(command, None, asker)
            s.shards.run_turn()
            written_count.append(len(s.writer.waiting))
            s.writer.make_all_durable()
            assert [reply.code for reply in asker.replies] == [code]

        await ask(CreatePromise("a", FAR_MS, tags=tags), Code.CREATED)
        assert s.outgoing.events[-1] == ("send", invoke_id("a"), 1)
        s.shards.tell(TaskSent(invoke_id("a"), 1))
        await settle()
        await ask(ClaimTask(invoke_id("a"), 1, "w", 60_000), Code.CREATED)
        await ask(CompletePromise("a", PromiseState.RESOLVED), Code.CREATED)
        await settle()
        assert written_count == [1, 1, 1]
        assert s.writer.waiting == []
        assert s.shards.statistics().committer.batches_count == 3
