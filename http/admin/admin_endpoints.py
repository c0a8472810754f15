"""The endpoints that take snapshots of the whole server while it runs, and list them.

A snapshot shows everything, so all rows here need the scope `admin`.
"""

from typing import Final

import structlog

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.api.shards_port import answered
from troth.http.wire.errors import ApiError, FieldProblem
from troth.http.wire.requests import Response
from troth.persistence.errors import PersistenceError
from troth.persistence.snapshots.snapshots import SnapshotFile
from troth.shards.errors import ShardsError
from troth.shards.upkeep.snapshotter import ReadableSnapshot, Snapshotter, TooManySnapshots

from .answers import KeptSnapshotObject, KeptSnapshotsObject

_log = structlog.get_logger("troth.http.admin_endpoints")


IN_DATABASE: Final = "database"
"""The name of the snapshot that is kept in the database which has the log."""


class SnapshotStream:
    """A snapshot on its way to a client. A `requests.ChunkStream`.

    If it cannot be finished, the stream ends without the file's end, which the client notices.
    """

    def __init__(self, snapshot: ReadableSnapshot) -> None:
        """Take over the snapshot; `close` releases it."""
        self._snapshot = snapshot
        self._stopped = False

    async def next_chunk(self) -> bytes | None:
        """Make the next piece, in a thread."""
        if self._stopped:
            return None
        try:
            return await self._snapshot.next_piece()
        except (PersistenceError, ShardsError) as error:
            _log.error("a snapshot could not be finished", problem=str(error))
            return None

    def stop(self) -> None:
        """End the stream at the next chunk."""
        self._stopped = True

    def close(self) -> None:
        """Allow the log to be trimmed again."""
        self._snapshot.close()


def _snapshotter(api: Api) -> Snapshotter:
    if api.snapshotter is None:
        problem = "keeps everything in memory (--in-memory), so there is nothing to copy"
        raise ApiError(Code.INVALID, [FieldProblem("server", problem)])
    return api.snapshotter


def _too_many() -> ApiError:
    message = "Other snapshots are being taken. Ask again after `Retry-After`."
    return ApiError(Code.OVERLOADED, message=message)


def _no_directory() -> ApiError:
    problem = "has no directory for snapshots (setting snapshot_directory)"
    return ApiError(Code.INVALID, [FieldProblem("server", problem)])


def _kept(file: SnapshotFile) -> KeptSnapshotObject:
    created_on = None if file.header is None else file.header.created_at_ms
    return KeptSnapshotObject(file.path.name, file.size_bytes, created_on, file.problem)


async def list_snapshots(api: Api, call: Call) -> Response:  # noqa: ARG001  as all handlers
    """GET /admin/snapshots."""
    try:
        found = await _snapshotter(api).listed()
    except PersistenceError as error:
        raise ApiError(Code.INTERNAL, message=str(error)) from error
    if found is None:
        raise _no_directory()
    return answer(Code.OK, KeptSnapshotsObject([_kept(file) for file in found]))


async def write_snapshot(api: Api, call: Call) -> Response:
    """POST /admin/snapshots."""
    snapshotter = _snapshotter(api)
    async with api.audit.act(call.request, "snapshot.write"):
        try:
            made = await answered(snapshotter.write_now())
            in_engine = None if made else await answered(snapshotter.write_to_engine())
        except TooManySnapshots as error:
            raise _too_many() from error
        except (PersistenceError, OSError) as error:
            message = f"The snapshot could not be written: {error}"
            raise ApiError(Code.INTERNAL, message=message) from error
        if in_engine is not None:
            size_bytes, created_on = in_engine.size_bytes, in_engine.created_at_ms
            kept = KeptSnapshotObject(IN_DATABASE, size_bytes, created_on, None)
            return answer(Code.CREATED, kept)
        if made is None:
            raise _no_directory()
    return answer(Code.CREATED, _kept(made))


async def take_snapshot(api: Api, call: Call) -> Response:
    """POST /admin/snapshot."""
    snapshotter = _snapshotter(api)
    async with api.audit.act(call.request, "snapshot.take"):
        try:
            snapshot = await answered(snapshotter.open())
        except TooManySnapshots as error:
            raise _too_many() from error
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
    Endpoint(
        name="listSnapshots",
        group="Server",
        method="GET",
        path="/admin/snapshots",
        summary="List the snapshots in the server's directory",
        handler=list_snapshots,
        scope=Scope.ADMIN,
        successes=(Success(200, "All, unusable ones too.", KeptSnapshotsObject),),
    ),
    Endpoint(
        name="writeSnapshot",
        group="Server",
        method="POST",
        path="/admin/snapshots",
        summary="Write a snapshot to the server's directory",
        description="As if it were scheduled; answered when it is there.",
        handler=write_snapshot,
        scope=Scope.ADMIN,
        successes=(Success(201, "The snapshot.", KeptSnapshotObject),),
        examples=("troth snapshot now",),
    ),
)
