"""The operations of the envelope protocol that look into all shards: searches."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from troth.core.catalog import Scope
from troth.core.workflows import WorkflowState
from troth.http.api.context import Api
from troth.http.api.shards_port import answered
from troth.http.wire.cursors import FOREIGN_CURSOR, sign_payload, verified_payload
from troth.http.wire.principals import Principal

from . import fields as f
from .records import promise_object, schedule_object, task_object
from .wire import refused

PAGE_COUNT: Final = 100
SCHEDULES_PAGE_COUNT: Final = 10


class Procedure(Struct, frozen=True):
    """An operation that asks many shards. `act` returns the JSON text of the answer."""

    scope: Scope
    decoder: msgspec.json.Decoder[Any]
    act: Callable[[Api, Principal, Any], Awaitable[bytes]]


async def _search_promises(api: Api, principal: Principal, data: f.PromiseSearchData) -> bytes:
    found, following = await answered(
        api.shards.search_promises(
            "*",
            f.promise_states(data.state),
            data.tags or {},
            data.limit or PAGE_COUNT,
            _position("promises", data.cursor, api),
            principal.id_prefix,
        )
    )
    return _page(api, "promises", [promise_object(one) for one in found], following)


async def _search_tasks(api: Api, principal: Principal, data: f.TaskSearchData) -> bytes:
    try:
        state = None if data.state is None else WorkflowState(data.state)
    except ValueError as error:
        names = ", ".join(WorkflowState)
        raise refused(f"data.state: must be one of {names} (got {data.state!r})") from error
    found, following = await answered(
        api.shards.search_workflows(
            state,
            data.limit or PAGE_COUNT,
            _position("tasks", data.cursor, api),
            principal.id_prefix,
        )
    )
    return _page(api, "tasks", [task_object(one) for one in found], following)


async def _search_schedules(api: Api, principal: Principal, data: f.ScheduleSearchData) -> bytes:
    found, following = await answered(
        api.shards.search_schedules(
            "*",
            {},
            data.limit or SCHEDULES_PAGE_COUNT,
            _position("schedules", data.cursor, api),
            principal.id_prefix,
            promise_tags=data.tags or {},
        )
    )
    return _page(api, "schedules", [schedule_object(one) for one in found], following)


def _position(kind: str, cursor: str | None, api: Api) -> int | None:
    """Return the serial to go on below. Raises ApiError (400)."""
    if cursor is None:
        return None
    payload = verified_payload(cursor, api.shards.cursor_secret)
    name, _, serial = (b"" if payload is None else payload).partition(b"<")
    if name != kind.encode() or not serial.isdigit():
        raise refused(f"data.cursor: {FOREIGN_CURSOR}")
    return int(serial)


def _page(api: Api, kind: str, rows: list[dict[str, Any]], following: int | None) -> bytes:
    shown: dict[str, Any] = {kind: rows}
    if following is not None:
        payload = f"{kind}<{following}".encode()
        shown["cursor"] = sign_payload(payload, api.shards.cursor_secret)
    return orjson.dumps(shown)


PROCEDURES: Final[Mapping[str, Procedure]] = {
    "promise.search": Procedure(
        Scope.PROMISES_READ, msgspec.json.Decoder(f.PromiseSearchData), _search_promises
    ),
    "task.search": Procedure(
        Scope.PROMISES_READ, msgspec.json.Decoder(f.TaskSearchData), _search_tasks
    ),
    "schedule.search": Procedure(
        Scope.PROMISES_READ, msgspec.json.Decoder(f.ScheduleSearchData), _search_schedules
    ),
}
"""The operations that look into all shards, by kind."""
