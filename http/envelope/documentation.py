"""What `/docs` and `/openapi.json` say about the kinds of `POST /`: their data, and a command each.

Both come from the tables of operations, so a kind that is served is described.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson

from . import fields as f
from .debug import DEBUG_PROCEDURES
from .operations import QUESTIONS
from .searches import PROCEDURES
from .wire import VERSION

_FAR_MS: Final = 4_102_444_800_000
_TARGETED: Final = {"resonate:target": "poll://any@default"}
_HELD: Final = {"id": "hello", "version": 1}
_NEW: Final = {"timeoutAt": _FAR_MS, "tags": _TARGETED}

EXAMPLES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("promise.create", {"id": "hello", **_NEW}),
    ("promise.get", {"id": "hello"}),
    ("promise.search", {"state": "pending"}),
    ("promise.register_listener", {"awaited": "hello", "address": "poll://any@default/me"}),
    ("task.get", {"id": "hello"}),
    ("task.search", {"state": "pending"}),
    ("task.acquire", {"id": "hello", "version": 0, "pid": "worker-1", "ttl": 60_000}),
    ("task.heartbeat", {"pid": "worker-1", "tasks": [_HELD]}),
    (
        "task.fence",
        {
            **_HELD,
            "action": {"kind": "promise.create", "data": {"id": "hello:1", "timeoutAt": _FAR_MS}},
        },
    ),
    ("promise.register_callback", {"awaited": "hello:1", "awaiter": "hello"}),
    (
        "task.suspend",
        {**_HELD, "actions": [{"data": {"awaited": "hello:1", "awaiter": "hello"}}]},
    ),
    ("promise.settle", {"id": "hello:1", "state": "resolved", "value": {"data": "IjQyIg=="}}),
    ("task.halt", {"id": "hello"}),
    ("task.continue", {"id": "hello"}),
    (
        "task.create",
        {"pid": "worker-1", "ttl": 60_000, "action": {"data": {"id": "other", **_NEW}}},
    ),
    ("task.release", {"id": "other", "version": 1}),
    ("task.acquire", {"id": "other", "version": 1, "pid": "worker-1", "ttl": 60_000}),
    (
        "task.fulfill",
        {"id": "other", "version": 2, "action": {"data": {"id": "other", "state": "resolved"}}},
    ),
    (
        "schedule.create",
        {
            "id": "nightly",
            "cron": "0 3 * * *",
            "promiseId": "{{.id}}.{{.timestamp}}",
            "promiseTimeout": 3_600_000,
            "promiseTags": _TARGETED,
        },
    ),
    ("schedule.get", {"id": "nightly"}),
    ("schedule.search", {}),
    ("schedule.delete", {"id": "nightly"}),
)
"""A request of every kind, in an order in which all of them succeed on an empty server."""


def curl_commands() -> tuple[str, ...]:
    """Return the examples as commands for a shell."""
    return tuple(_curl(kind, data) for kind, data in EXAMPLES)


def _curl(kind: str, data: dict[str, Any]) -> str:
    envelope = {"kind": kind, "head": {"corrId": "1", "version": VERSION}, "data": data}
    return f"curl -s localhost:8001 -d '{orjson.dumps(envelope).decode()}'"


def kinds_text() -> str:
    """Return which fields `data` has for each kind, with `?` after those that may be left out."""
    decoders = {kind: question.decoder for kind, question in QUESTIONS.items()}
    decoders |= {kind: procedure.decoder for kind, procedure in PROCEDURES.items()}
    kinds = sorted(f"`{kind}` ({', '.join(_names(one.type))})" for kind, one in decoders.items())
    debug = ", ".join(f"`{kind}`" for kind in DEBUG_PROCEDURES)
    return (
        f"The kinds, with the fields of `data`: {'; '.join(kinds)}. An action is "
        '`{"kind": …, "data": {…}}` with the data of that kind; only `task.fence` looks at its '
        f"kind. With the setting `debug_operations` also {debug}."
    )


def _names(data: type[f.Camel]) -> Iterator[str]:
    for one in msgspec.structs.fields(data):
        yield one.encode_name if one.required else f"{one.encode_name}?"
