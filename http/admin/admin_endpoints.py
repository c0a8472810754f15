"""The endpoint that takes a snapshot of the whole server while it runs.

A snapshot shows everything, so all rows here need the scope `admin`.
"""

import structlog

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.requests import Response
from troth.persistence.errors import PersistenceError
from troth.shards.upkeep.snapshotter import OpenSnapshot, TooManySnapshots

_log = structlog.get_logger("troth.http.admin_endpoints")


class SnapshotStream:
    """A snapshot on its way to a client. A `requests.ChunkStream`.

    If it cannot be finished, the stream ends without the file's end, which the client notices.
    """

    def __init__(self, snapshot: OpenSnapshot) -> None:
        """Take over the snapshot; `close` releases it."""
        self._snapshot = snapshot
        self._stopped = False

    async def next_chunk(self) -> bytes | None:
        """Make the next piece, in a thread."""
        if self._stopped:
            return None
        try:
            return await self._snapshot.next_piece()
        except PersistenceError as error:
            _log.error("a snapshot could not be finished", problem=str(error))
            return None

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stopped = True

    def close(self) -> None:
        """Allow the log to be trimmed again."""
        self._snapshot.close()


async def take_snapshot(api: Api, call: Call) -> Response:
    """POST /admin/snapshot."""
    if api.snapshotter is None:
        problem = "keeps everything in memory (--in-memory), so there is nothing to copy"
        raise ApiError(Code.INVALID, [FieldProblem("server", problem)])
    async with api.audit.act(call.request, "snapshot.take"):
        try:
            snapshot = await api.snapshotter.open()
        except TooManySnapshots as error:
            message = "Other snapshots are being taken. Ask again after `Retry-After`."
            raise ApiError(Code.OVERLOADED, message=message) from error
    return Response(
        200,
        headers=[
            (b"content-type", b"application/octet-stream"),
            (b"cache-control", b"no-store"),
        ],
        stream=SnapshotStream(snapshot),
    )


ENDPOINTS = (
    Endpoint(
        name="takeSnapshot",
        group="Server",
        method="POST",
        path="/admin/snapshot",
        summary="Take a snapshot",
        description=(
            "A file with the server's whole state at this moment, including its secret, for "
            "`troth snapshot restore`. Writers are not blocked. The stream is complete if "
            "the file has an end; `troth snapshot create` and `troth snapshot verify` check "
            "that. For the operator, and for tokens and users with the scope `admin`."
        ),
        handler=take_snapshot,
        scope=Scope.ADMIN,
        successes=(Success(200, "The file.", bytes, "application/octet-stream"),),
    ),
)
