"""Locks: at most one execution at a time holds a resource, for as long as it sends heartbeats."""

from typing import Final

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import AcquireLock, Command, ReleaseLock
from troth.core.leases import granted_ttl
from troth.core.model import Lock
from troth.http.api.context import Api
from troth.http.api.rows import Asking, Call, Endpoint, Success, answer, nothing
from troth.http.api.shards_port import answered, ask
from troth.http.wire.errors import ApiError
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response, json_response

from .answers import LockObject, LocksAffectedObject, lock_object
from .schemas import AcquireLockBody, HeartbeatBody, ReleaseLockBody

_HELD: Final = frozenset({Code.LOCK_HELD})


async def acquire_lock(api: Api, call: Call) -> Response:
    """POST /locks/acquire.

    The fencing token is a header, since the body has the fields that clients of this API know.
    """
    body: AcquireLockBody = call.body
    asked_ms = (body.expiry_in_milliseconds if body.ttl is None else body.ttl) or 0
    ttl_ms = granted_ttl(asked_ms)
    command = AcquireLock(
        resource_id=body.resource_id or "",
        execution_id=body.execution_id or "",
        process_id=body.process_id or "",
        ttl=ttl_ms,
        asked_ttl=None if asked_ms == ttl_ms else asked_ms,
    )
    reply = await ask(api.shards, command, call.request, tolerated=_HELD)
    lock = reply.lock
    assert lock is not None, "both answers show the lock"
    if reply.code is Code.LOCK_HELD:
        raise ApiError(reply.code, message=_held_by(lock))
    response = json_response(reply.code.status, dump(lock_object(lock)))
    if lock.fencing_token:
        response.headers.append((b"fencing-token", b"%d" % lock.fencing_token))
    return response


def _held_by(lock: Lock) -> str:
    """Return the holder of a lock and its end, for the refused client."""
    return (
        f"execution {lock.execution_id!r} of process {lock.process_id!r} holds the lock until "
        f"{lock.expires_at} (ms since 1970), unless it renews it"
    )


def _release(_api: Api, call: Call) -> Command:
    body: ReleaseLockBody = call.body
    return ReleaseLock(body.resource_id or "", body.execution_id or "")


release_lock = Asking(_release, nothing)


async def heartbeat_locks(api: Api, call: Call) -> Response:
    """POST /locks/heartbeat."""
    body: HeartbeatBody = call.body
    prefix = call.request.principal.id_prefix
    count = await answered(api.shards.heartbeat_locks(body.process_id or "", prefix))
    return answer(Code.OK, LocksAffectedObject(count))


ENDPOINTS = (
    Endpoint(
        name="acquireLock",
        group="Locks",
        method="POST",
        path="/locks/acquire",
        summary="Acquire or renew a lock",
        description=(
            "The execution that holds a lock may acquire it again, even for another "
            "process. The header `Fencing-Token` of the answer is a number that grows with "
            "every new holder. Pass it to the resource that the lock protects, which "
            "refuses requests with a smaller one than it has seen. A refusal names the "
            "holder and when its lease ends."
        ),
        handler=acquire_lock,
        scope=Scope.PROMISES_WRITE,
        body=AcquireLockBody,
        successes=(Success(201, "The lock is held by this execution.", LockObject),),
        refusals=(Code.LOCK_HELD,),
    ),
    Endpoint(
        name="releaseLock",
        group="Locks",
        method="POST",
        path="/locks/release",
        summary="Release a lock",
        handler=release_lock,
        scope=Scope.PROMISES_WRITE,
        body=ReleaseLockBody,
        successes=(Success(204, "The lock is released."),),
        refusals=(Code.LOCK_NOT_FOUND,),
    ),
    Endpoint(
        name="heartbeatLocks",
        group="Locks",
        method="POST",
        path="/locks/heartbeat",
        summary="Renew all locks of a process",
        handler=heartbeat_locks,
        scope=Scope.PROMISES_WRITE,
        body=HeartbeatBody,
        successes=(Success(200, "The number of locks renewed.", LocksAffectedObject),),
    ),
)
