"""The stream of orders to a node, as server-sent events: `data: <json>` each.

It ends when a newer stream of the same node comes, when the node is deleted, when the server stops,
or (`streams.limited`) when the token that opened it stops working. A comment is sent immediately,
and after each keep-alive time of silence. An order counts as sent when the socket has taken it:
when the next chunk is asked for.
"""

from collections.abc import Callable
from typing import Final

import orjson

from troth.core.limits import NODE_HEARTBEAT_MS, NODE_LEASE_MS
from troth.http.api.streams import ReadyEventStream
from troth.http.settings.settings import Settings
from troth.shards.placement.executions import PlacedExecution
from troth.shards.placement.node_connections import (
    ConnectionEnded,
    NodeConnection,
    NodeMessage,
    NodeMessageKind,
)

EXCHANGE_VERSION: Final = 1
"""The form of exchanges (`node_exchange.py`); a node that does not know it uses single requests."""


class NodeStream(ReadyEventStream):
    """One node's stream."""

    def __init__(self, connection: NodeConnection[PlacedExecution], settings: Settings) -> None:
        """Take over the connection; `close` ends it. The node is told the settings it needs."""
        super().__init__(settings.poll_keep_alive_ms)
        self._connection = connection
        self._hello = {
            "heartbeatMs": NODE_HEARTBEAT_MS,
            "leaseMs": NODE_LEASE_MS,
            "keepAliveMs": settings.poll_keep_alive_ms,
            "exchange": EXCHANGE_VERSION,
            "bodyLimitBytes": settings.body_limit_bytes,
            "headLimitBytes": settings.request_headers_limit_bytes,
        }

    async def _receive(self) -> list[bytes] | None:
        try:
            messages = await self._connection.receive()
        except ConnectionEnded:
            return None
        return [self._rendered(message) for message in messages]

    def _receive_now(self) -> list[bytes] | None:
        try:
            messages = self._connection.receive_now()
        except ConnectionEnded:
            return None
        return [self._rendered(message) for message in messages]

    def when_ready(self, action: Callable[[], None]) -> None:
        """See `ReadyStream`."""
        super().when_ready(action)
        self._connection.when_ready(action)

    def _confirm(self) -> None:
        self._connection.confirm()

    def close(self) -> None:
        """Leave; what was not confirmed goes elsewhere."""
        self._connection.close()

    def _rendered(self, message: NodeMessage) -> bytes:
        made: dict[str, object] = {"type": message.kind.value}
        if message.kind is NodeMessageKind.HELLO:
            made |= self._hello
        elif message.execution_id:
            made["task"] = {"id": message.execution_id, "counter": message.counter}
        return orjson.dumps(made)
