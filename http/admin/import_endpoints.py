"""Taking in promises from another server, to move to this one: `troth import` uses it.

The ordinary API cannot do this: it sets the times itself, and a promise that is created with a
routing tag sends work out, also if it was completed long ago.
"""

from typing import Final

import trio

from troth.core.catalog import Scope
from troth.core.codes import Code
from troth.core.commands import ImportPromise
from troth.core.model import EMPTY_VALUE, Promise, PromiseState
from troth.core.replies import Reply
from troth.http.api.context import Api
from troth.http.api.in_order import ask_in_order
from troth.http.api.permissions import refuse_unless_permitted
from troth.http.api.rows import Call, Endpoint, Success, answer
from troth.http.promises.schemas import ImportBody, ImportedPromiseBody
from troth.http.promises.values import string_map, value
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .answers import ImportedObject, ImportOutcomeObject

NEXT_SERIAL_S: Final = 0.001
"""After this time another group's serials are above those that were given before."""

_SLICE_COUNT: Final = 100  # promises that are made before others get their turn
_RESULTS = {Code.CREATED: "created", Code.OK: "present", Code.PROMISE_EXISTS: "conflict"}


async def import_promises(api: Api, call: Call) -> Response:
    """POST /admin/import."""
    body: ImportBody = call.body
    commands = []
    for number, entry in enumerate(body.promises or [], 1):
        commands.append(ImportPromise(_promise(entry)))
        if number % _SLICE_COUNT == 0:
            await trio.lowlevel.checkpoint()
    async with api.audit.act(call.request, "promises.import", count=len(commands)):
        for command in commands:
            refuse_unless_permitted(call.request.principal, command)
        # In this order: the order of creation is part of what is taken in.
        replies: list[Reply] = []
        for places in api.shards.stretches([command.promise.id for command in commands]):
            if replies:
                await trio.sleep(NEXT_SERIAL_S)
            some = commands[places.start : places.stop]
            replies += await ask_in_order(api.shards, some, call.request.held)
    made = []
    for command, reply in zip(commands, replies, strict=True):
        if reply.code not in _RESULTS:
            raise ApiError(reply.code)
        made.append(ImportedObject(command.promise.id, _RESULTS[reply.code]))
    return answer(Code.OK, ImportOutcomeObject(made))


def _promise(body: ImportedPromiseBody) -> Promise:
    state = PromiseState((body.state or "").upper())
    created_on = body.created_on or 0
    is_pending = state is PromiseState.PENDING
    completed_on = body.completed_on if body.completed_on is not None else created_on
    return Promise(
        body.id or "",
        0,
        state,
        body.timeout or 0,
        created_on,
        value(body.param),
        string_map(body.tags),
        body.idempotency_key_for_create,
        EMPTY_VALUE if is_pending else value(body.value),
        None if is_pending else body.idempotency_key_for_complete,
        None if is_pending else completed_on,
    )


ENDPOINTS = (
    Endpoint(
        name="importPromises",
        group="Server",
        method="POST",
        path="/admin/import",
        summary="Import promises from another server",
        description=(
            "Imports promises in any state, with their times and keys, unchanged. Completed "
            "ones wake no waiters; pending ones that are routed to a worker are sent out as "
            "if they were new. Safe to repeat. For the operator, and for tokens and users "
            "with the scope `admin`."
        ),
        handler=import_promises,
        scope=Scope.ADMIN,
        body=ImportBody,
        successes=(Success(200, "The outcome for each.", ImportOutcomeObject),),
    ),
)
