"""Streams that the server ends by itself before some clients go deaf (envelope.md 7.2)."""

import math

import pytest
import trio
from trio.testing import MockClock

from tests.shards.test_polls import Text, make
from troth.http.api.streams import CONNECTED, KEEP_ALIVE, PollStream
from troth.shards.delivery.dialects import Dialect

LIMIT_S = 240.0
KEEP_ALIVE_MS = 15_000


@pytest.mark.parametrize("dialect", [None, Dialect.ENVELOPE])
async def test_a_stream_that_waits_ends_in_time(
    dialect: Dialect | None, autojump_clock: MockClock
) -> None:
    polls, _ = make(buffer=5)
    stream = PollStream(polls.connect("g", "a", dialect), KEEP_ALIVE_MS, LIMIT_S)
    began = trio.current_time()

    chunks = []
    while (chunk := await stream.next_chunk()) is not None:
        chunks.append(chunk)

    assert trio.current_time() - began == pytest.approx(LIMIT_S)
    assert set(chunks) == {CONNECTED, KEEP_ALIVE}


async def test_a_stream_on_the_lane_ends_in_time(autojump_clock: MockClock) -> None:
    polls, listener = make(buffer=5)
    stream = PollStream(polls.connect("g", "a"), KEEP_ALIVE_MS, LIMIT_S)
    assert stream.next_now(trio.current_time()) == CONNECTED
    await trio.sleep(LIMIT_S - 1)
    assert stream.next_now(trio.current_time()) == KEEP_ALIVE
    assert not stream.is_due(trio.current_time())
    await trio.sleep(1)
    assert stream.is_due(trio.current_time())
    unsent = Text("unsent")
    polls.put(unsent, "g", None, exact=False)

    assert stream.next_now(trio.current_time()) is None
    # What it had not written goes out on another.
    stream.close()
    assert listener.returned_items == [unsent]


@pytest.mark.parametrize("limit_s", [LIMIT_S, math.inf])
async def test_a_worker_of_the_rest_api_keeps_its_stream(
    limit_s: float, autojump_clock: MockClock
) -> None:
    polls, _ = make(buffer=5)
    stream = PollStream(polls.connect("g", "a", Dialect.REST), KEEP_ALIVE_MS, limit_s)
    for _ in range(100):
        assert await stream.next_chunk() is not None

    assert trio.current_time() > 4 * LIMIT_S
