"""What is shown of receivers, and sending what waits for one, with delivery as a test says."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from troth.core.commands import ClaimTask, CompletePromise, CreatePromise, ReadPromise
from troth.core.executions import RECEIVER_TYPE
from troth.core.grammar import task_ids
from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.model import EMPTY_VALUE, RESOLVED, Json
from troth.core.replies import UnblockMessage
from troth.core.workflow_commands import AcquireWorkflow, EnsurePromise
from troth.core.workflows import execute_key
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import UNDELIVERABLE, ReceiverView, key_of
from troth.shards.surveys.pace import Pace
from troth.shards.surveys.queues import RETRY_COUNT, Queues

from .stage import EPOCH_MS, FAR_MS, WORKER, Stage, stage

PUSH = "http://worker.test/"


@dataclass
class Waiting:
    """Delivery with what a test says; `again` are the answers to `retry_receiver`, in order."""

    views: list[ReceiverView]
    again: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def receivers(self) -> Iterator[ReceiverView]:
        return iter(self.views)

    def retry_receiver(self, receiver: str, limit_count: int) -> int:
        assert limit_count == RETRY_COUNT
        self.asked.append(receiver)
        return self.again.pop(0)

    def resolve(self, receiver: Json) -> Address | Undeliverable:
        return resolve(receiver, {})


def view(target: str, stalled_count: int, next_try_s: float | None = None) -> ReceiverView:
    """Some that is stalled."""
    return ReceiverView(target, 0, 0, stalled_count, 0, None, "failing", 7, "refused", next_try_s)


def group(waiting_count: int, in_flight_count: int, sent_count: int) -> ReceiverView:
    """A poll group of which nothing is stalled."""
    return ReceiverView(
        "poll://g", waiting_count, in_flight_count, 0, sent_count, None, None, None, None, None
    )


def queues_of(s: Stage, waiting: Waiting) -> Queues:
    """The receivers, none of them a group."""
    return Queues(s.shards, Polls(connections_limit_count=1, buffer_limit_count=1), waiting)


async def test_all_that_is_stalled_for_a_receiver_is_sent_in_slices(mock_clock: MockClock) -> None:
    async with stage(1, direct=True) as s:
        stalled = [view(PUSH, RETRY_COUNT), view("http://other.test/", 9), view(PUSH, 5)]
        waiting = Waiting(stalled, [RETRY_COUNT, 5])
        assert await queues_of(s, waiting).retry(PUSH) == RETRY_COUNT + 5
        assert waiting.asked == [PUSH, PUSH]

        # What fails again in the meantime is not tried for ever.
        waiting = Waiting(stalled[:1], [RETRY_COUNT, RETRY_COUNT])
        assert await queues_of(s, waiting).retry(PUSH) == RETRY_COUNT
        assert waiting.asked == [PUSH]

        waiting = Waiting([], [0])
        assert await queues_of(s, waiting).retry(PUSH) == 0


async def test_a_receiver_that_fails_says_why_and_when_it_is_tried_next(
    mock_clock: MockClock,
) -> None:
    async with stage(1, direct=True) as s:
        now_s = trio.current_time()
        views = [view(PUSH, 1, now_s + 9), view(PUSH, 2, now_s + 3), view("", 4)]
        page = await queues_of(s, Waiting(views)).longest(10)
        nowhere, push = page.rows
        assert (nowhere.receiver, nowhere.health, nowhere.stalled_count) == (
            UNDELIVERABLE,
            UNDELIVERABLE,
            4,
        )
        assert nowhere.next_try is None
        assert (push.receiver, push.health, push.stalled_count) == (PUSH, "failing", 3)
        assert (push.failing_since, push.last_error) == (7, "refused")
        assert push.next_try is not None
        assert 0 <= push.next_try - s.shards.clock.now_ms() <= 3_000


async def test_what_metrics_call_a_receiver(mock_clock: MockClock) -> None:
    async with stage(1, direct=True) as s:
        queues = queues_of(s, Waiting([]))
        assert queues.label_of({"type": RECEIVER_TYPE}) == "functions"
        assert queues.label_of(7) == "other"
        assert queues.label_of("poll://any@g/x") == "poll://g"


async def test_streams_of_workers_come_in_pages_with_what_their_processes_hold(
    mock_clock: MockClock,
) -> None:
    async with stage(2, direct=True) as s:
        polls = Polls(connections_limit_count=9, buffer_limit_count=1)
        for group, worker in (("b", "w2"), ("a", "w1"), ("a", "w3"), ("x", "w1")):
            polls.connect(group, worker)
        queues = Queues(s.shards, polls, Waiting([]))
        for name in ("one", "two"):
            await s.shards.ask(CreatePromise(name, FAR_MS, tags={"resonate:invoke": WORKER}))
            await s.shards.ask(ClaimTask(task_ids.invoke_id(name), 1, "w1", 60_000))
        await s.shards.ask(
            EnsurePromise("flow", FAR_MS, EMPTY_VALUE, {"resonate:target": "poll://any@b"})
        )
        await s.shards.ask(AcquireWorkflow("flow", 0, "w2", 60_000))

        rows, has_more = await queues.workers(2, None)
        assert [(row.group, row.id, row.leases_count) for row in rows] == [
            ("a", "w1", 2),
            ("a", "w3", 0),
        ]
        assert has_more
        rows, has_more = await queues.workers(2, ("a", "w3"))
        assert [(row.group, row.id, row.leases_count) for row in rows] == [
            ("b", "w2", 1),
            ("x", "w1", 2),
        ]
        assert not has_more
        assert [row.group for row in (await queues.workers(9, None, "b"))[0]] == ["b"]
        assert await queues.workers(9, None, "c") == ([], False)


async def test_leases_are_unknown_where_a_look_at_all_takes_too_long(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(1, direct=True) as s:
        await s.shards.ask(
            EnsurePromise("flow", FAR_MS, EMPTY_VALUE, {"resonate:target": "poll://any@b"})
        )
        polls = Polls(connections_limit_count=9, buffer_limit_count=1)
        polls.connect("b", "w")
        monkeypatch.setattr(Pace, "is_spent", True)
        (row,), _ = await Queues(s.shards, polls, Waiting([])).workers(2, None)
        assert row.leases_count is None


async def test_rates_count_what_was_delivered_and_what_has_come_since(
    mock_clock: MockClock,
) -> None:
    async with stage(1, direct=True) as s:
        waiting = Waiting([group(4, 1, 10), view(PUSH, 2)])
        queues = queues_of(s, waiting)
        assert await queues.sample(1) == {"poll://g": 5}
        (before,) = [row for row in (await queues.longest(9)).rows if row.receiver == "poll://g"]
        assert (before.rate_in, before.rate_out) == (None, None)
        mock_clock.jump(2)
        waiting.views = [group(6, 1, 16)]
        assert await queues.sample(9) == {"poll://g": 7}
        (row,) = (await queues.longest(9)).rows
        assert row.rate_out == pytest.approx(3, rel=0.1)
        assert row.rate_in == pytest.approx(4, rel=0.1)
        labels = {one.label: one for one in queues.metered()}
        assert labels["poll://g"].waiting_count == 6
        assert labels[PUSH].stalled_count == 0  # it was there, and is remembered

        # A group that has come again counts from 0.
        mock_clock.jump(2)
        waiting.views = [group(7, 0, 2)]
        await queues.sample(9)
        (row,) = (await queues.longest(9)).rows
        assert row.rate_out == pytest.approx(1, rel=0.1)


async def test_very_many_receivers_are_cut_and_the_page_says_so(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups that workers listen to come first; a token with a prefix sees those that begin so."""
    monkeypatch.setattr("troth.shards.surveys.queues.RECEIVERS_LIMIT_COUNT", 5)
    async with stage(1, direct=True) as s:
        polls = Polls(connections_limit_count=9, buffer_limit_count=1)
        for group in ("a/1", "a/2", "b"):
            polls.connect(group, "w")
        polls.connect("b", "w2")
        waiting = Waiting([view(f"http://{number}.test/", 1) for number in range(9)])
        queues = Queues(s.shards, polls, waiting)
        whole, of_a = await queues.longest_of_each(9, ("", "a/"))
        assert (whole.total_count, whole.is_complete) == (5, False)
        workers = {row.receiver: row.workers_count for row in whole.rows}
        assert (workers["poll://a/1"], workers["poll://b"]) == (1, 2)
        assert {row.health for row in whole.rows if row.workers_count} == {"good"}
        assert [row.receiver for row in of_a.rows] == ["poll://a/1", "poll://a/2"]
        waiting.views = waiting.views[:2]
        assert (await queues.longest(9)).is_complete


async def test_since_when_there_is_something_to_send(mock_clock: MockClock) -> None:
    """A task since it was made, a workflow since its promise was, news since the completion."""
    async with stage(2, direct=True) as s:
        await s.shards.ask(CreatePromise("rest", FAR_MS, tags={"resonate:invoke": WORKER}))
        mock_clock.jump(1)
        await s.shards.ask(EnsurePromise("flow", FAR_MS, EMPTY_VALUE, {"resonate:target": WORKER}))
        await s.shards.ask(CreatePromise("p", FAR_MS))
        mock_clock.jump(1)
        await s.shards.ask(CompletePromise("p", RESOLVED))
        queues = queues_of(s, Waiting([]))
        task, flow = task_ids.invoke_id("rest"), execute_key("flow")
        news = key_of(UnblockMessage((await s.shards.ask(ReadPromise("p"))).promise, "poll://g"))  # type: ignore[arg-type]
        gone = [task_ids.invoke_id("gone"), execute_key("gone"), "no task's id"]
        assert queues.ages([task, flow, news, *gone]) == {
            task: EPOCH_MS,
            flow: EPOCH_MS + 1_000,
            news: EPOCH_MS + 2_000,
        }
