"""Which requests the hot lane serves, derived from the table of endpoints, and its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from troth.http.api.rows import Endpoint

LANE_GROUPS: Final = frozenset(
    {
        *("Promises", "Tasks", "Schedules", "Locks", "Function tasks", "Node work"),
        *("Envelope protocol", "Questions", "Bulk jobs", "Sessions"),
    }
)
"""Groups of endpoints that answer in one piece, most of them with what the shards say.

In the other groups only what is read as JSON is served here: by the web UI, on the connections that
have its stream of events, and by programs that watch a server.
"""

LANE_PAGES: Final = frozenset({"ui", "uiStart", "start"})
"""The web UI's pages and files, with which a browser's connections begin."""

LANE_FEEDS: Final = frozenset({"events", "streamWork"})
"""Endpoints whose answers are streams, too, in groups that the lane does not serve."""

STREAM_GROUPS: Final = frozenset({"Workers"})
"""Groups whose answers are streams that the lane can write: `requests.ReadyStream`."""

_OTHERS: Final = frozenset({"openapi"})
"""Long documents, which clients seldom ask for."""


def is_served(row: Endpoint) -> bool:
    """Return whether the lane serves the requests of a row."""
    if row.group in LANE_GROUPS or row.name in LANE_PAGES or may_be_stream(row):
        return True
    is_json = all(success.media_type == "application/json" for success in row.successes)
    return row.method == "GET" and is_json and row.name not in _OTHERS


def may_be_stream(row: Endpoint) -> bool:
    """Return whether the lane answers with a stream, which needs chunks: HTTP/1.0 has none."""
    return row.group in STREAM_GROUPS or row.name in LANE_FEEDS


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Connections on the lane now, and totals since the start."""

    connections_count: int
    passes_total_count: int
    requests_total_count: int
    handed_over_total_count: int
    failed_total_count: int
    handed_over_by_reason: Mapping[str, int]
