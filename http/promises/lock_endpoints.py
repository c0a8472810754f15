"""Locks: at most one execution at a time holds a resource, for as long as it sends heartbeats."""

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import AcquireLock, Command, ReleaseLock
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.rows import Asking, Call, Endpoint, Success, answer, nothing
from troth.http.api.shards_port import answered
from troth.http.wire.json_text import dump
from troth.http.wire.requests import Response

from .answers import LockObject, LocksAffectedObject, lock_object
from .schemas import AcquireLockBody, HeartbeatBody, ReleaseLockBody


def _acquire(_api: Api, call: Call) -> Command:
    body: AcquireLockBody = call.body
    return AcquireLock(
        resource_id=body.resource_id or "",
        execution_id=body.execution_id or "",
        process_id=body.process_id or "",
        ttl=body.ttl or 0,
    )


def _acquired(_api: Api, reply: Reply) -> bytes:
    assert reply.lock is not None
    return dump(lock_object(reply.lock))


def _release(_api: Api, call: Call) -> Command:
    body: ReleaseLockBody = call.body
    return ReleaseLock(body.resource_id or "", body.execution_id or "")


acquire_lock = Asking(_acquire, _acquired)
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
        summary="Take or renew a lock",
        description="The execution that holds a lock may take it again, even for another process.",
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
        summary="Give a lock back",
        handler=release_lock,
        scope=Scope.PROMISES_WRITE,
        body=ReleaseLockBody,
        successes=(Success(204, "The lock is free."),),
        refusals=(Code.LOCK_NOT_FOUND,),
    ),
    Endpoint(
        name="heartbeatLocks",
        group="Locks",
        method="POST",
        path="/locks/heartbeat",
        summary="Keep all locks of a process",
        handler=heartbeat_locks,
        scope=Scope.PROMISES_WRITE,
        body=HeartbeatBody,
        successes=(Success(200, "How many locks were renewed.", LocksAffectedObject),),
    ),
)
