"""The debug operations of the envelope protocol, for tests of its clients (envelope.md 10).

They are there only with the setting `debug_operations`; what they do is in
`troth.shards.debugging`. A request of any kind may say its time then, as `resonate:debug_time` in
its head.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import orjson

from troth.core.catalog import Scope
from troth.core.replies import Message, TaskMessage
from troth.http.api.context import Api
from troth.http.promises.rendering import render_message as render_task_message
from troth.http.wire.principals import Principal
from troth.shards.gathered.debugging import DebugOperations

from . import fields as f
from .messages import render_message
from .records import promise_object, task_object
from .searches import Procedure
from .wire import RequestEnvelope, refused

EMPTY: Final = b"{}"


def says_its_time(api: Api, envelope: RequestEnvelope) -> bool:
    """Return whether a request says what time it is, where that counts."""
    head = envelope.head
    return api.debug is not None and head is not None and head.debug_time_ms is not None


def is_one_of_a_row(api: Api, envelope: RequestEnvelope) -> bool:
    """Return whether a request has to wait for others, or others for it, because of its time."""
    return api.debug is not None and (says_its_time(api, envelope) or api.debug.has_time)


@asynccontextmanager
async def at_its_time(api: Api, envelope: RequestEnvelope) -> AsyncIterator[None]:
    """Carry a request out at the time that it says, alone. Raises ApiError (400)."""
    if api.debug is None or envelope.kind in DEBUG_PROCEDURES:
        yield
        return
    now_ms = envelope.head.debug_time_ms if envelope.head is not None else None
    if now_ms is not None and now_ms < 0:
        raise refused("head.resonate:debug_time: must not be negative")
    async with api.debug.at(now_ms):
        yield


def _operations(api: Api) -> DebugOperations:
    assert api.debug is not None, "without it these kinds are refused"
    return api.debug


async def _start(api: Api, _principal: Principal, _data: f.Nothing) -> bytes:
    await _operations(api).start()
    return EMPTY


async def _stop(api: Api, _principal: Principal, _data: f.Nothing) -> bytes:
    await _operations(api).stop()
    return EMPTY


async def _reset(api: Api, _principal: Principal, _data: f.Nothing) -> bytes:
    await _operations(api).reset()
    return EMPTY


async def _tick(api: Api, _principal: Principal, data: f.DebugTickData) -> bytes:
    await _operations(api).tick(data.time)
    return b"[]"


async def _snap(api: Api, _principal: Principal, _data: f.Nothing) -> bytes:
    snap = await _operations(api).snap()
    return orjson.dumps(
        {
            "promises": [promise_object(one) for one in snap.promises],
            "promiseTimeouts": [
                {"id": name, "timeout": timeout} for name, timeout in snap.promise_timeouts
            ],
            "callbacks": [
                {"awaited": awaited, "awaiter": awaiter} for awaited, awaiter in snap.callbacks
            ],
            "listeners": [{"id": name, "address": address} for name, address in snap.listeners],
            "tasks": [task_object(one) for one in snap.workflows],
            "taskTimeouts": [
                {"id": name, "type": kind, "timeout": timeout}
                for name, kind, timeout in snap.workflow_timeouts
            ],
            "messages": [
                {"address": address, "message": orjson.Fragment(_rendered(message, api.url))}
                for address, message in snap.messages
            ],
        }
    )


def _rendered(message: Message, url: str) -> bytes:
    if isinstance(message, TaskMessage):
        return render_task_message(message, url)
    return render_message(message, url)


Act = Callable[[Api, Principal, Any], Awaitable[bytes]]


def _procedure(act: Act, data: type[Any] = f.Nothing) -> Procedure:
    return Procedure(Scope.ADMIN, msgspec.json.Decoder(data), act)


DEBUG_PROCEDURES: Final[Mapping[str, Procedure]] = {
    "debug.start": _procedure(_start),
    "debug.stop": _procedure(_stop),
    "debug.reset": _procedure(_reset),
    "debug.snap": _procedure(_snap),
    "debug.tick": _procedure(_tick, f.DebugTickData),
}
"""The debug operations, by kind. With accounts they are the operator's."""
