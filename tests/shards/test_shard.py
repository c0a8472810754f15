"""The actor: nothing leaves before it is durable (I1); everything that was taken is done (I3)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    Command,
    CompletePromise,
    CreateCallback,
    CreatePromise,
    CreateSubscription,
    DropTask,
    Expire,
    ReadPromise,
    TaskSent,
)
from troth.core.continuations import ContinueCompletions
from troth.core.decisions.table import DECISIONS
from troth.core.json_bytes import own_encoder_of_many
from troth.core.limits import TASK_CLAIM_TIMEOUT_MS
from troth.core.machine import Machine, Step
from troth.core.model import EMPTY_VALUE, Fence, PromiseState, replace
from troth.core.records import (
    MessageReceived,
    MessagesAcknowledged,
    PromiseCompleted,
    PromiseCreated,
    TaskEnqueued,
)
from troth.core.replies import Reply
from troth.persistence.errors import LogFailed
from troth.persistence.memory_reserve import RESERVE
from troth.shards import shard as shard_module
from troth.shards.committer import BatchWriter, Committer
from troth.shards.errors import Overloaded, StorageFailed

from .stage import (
    EPOCH_MS,
    FAR_MS,
    WORKER,
    Asked,
    CalledBack,
    ManualWriter,
    Outgoing,
    Stage,
    id_in,
    make_shards,
    matching,
    settle,
    stage,
)

RESOLVED = PromiseState.RESOLVED
READ: type[Command] = ReadPromise
COMPLETE: type[Command] = CompletePromise


def create(identifier: str, timeout: int = FAR_MS, receiver: str | None = None) -> CreatePromise:
    tags = None if receiver is None else {"resonate:invoke": receiver}
    return CreatePromise(identifier, timeout, tags=tags)


def complete(identifier: str) -> CompletePromise:
    return CompletePromise(identifier, RESOLVED)


# What leaves, and when


async def test_a_reply_leaves_when_its_record_is_durable() -> None:
    async with stage() as s:
        asked = s.ask(create("p"))
        await settle()
        assert len(s.writer.waiting) == 1
        assert not asked.is_done

        s.writer.make_durable()
        await settle()

        assert asked.reply is not None
        assert asked.reply.code is Code.CREATED


async def test_a_read_waits_for_what_it_shows() -> None:
    async with stage() as s:
        s.ask(create("p"))
        await settle()
        read = s.ask(ReadPromise("p"))
        await settle()
        assert not read.is_done

        s.writer.make_durable()
        await settle()

        assert read.reply is not None
        assert read.reply.promise is not None


async def test_a_read_waits_for_no_more_than_its_own_shard() -> None:
    quiet = id_in(1, 2, "quiet")
    async with stage(2) as s:
        await s.call(create(quiet))
        s.ask(create(id_in(0, 2, "busy")))
        await settle()
        read = s.ask(ReadPromise(quiet))
        await settle()

        assert len(s.writer.waiting) == 1
        assert read.reply is not None


async def test_replies_follow_their_batches() -> None:
    async with stage() as s:
        asked: list[Asked] = []
        for number in range(4):
            asked.append(s.ask(create(f"p{number}")))
            await settle()
        for durable_count in range(5):
            await settle()
            assert [one.is_done for one in asked] == [n < durable_count for n in range(4)]
            if s.writer.waiting:
                s.writer.make_durable()


async def test_the_next_turn_does_not_wait_for_the_disk() -> None:
    async with stage() as s:
        s.ask(create("p"))
        await settle()
        s.ask(complete("p"))
        await settle()

        assert len(s.writer.waiting) == 2


async def test_messages_leave_when_durable() -> None:
    async with stage() as s:
        s.ask(create("p", receiver=WORKER))
        await settle()
        assert s.outgoing.events == []

        s.writer.make_durable()
        await settle()

        assert s.outgoing.events == [("send", "__invoke:p", 1)]


async def test_withdrawals_leave_when_durable() -> None:
    async with stage() as s:
        await s.call(create("p", receiver=WORKER))
        s.ask(complete("p"))
        await settle()
        assert s.outgoing.events == [("send", "__invoke:p", 1)]

        s.writer.make_durable()
        await settle()

        assert s.outgoing.events[1:] == [("withdraw", "__invoke:p")]


async def test_a_message_that_a_later_step_of_its_turn_takes_back_is_withdrawn_after_it() -> None:
    async with stage() as s:
        s.shards.tell(create("p", receiver=WORKER))
        s.shards.tell(complete("p"))
        await settle()
        assert len(s.writer.waiting) == 1
        s.writer.make_durable()

        assert s.outgoing.events == [("send", "__invoke:p", 1), ("withdraw", "__invoke:p")]


async def test_other_shards_learn_at_once_and_acknowledge_when_durable() -> None:
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    async with stage(2) as s:
        await s.call(create(leaf))
        await s.call(create(root))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        s.ask(complete(leaf))
        await settle()

        assert [type(record) for record in s.writer.records()] == [
            PromiseCompleted,
            MessageReceived,
        ]
        s.writer.make_all_durable()
        await settle()
        assert s.writer.waiting == []  # nobody waits for that
        s.shards.committer.want()
        await settle()
        assert [type(record) for record in s.writer.records()] == [MessagesAcknowledged]


async def test_a_refusal_that_rests_on_another_shard_waits_for_its_records() -> None:
    worker, target = id_in(0, 2, "worker"), id_in(1, 2, "target")
    task = f"__invoke:{worker}"
    async with stage(2) as s:
        await s.call(create(worker, receiver=WORKER))
        await s.call(ClaimTask(task, 1, "pid", 60_000))
        s.ask(DropTask(task, 1))
        await settle()
        fenced = s.ask(CreatePromise(target, FAR_MS, fence=Fence(task, 1)))
        await settle()
        assert not fenced.is_done, "a crash now would bring the lease back"

        s.writer.make_durable()
        await settle()

        assert fenced.reply == Reply(Code.TASK_FENCED)


# Clients that go away


async def test_a_command_is_carried_out_without_its_client() -> None:
    async with stage() as s:
        asked = s.ask(create("p", receiver=WORKER))
        await settle()
        asked.scope.cancel()
        await s.write_all()

        assert not asked.is_done
        assert s.outgoing.events == [("send", "__invoke:p", 1)]
        assert (await s.call(ReadPromise("p"))).code is Code.OK


async def test_a_command_whose_client_left_before_its_turn_is_carried_out() -> None:
    async with stage() as s:
        with trio.move_on_after(0) as scope:
            await s.shards.ask(create("p"))
        assert scope.cancelled_caught
        await s.write_all()

        assert (await s.call(ReadPromise("p"))).code is Code.OK


# Limits


async def test_a_full_mailbox_refuses_and_nothing_happens() -> None:
    async with stage(mailbox_limit_count=2) as s:
        asked = [s.ask(create(f"p{number}")) for number in range(3)]
        await s.write_all()

        refused = [number for number, one in enumerate(asked) if one.error is not None]
        assert len(refused) == 1
        assert isinstance(asked[refused[0]].error, Overloaded)
        assert (await s.call(ReadPromise(f"p{refused[0]}"))).code is Code.PROMISE_NOT_FOUND
        assert s.shards.statistics().shards[0].refused_count == 1


async def test_internal_commands_and_those_of_clients_do_not_hinder_each_other() -> None:
    """However many internal ones wait, clients are not refused; nor the other way round."""
    async with stage(mailbox_limit_count=1) as s:
        await s.call(create("p", receiver=WORKER))
        for _ in range(5):
            s.shards.tell(TaskSent("__invoke:p", 1))
        s.shards.submit(create("q"), None, CalledBack())
        s.shards.tell(TaskSent("__invoke:p", 1))
        with pytest.raises(Overloaded):
            await s.shards.ask(create("r"))
        await settle()

        kinds = {type(record) for record in s.writer.records()}
        assert kinds == {PromiseCreated, TaskEnqueued}


async def test_shards_stop_taking_commands_while_the_log_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.shards.shard.LOG_PENDING_LIMIT_BYTES", 1)
    async with stage(4) as s:
        s.ask(create(id_in(0, 4, "first")))
        await settle()
        position = s.shards.committer.position
        later = [s.ask(create(id_in(index, 4, "later"))) for index in range(4)]
        await settle()
        assert s.shards.committer.position == position
        assert [shard.mailbox_count for shard in s.shards.statistics().shards] == [1, 1, 1, 1]

        await s.write_all()

        assert all(one.reply is not None for one in later)


# When things break


async def test_a_failed_log_ends_everything() -> None:
    outgoing = Outgoing()
    shards = make_shards(1, outgoing)
    writers: list[ManualWriter] = []

    def make_writer(committer: Committer) -> BatchWriter:
        writers.append(ManualWriter(committer))
        return writers[0]

    waiting: list[Asked] = []
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  the group comes at the end
        async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
            await nursery.start(partial(shards.run, make_writer))
            s = Stage(shards, outgoing, clients, writers[0])
            waiting.append(s.ask(create("waiting", receiver=WORKER)))
            await settle()
            waiting.append(s.ask(create("also waiting")))
            await settle()
            s.writer.fail()
            await trio.sleep_forever()

    assert len(matching(caught.value, LogFailed)) == 1
    assert [type(one.error) for one in waiting] == [StorageFailed, StorageFailed]
    assert outgoing.events == []
    with pytest.raises(StorageFailed):
        await shards.ask(ReadPromise("waiting"))
    with pytest.raises(StorageFailed):
        await shards.heartbeat_tasks("nobody")


class _DefectError(Exception):
    """What a bug of the machine would raise."""


async def test_a_defect_that_changed_nothing_costs_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(machine: Machine, command: ReadPromise, now_ms: int) -> Reply:
        raise _DefectError

    async with stage() as s:
        monkeypatch.setitem(DECISIONS, READ, broken)
        assert (await s.call(ReadPromise("p"))).code is Code.INTERNAL
        monkeypatch.undo()
        assert (await s.call(create("p"))).code is Code.CREATED


async def test_a_defect_that_left_records_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other shard has the message of the broken turn by then; it must not reach the disk."""
    real = DECISIONS[CompletePromise]

    def broken(machine: Machine, command: CompletePromise, now_ms: int) -> Reply:
        real(machine, command, now_ms)
        if command.id == second:
            raise _DefectError
        return Reply(Code.OK)

    leaf, second, root = id_in(0, 2, "leaf"), id_in(0, 2, "second"), id_in(1, 2, "root")
    outgoing = Outgoing()
    shards = make_shards(2, outgoing)
    writers: list[ManualWriter] = []

    def make_writer(committer: Committer) -> BatchWriter:
        writers.append(ManualWriter(committer))
        return writers[0]

    errors: list[Exception] = []

    async def ask_both() -> None:
        shards.tell(complete(leaf))
        try:
            await shards.ask(complete(second))
        except StorageFailed as error:
            errors.append(error)

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
            await nursery.start(partial(shards.run, make_writer))
            s = Stage(shards, outgoing, clients, writers[0])
            await s.call(create(leaf))
            await s.call(create(second))
            await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
            await s.write_all()
            monkeypatch.setitem(DECISIONS, COMPLETE, broken)
            clients.start_soon(ask_both)
            await trio.sleep_forever()

    assert len(matching(caught.value, _DefectError)) == 1
    assert len(errors) == 1
    assert writers[0].waiting == []
    assert len(writers[0].written) == 3


# Time


async def fire_time_ms(s: Stage, identifier: str) -> int:
    """When the notification about a promise went out."""
    events = zip(s.outgoing.events, s.outgoing.times_ms, strict=True)
    return next(time for event, time in events if event[1] == f"__notify:{identifier}:n")


async def watched(s: Stage, identifier: str, ends_at_ms: int) -> None:
    """Create a promise whose end sends a notification."""
    await s.shards.ask(create(identifier, ends_at_ms))
    await s.shards.ask(CreateSubscription(identifier, "n", FAR_MS, WORKER))


async def test_timers_fire_at_their_millisecond(autojump_clock: MockClock) -> None:
    async with stage(direct=True) as s:
        for delay_ms in (1, 570, 571, 9_999, 25_003, 79_999_001):
            await watched(s, f"p{delay_ms}", EPOCH_MS + delay_ms)
        await trio.sleep(80_000)

        for delay_ms in (1, 570, 571, 9_999, 25_003, 79_999_001):
            assert await fire_time_ms(s, f"p{delay_ms}") == EPOCH_MS + delay_ms
        assert s.shards.lateness.sum == 0


async def test_an_earlier_deadline_armed_later_is_honoured(autojump_clock: MockClock) -> None:
    async with stage(direct=True) as s:
        await watched(s, "late", EPOCH_MS + 8_000)
        await trio.sleep(1)
        await watched(s, "early", EPOCH_MS + 2_500)
        await trio.sleep(20)

        assert await fire_time_ms(s, "early") == EPOCH_MS + 2_500
        assert await fire_time_ms(s, "late") == EPOCH_MS + 8_000


async def test_a_shard_without_deadlines_sleeps(autojump_clock: MockClock) -> None:
    async with stage(direct=True) as s:
        await trio.sleep(1)
        before = s.shards.statistics().shards[0].turns_count
        await trio.sleep(80_000)

        assert s.shards.statistics().shards[0].turns_count == before


async def test_a_shard_with_a_far_deadline_looks_up_every_ten_seconds_only(
    autojump_clock: MockClock,
) -> None:
    """That often, because the wall clock may be set while the monotonic one runs on."""
    async with stage(direct=True) as s:
        await s.shards.ask(create("p", EPOCH_MS + 3_600_000))
        before = s.shards.statistics().shards[0].turns_count
        await trio.sleep(3_500)

        assert s.shards.statistics().shards[0].turns_count - before <= 3_500 / 10 + 5


# Messages that wait for an answer to be written


async def test_held_messages_wait_for_the_answer_even_across_shards() -> None:
    leaf, root = id_in(0, 2, "leaf"), id_in(1, 2, "root")
    async with stage(2) as s:
        await s.call(create(leaf))
        await s.call(create(root))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        held = s.held()
        asked = s.ask(CompletePromise(leaf, RESOLVED, EMPTY_VALUE), held)
        await s.write_all()
        assert asked.is_done
        assert s.outgoing.events == []

        held.release()

        assert s.outgoing.events == [("send", f"__resume:{root}:{leaf}", 1)]


async def test_a_held_message_is_not_sent_when_its_task_was_claimed_meanwhile() -> None:
    async with stage() as s:
        held = s.held()
        s.ask(create("p", receiver=WORKER), held)
        await s.write_all()
        reply = await s.call(ClaimTask("__invoke:p", 1, "pid", 60_000))
        assert reply.code is Code.CREATED

        held.release()

        assert [event for event in s.outgoing.events if event[0] == "send"] == []


async def test_an_answer_written_early_lets_messages_go_when_they_are_durable() -> None:
    async with stage() as s:
        held = s.held()
        s.ask(create("p", receiver=WORKER), held)
        await settle()
        held.release()
        assert s.outgoing.events == []

        await s.write_all()

        assert s.outgoing.events == [("send", "__invoke:p", 1)]


# Memory that runs out


@pytest.fixture
def reserve() -> Iterator[None]:
    """A reserve of memory that is there."""
    RESERVE.open(1 << 20, lambda: None)
    yield
    RESERVE.close()


def without_memory(real: Callable[..., Any], times_count: int) -> Callable[..., Any]:
    """Have a function run out of memory so many times."""
    left_count = times_count

    def act(*arguments: object) -> Any:
        nonlocal left_count
        if left_count:
            left_count -= 1
            raise MemoryError
        return real(*arguments)

    return act


async def test_a_command_that_changed_nothing_for_want_of_memory_is_overload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Machine, "carry_out", without_memory(Machine.carry_out, 1))
    async with stage() as s:
        asked = s.ask(create("p"))
        await settle()
        assert asked.reply is not None
        assert asked.reply.code is Code.OVERLOADED
        assert (await s.call(create("p"))).code is Code.CREATED


@pytest.mark.parametrize("kind", [TaskSent, Expire, ContinueCompletions])
async def test_the_servers_own_command_is_not_lost_for_want_of_memory(
    kind: type[Command], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Nobody would repeat it."""
    carry_out = Machine.carry_out
    missed: list[Command] = []

    def miss(machine: Machine, command: Command, now_ms: int) -> Step | Reply:
        if isinstance(command, kind) and not missed:
            missed.append(command)
            raise MemoryError
        return carry_out(machine, command, now_ms)

    monkeypatch.setattr(Machine, "carry_out", miss)
    async with stage() as s:
        machine = s.shards._shards[0].machine
        machine.options = replace(machine.options, completion_slice_count=1)
        await s.call(create("task", receiver=WORKER))
        s.shards.tell(TaskSent("__invoke:task", 1))
        await s.call(create("p", EPOCH_MS + 5_000))
        for name in ("first", "second"):
            await s.call(CreateSubscription("p", name, FAR_MS, WORKER))
        await trio.sleep(TASK_CLAIM_TIMEOUT_MS / 1000 + 1)
        await s.write_all()

    assert len(missed) == 1
    assert s.outgoing.events == [
        ("send", "__invoke:task", 1),
        ("send", "__notify:p:first", 1),
        ("send", "__notify:p:second", 1),
        ("send", "__invoke:task", 2),
    ]


async def test_a_record_is_encoded_with_the_reserve(
    monkeypatch: pytest.MonkeyPatch, reserve: None
) -> None:
    """The state has changed by then."""
    encode_each = without_memory(own_encoder_of_many(), 1)
    monkeypatch.setattr(shard_module, "own_encoder_of_many", lambda: encode_each)
    async with stage() as s:
        asked = s.ask(create("p"))
        await settle()
        s.writer.make_all_durable()
        await settle()
        assert asked.reply is not None
        assert asked.reply.code is Code.CREATED
        assert RESERVE.is_given_away
