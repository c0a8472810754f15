"""What is shown of receivers, and sending what waits for one, with delivery as a test says."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from troth.core.executions import RECEIVER_TYPE
from troth.core.grammar.addresses import Address, Undeliverable, resolve
from troth.core.model import Json
from troth.shards.delivery.polls import Polls
from troth.shards.delivery.shipments import UNDELIVERABLE, ReceiverView
from troth.shards.surveys.queues import RETRY_COUNT, Queues

from .stage import Stage, stage

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
