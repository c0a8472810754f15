"""The list of workers' streams while some of them end: it ends where the streams do."""

import pytest

from tests.shards.test_polls import Listener
from troth.shards.delivery.polls import PollConnection, Polls
from troth.shards.surveys import workers
from troth.shards.surveys.pace import Pace

NAMES = [f"w{number}" for number in range(10)]


def connected() -> tuple[Polls, dict[str, PollConnection]]:
    """Ten streams of one group, by their ids."""
    polls = Polls(connections_limit_count=100, buffer_limit_count=10)
    polls.attach(Listener())
    return polls, {name: polls.connect("default", name, None) for name in NAMES}


@pytest.mark.parametrize("ending", [("w0",), ("w1", "w2"), ("w0", "w1", "w2"), ("w9",), NAMES])
@pytest.mark.parametrize("limit_count", [1, 3, 100])
async def test_streams_that_end_while_a_page_is_made_do_not_end_the_list(
    ending: tuple[str, ...], limit_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a page that others follow shorter: what joins pages would go past what it lacks."""
    polls, streams = connected()
    left = list(ending)

    async def end(_: Pace) -> None:
        while left:
            with streams.pop(left.pop()):
                pass

    monkeypatch.setattr(Pace, "rest", end)
    found: list[str] = []
    after, has_more = None, True
    while has_more:
        rows, has_more = await workers.streams(polls, limit_count, after, "", Pace())
        assert len(rows) == limit_count or not has_more
        found += [row.id for row in rows]
        after = ("default", found[-1]) if found else None
    assert found == [name for name in NAMES if name not in ending]
