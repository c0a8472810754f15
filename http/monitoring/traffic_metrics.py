"""Metrics of what comes and goes: connections, the hot lane, streams, messages to workers."""

from collections.abc import Mapping
from typing import Any, Final

from troth.http.identity.attempts import AttemptsStatistics
from troth.http.metrics.families import Family, Group, MetricKind, counter, gauge
from troth.http.sockets.connection_room import ConnectionRoomStatistics
from troth.http.sockets.departures import REASONS
from troth.http.sockets.lane_served import LaneStatistics
from troth.http.sockets.listener import ListenerStatistics
from troth.http.sockets.slow_gate import SlowGateStatistics
from troth.http.web.feed import FeedStatistics
from troth.http.wire.in_flight import InFlightStatistics
from troth.shards.delivery.polls import PollsStatistics
from troth.shards.delivery.shipments import DeliveryStatistics
from troth.shards.surveys.queues import MeteredQueue


def _each(name: str, text: str, field: str, kind: MetricKind) -> Family[Mapping[str, Any]]:
    """Describe a number that each port has, or the lane of each port."""
    return Family(
        name,
        kind,
        text,
        lambda ports: {port: getattr(one, field) for port, one in ports.items()},
        ("port",),
    )


PORTS: Final[Group[Mapping[str, ListenerStatistics]]] = Group(
    "Ports",
    (
        _each("troth_http_connections", "Open connections.", "connections_count", MetricKind.GAUGE),
        _each(
            "troth_http_connections_limit",
            "Connections a port takes. At the limit idle ones are closed, then new ones.",
            "connections_limit_count",
            MetricKind.GAUGE,
        ),
        _each(
            "troth_http_connections_accepted_total",
            "Connections accepted.",
            "accepted_total_count",
            MetricKind.COUNTER,
        ),
        _each(
            "troth_http_connections_refused_total",
            "Connections refused for want of room.",
            "refused_total_count",
            MetricKind.COUNTER,
        ),
        _each(
            "troth_http_connections_failed_total",
            "Connections that a defect ended. The server's log has each: please report it.",
            "failed_total_count",
            MetricKind.COUNTER,
        ),
    ),
)

LANES: Final[Group[Mapping[str, LaneStatistics]]] = Group(
    "Hot lane",
    (
        _each(
            "troth_lane_connections",
            "Connections on the hot lane.",
            "connections_count",
            MetricKind.GAUGE,
        ),
        _each(
            "troth_lane_passes_total",
            "Wake-ups of the hot lane.",
            "passes_total_count",
            MetricKind.COUNTER,
        ),
        _each(
            "troth_lane_requests_total",
            "Requests served on the hot lane.",
            "requests_total_count",
            MetricKind.COUNTER,
        ),
        _each(
            "troth_lane_handed_over_total",
            "Connections that left the hot lane for good, for a request that it does not "
            "serve. Many mean that clients pay for the slow way.",
            "handed_over_total_count",
            MetricKind.COUNTER,
        ),
        counter(
            "troth_lane_departures_total",
            "The same connections by what took them off the lane: "
            + "; ".join(f"`{reason}`, {meaning}" for reason, meaning in REASONS.items())
            + ".",
            lambda ports: {
                (port, reason): count
                for port, one in ports.items()
                for reason, count in one.handed_over_by_reason.items()
            },
            *("port", "reason"),
        ),
        _each(
            "troth_lane_failed_total",
            "Connections that a defect ended. The server's log has each: please report it.",
            "failed_total_count",
            MetricKind.COUNTER,
        ),
    ),
)

ROOM: Final[Group[ConnectionRoomStatistics]] = Group(
    "Connections",
    (
        gauge(
            "troth_connection_addresses",
            "Addresses that are connected.",
            lambda room: room.addresses_count,
        ),
        counter(
            "troth_connections_shed_total",
            "Idle connections closed to make room for others.",
            lambda room: room.shed_total_count,
        ),
    ),
)

GATE: Final[Group[SlowGateStatistics]] = Group(
    "Away from the hot lane",
    (
        gauge(
            "troth_slow_requests",
            "Requests being served away from the hot lane.",
            lambda gate: gate.in_work_count,
        ),
        gauge(
            "troth_slow_requests_waiting",
            "Requests that wait to be served away from the hot lane.",
            lambda gate: gate.waiting_count,
        ),
        counter(
            "troth_slow_requests_total",
            "Requests served away from the hot lane.",
            lambda gate: gate.entered_total_count,
        ),
    ),
)

IN_FLIGHT: Final[Group[InFlightStatistics]] = Group(
    "Memory in flight",
    (
        gauge(
            "troth_in_flight_bytes",
            "Memory of large bodies and answers on their way.",
            lambda in_flight: in_flight.held_bytes,
        ),
        gauge(
            "troth_in_flight_limit_bytes",
            "What they may take together.",
            lambda in_flight: in_flight.limit_bytes,
        ),
        counter(
            "troth_in_flight_refused_total",
            "Large bodies refused for want of memory. Clients got 503.",
            lambda in_flight: in_flight.refused_total_count,
        ),
        counter(
            "troth_in_flight_evicted_total",
            "Connections cut because they kept memory and made no progress.",
            lambda in_flight: in_flight.evicted_total_count,
        ),
    ),
)

ATTEMPTS: Final[Group[AttemptsStatistics]] = Group(
    "Credentials",
    (
        counter(
            "troth_auth_failures_total",
            "Wrong credentials (`wrong`), and requests refused since their address had too many "
            "(`blocked`). More than one a second is an attack, or a token that was rotated.",
            lambda attempts: {
                "wrong": attempts.counted_total_count,
                "blocked": attempts.refused_total_count,
            },
            "reason",
        ),
        gauge(
            "troth_auth_failing_addresses",
            "Addresses with wrong credentials lately.",
            lambda attempts: attempts.addresses_count,
        ),
    ),
)

STREAMS: Final[Group[Mapping[str, int]]] = Group(
    "Streams",
    (
        gauge(
            "troth_http_streams",
            "Open streams, of workers that listen (`workers`) and of `GET /events`, as web UIs "
            "have them (`events`). None of workers means that nothing is done.",
            lambda streams: streams,
            "kind",
        ),
    ),
)

POLLS: Final[Group[PollsStatistics]] = Group(
    "Workers' streams",
    (
        gauge(
            "troth_worker_streams_limit",
            "Streams of workers that there may be.",
            lambda polls: polls.connections_limit_count,
        ),
        gauge(
            "troth_worker_groups",
            "Groups that workers have connected to.",
            lambda polls: polls.groups_count,
        ),
        gauge(
            "troth_worker_messages_buffered",
            "Messages that wait for a stream's socket. Many mean slow workers.",
            lambda polls: polls.buffered_count,
        ),
        counter(
            "troth_worker_streams_opened_total",
            "Streams opened by workers.",
            lambda polls: polls.connected_total_count,
        ),
        counter(
            "troth_worker_streams_replaced_total",
            "Streams ended by a newer one with the same id. Many mean that workers share ids.",
            lambda polls: polls.replaced_total_count,
        ),
        counter(
            "troth_worker_streams_refused_total",
            "Streams refused for want of room.",
            lambda polls: polls.refused_total_count,
        ),
        counter(
            "troth_worker_messages_delivered_total",
            "Messages that streams have taken.",
            lambda polls: polls.delivered_total_count,
        ),
        counter(
            "troth_worker_messages_returned_total",
            "Messages that came back from streams that ended before they took them.",
            lambda polls: polls.returned_total_count,
        ),
    ),
)

DELIVERY: Final[Group[DeliveryStatistics]] = Group(
    "Messages",
    (
        counter(
            "troth_messages_total",
            "Messages to workers that listen (`poll`) or are called (`push`), by result: `sent`, "
            "`failed` (tried again later), `retried`, `withdrawn` (not wanted any more); and, of "
            "the kind `none`, those with an address that does not exist (`undeliverable`).",
            lambda delivery: {
                **delivery.by_kind,
                ("none", "undeliverable"): delivery.undeliverable_total_count,
            },
            "kind",
            "result",
        ),
        gauge(
            "troth_push_in_flight",
            "Messages being pushed over HTTP.",
            lambda delivery: delivery.in_flight_count,
        ),
        gauge(
            "troth_push_receivers",
            "Receivers that messages are pushed to.",
            lambda delivery: delivery.push_targets_count,
        ),
        gauge(
            "troth_push_receivers_failing",
            "Receivers that fail and are tried only now and then.",
            lambda delivery: delivery.push_targets_open_count,
        ),
        counter(
            "troth_push_given_up_total",
            "Pushes given up because they took too long.",
            lambda delivery: delivery.push_given_up_total_count,
        ),
    ),
)


def _queue(name: str, text: str, field: str) -> Family[tuple[MeteredQueue, ...]]:
    return gauge(
        name,
        f"{text} Looked at every 10 s; the first 20 receivers since the start, and `other`.",
        lambda queues: {one.label: getattr(one, field) for one in queues},
        "receiver",
    )


QUEUES: Final[Group[tuple[MeteredQueue, ...]]] = Group(
    "Receivers",
    (
        _queue(
            "troth_queue_waiting",
            "Messages that wait for a receiver. Without workers they wait forever.",
            "waiting_count",
        ),
        _queue("troth_queue_in_flight", "Messages on their way to a receiver.", "in_flight_count"),
        _queue(
            "troth_queue_stalled",
            "Messages that could not be delivered and are tried again later.",
            "stalled_count",
        ),
        _queue("troth_queue_oldest_age_seconds", "Age of the oldest of these.", "oldest_age_s"),
        _queue("troth_queue_workers", "Workers that listen.", "workers_count"),
        _queue("troth_queue_failing", "1 while pushes to a receiver fail.", "failing"),
        _queue(
            "troth_queue_failing_since_timestamp_seconds",
            "Since when pushes to a receiver fail; 0 if they do not.",
            "failing_since_s",
        ),
    ),
)

FEED: Final[Group[FeedStatistics]] = Group(
    "Events",
    (
        gauge("troth_event_watched_ids", "Ids that these watch.", lambda feed: feed.watched_count),
        counter("troth_events_total", "Events told.", lambda feed: feed.events_total_count),
        counter(
            "troth_events_skipped_total",
            "Events that slow streams did not get.",
            lambda feed: feed.skipped_total_count,
        ),
    ),
)
