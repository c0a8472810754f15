"""What tracing keeps: nothing of what has ended, little of what the collector does not take."""

from collections.abc import Sequence

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from trio.testing import MockClock

from troth.core.commands import ClaimTask, CreatePromise
from troth.http.tracing.exporter import CountingExporter
from troth.http.tracing.spans import FinishedSpan, SpanKind, SpanQueue
from troth.http.wire.decoding import NO_HEADERS
from troth.http.wire.requests import Request

from .test_lifetimes import CREATION, TRACE, complete, create
from .world import START_MS, TracedWorld

LIMIT_COUNT = 4


class OneRoute:
    """The row of the endpoint table for `POST /promises`."""

    name, group, method, path = "createPromise", "Promises", "POST", "/promises"
    public = auth_in_body = False
    reads_raw = frozenset({b"traceparent"})


class DeadCollector(SpanExporter):
    """An exporter whose collector does not answer, or breaks it."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        """Fail."""
        if self._raises:
            raise OSError("the collector is gone")
        return SpanExportResult.FAILURE


def span() -> FinishedSpan:
    assert CREATION is not None
    return FinishedSpan(CREATION, None, SpanKind.INTERNAL, 1, 2, lambda: ("a", {}))


@pytest.mark.parametrize("raises", [False, True])
def test_spans_that_no_collector_takes_make_room_for_others(*, raises: bool) -> None:
    queue = SpanQueue(LIMIT_COUNT)
    exporter = CountingExporter(DeadCollector(raises=raises), queue)
    for round_number in range(1, 4):
        for _ in range(LIMIT_COUNT + 1):
            queue.add(span())
        taken = queue.take(queue.count)
        assert len(taken) == LIMIT_COUNT, f"round {round_number}"
        exporter.export([ReadableSpan(one.describe()[0]) for one in taken])
    assert queue.under_way_count == 0
    assert queue.statistics().spans == {"sent": 0, "failed": 12, "dropped": 3}


def test_nothing_is_kept_of_what_has_ended() -> None:
    """Of requests, of messages, of attempts."""
    world = TracedWorld()
    headers = {b"traceparent": TRACE.traceparent.encode()}
    request = Request("POST", b"/promises", b"", headers)
    body = CreatePromise("p", START_MS)
    world.requests.begin(request, OneRoute(), NO_HEADERS, {}, body)
    create(world)
    world.requests.note(request, 201, 0.01)
    world.report()
    world.step(ClaimTask("__invoke:p", 1, "w1", 1_000))
    complete(world)

    assert [name for name, _, _ in world.spans()] == [
        *("POST /promises", "send poll://g", "attempt", "promise pay")
    ]
    lifetimes, sendings = world.tracing._lifetimes, world.tracing._sendings
    assert lifetimes is not None
    assert sendings is not None
    kept = [world.requests._waiting, lifetimes._attempts, lifetimes._keys_of]
    assert [*kept, sendings._under_way, sendings._sent] == [{}] * 5


async def test_spans_leave_only_when_what_they_tell_of_is_durable(
    autojump_clock: MockClock,
) -> None:
    world = TracedWorld()
    is_durable = False

    async def durable() -> bool:
        await trio.lowlevel.checkpoint()
        return is_durable

    async with trio.open_nursery() as nursery:
        await nursery.start(world.tracing.run, durable)
        create(world, tags=None)
        complete(world)
        await trio.sleep(1)
        assert world.exporter.given == []
        is_durable = True
        await trio.sleep(1)
        assert len(world.exporter.given) == 1
        nursery.cancel_scope.cancel()
