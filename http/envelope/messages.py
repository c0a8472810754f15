"""The messages of the envelope protocol to workers and listeners, and records as clients see them.

Messages are ASCII on one line: some clients decode each read by itself, and lose a message whose
characters were cut (envelope.md 7.2). Nothing in them is ever null.
"""

import json
from typing import Any

import orjson

from troth.core.model import PENDING, Promise, Value
from troth.core.replies import ExecuteMessage, UnblockMessage


def value_object(value: Value) -> dict[str, Any]:
    """Return a param or value as JSON shows it."""
    shown: dict[str, Any] = {}
    if value.headers is not None:
        shown["headers"] = value.headers
    if value.data is not None:
        shown["data"] = value.data
    return shown


def promise_object(promise: Promise) -> dict[str, Any]:
    """Return a promise as JSON shows it."""
    shown = {
        "id": promise.id,
        "state": promise.state.value.lower(),
        "param": value_object(promise.param),
        "value": value_object(promise.value),
        "tags": promise.tags or {},
        "timeoutAt": promise.timeout,
        "createdAt": promise.created_on,
    }
    if promise.state is not PENDING:
        shown["settledAt"] = promise.completed_on
    return shown


def render_message(message: ExecuteMessage | UnblockMessage, url: str) -> bytes:
    """Return the JSON text of a message. `url` is where the server is reached."""
    made: dict[str, Any]
    if isinstance(message, ExecuteMessage):
        task = {"id": message.id, "version": message.version}
        made = {"kind": "execute", "head": {"serverUrl": url}, "data": {"task": task}}
    else:
        made = {
            "kind": "unblock",
            "head": {},
            "data": {"promise": promise_object(message.promise)},
        }
    text = orjson.dumps(made)
    return text if text.isascii() else json.dumps(made, separators=(",", ":")).encode()
