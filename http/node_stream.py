"""The stream of orders to a node, as server-sent events: `data: <json>` each.

It ends when a newer stream of the same node comes, when the node is deleted, when the server stops,
or (`streams.limited`) when the token that opened it is good no longer. A comment is sent at once
and whenever nothing was for the keep-alive time. An order counts as sent when the socket has taken
it: when the next chunk is asked for.
"""

import orjson
import trio

from troth.core.limits import NODE_HEARTBEAT_MS, NODE_LEASE_MS
from troth.shards.node_connections import (
    ConnectionEnded,
    NodeConnection,
    NodeMessage,
    NodeMessageKind,
)

from .streams import CONNECTED, KEEP_ALIVE


class NodeStream:
    """One node's stream. A `requests.ChunkStream`."""

    def __init__(self, connection: NodeConnection, keep_alive_ms: int) -> None:
        """Take over the connection; `close` ends it."""
        self._connection = connection
        self._keep_alive_s = keep_alive_ms / 1000
        self._greeted = False
        self._unconfirmed = False
        self._stopped = False
        self._wait: trio.CancelScope | None = None

    async def next_chunk(self) -> bytes | None:
        """Wait for orders or for the keep-alive time; None when the stream ends."""
        if self._unconfirmed:
            self._unconfirmed = False
            self._connection.confirm()
        if not self._greeted:
            self._greeted = True
            await trio.lowlevel.checkpoint()
            return CONNECTED
        if self._stopped:
            await trio.lowlevel.checkpoint()
            return None
        messages: list[NodeMessage] = []
        try:
            with trio.move_on_after(self._keep_alive_s) as self._wait:
                messages = await self._connection.receive()
        except ConnectionEnded:
            return None
        finally:
            self._wait = None
        if messages:
            self._unconfirmed = True
            return b"".join(b"data: " + _rendered(message) + b"\n\n" for message in messages)
        return None if self._stopped else KEEP_ALIVE

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stopped = True
        if self._wait is not None:
            self._wait.cancel()

    def close(self) -> None:
        """Leave; what was not confirmed goes elsewhere."""
        self._connection.close()


def _rendered(message: NodeMessage) -> bytes:
    made: dict[str, object] = {"type": message.kind.value}
    if message.kind is NodeMessageKind.HELLO:
        made |= {"heartbeatMs": NODE_HEARTBEAT_MS, "leaseMs": NODE_LEASE_MS}
    elif message.task_id:
        made["task"] = {"id": message.task_id, "counter": message.counter}
    return orjson.dumps(made)
