"""Where the metrics of a server come from: each group and the part of the server that it reads."""

import platform
from collections.abc import Callable
from typing import Final

from troth import __version__
from troth.http.api.context import Api, Readiness
from troth.http.identity.credentials import TokenState
from troth.http.metrics.loop_lag import LoopLag
from troth.http.overview.upkeep import disk_space
from troth.shards.shards import Shards
from troth.shards.storage import Storage
from troth.shards.surveys.pace import Pace
from troth.shards.surveys.totals import RunningTotals, ShardTotals, each
from troth.shards.threads import in_thread

from .process_metrics import SERVER, ServerReading
from .state_metrics import EACH_SHARD, FAILURES, SHARDS, TIMERS
from .storage_metrics import LOG, LogReading
from .traffic_metrics import ATTEMPTS, IN_FLIGHT, POLLS, QUEUES, STREAMS
from .work_metrics import WORK

EXPIRING_MS: Final = 7 * 24 * 3600 * 1000
"""How long before its end a token counts as expiring."""


def add_sources(api: Api, shards: Shards, storage: Storage, lag: LoopLag) -> None:
    """Add what every server has."""
    metrics = api.metrics
    totals = RunningTotals(shards)

    async def all_shards() -> ShardTotals:
        return await totals.add_up(Pace())

    async def each_shard() -> list[tuple[str, ShardTotals]]:
        return await each(shards, Pace())

    def streams() -> dict[str, int]:
        events_count = 0 if api.feed is None else api.feed.streams_count
        return {"workers": api.polls.statistics().connections_count, "events": events_count}

    async def log() -> LogReading:
        space = await in_thread(_space(storage))
        return LogReading(storage.statistics(), shards.committer.statistics(), *space)

    def server() -> ServerReading:
        return ServerReading(
            version=__version__,
            python=platform.python_version(),
            is_ready=api.readiness is Readiness.READY,
            started_s=api.started_on_ms / 1000,
            loop_lag_s=lag.lag_s,
            tokens_expiring_count=expiring_count(api),
            sessions_count=len(api.credentials.sessions),
        )

    metrics.add(SERVER, server)
    if api.settings.metrics_per_shard:
        metrics.add(EACH_SHARD, each_shard)
    else:
        metrics.add(SHARDS, all_shards)
    metrics.add(TIMERS, lambda: shards.lateness)
    metrics.add(WORK, lambda: shards.activity)
    metrics.add(STREAMS, streams)
    metrics.add(FAILURES, lambda: shards.failures)
    metrics.add(LOG, log)
    metrics.add(POLLS, api.polls.statistics)
    if api.queues is not None:
        metrics.add(QUEUES, api.queues.metered)
        shards.activity.label_of = api.queues.label_of
    metrics.add(IN_FLIGHT, api.in_flight.statistics)
    metrics.add(ATTEMPTS, api.credentials.attempts.statistics)


def expiring_count(api: Api) -> int:
    """Return how many tokens work now and expire within seven days."""
    credentials = api.credentials
    until_ms = api.now_ms() + EXPIRING_MS
    return sum(
        token.expires_on is not None
        and token.expires_on <= until_ms
        and credentials.state_of(token) is TokenState.ACTIVE
        for token in credentials.tokens()
    )


def _space(storage: Storage) -> Callable[[], tuple[int, int]]:
    """Return what says how much space is free for the log, and how large its disk is, in bytes.

    Both are 0 if nothing is kept on disk.
    """
    if storage.directory is None:
        return lambda: (0, 0)
    place = str(storage.directory)
    return lambda: disk_space(place)
