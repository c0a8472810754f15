"""The messages of the envelope protocol to workers and listeners.

Messages are ASCII on one line: some clients decode each read separately, and lose a message whose
characters were cut (envelope.md 7.2). Nothing in them is ever null.
"""

import json
from typing import Any

import orjson

from troth.core.replies import ExecuteMessage, UnblockMessage

from .records import promise_object


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
