"""Surveys of shards, with delivery, streams and placement as a test says."""

from tests.shards.test_causes import Places, Sendings
from troth.core.commands import CompletePromise
from troth.core.model import RESOLVED
from troth.shards.delivery.polls import Polls
from troth.shards.shards import Shards
from troth.shards.surveys.surveys import Surveys


def surveys_of(shards: Shards, sendings: Sendings | None = None) -> Surveys:
    """Return surveys of shards that no worker listens to."""
    return Surveys(
        shards,
        sendings or Sendings(),
        Polls(connections_limit_count=9, buffer_limit_count=9),
        Places(),
        shards.clock.now_ms,
    )


async def resolve(shards: Shards, *promise_ids: str) -> None:
    """Resolve promises."""
    for promise_id in promise_ids:
        assert (await shards.ask(CompletePromise(promise_id, RESOLVED))).code.status < 300
