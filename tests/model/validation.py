"""What every request must look like (rest.md 0.3, 0.5, 1.2): a table, and one loop."""

import base64
import binascii
from typing import Any

from .words import INTEGER_MAX, INTEGER_MIN, INVALID, Refused

# name of the request -> its fields; a star says that the field is required: neither absent nor zero
FIELDS: dict[str, dict[str, str]] = {
    "create promise": {"id": "text*", "timeout": "integer", "param": "value", "tags": "texts"},
    "create promise and task": {
        "id": "text*",
        "timeout": "integer",
        "param": "value",
        "tags": "texts",
        "processId": "text*",
        "ttl": "duration",
    },
    "read promise": {},
    "complete promise": {"state": "outcome*", "value": "value"},
    "create callback": {
        "promiseId": "text*",
        "rootPromiseId": "text*",
        "timeout": "integer",
        "recv": "any*",
    },
    "create subscription": {
        "promiseId": "text*",
        "id": "text*",
        "timeout": "integer",
        "recv": "any*",
    },
    "claim task": {"id": "text*", "counter": "integer*", "processId": "text*", "ttl": "duration"},
    "complete task": {"id": "text*", "counter": "integer*"},
    "drop task": {"id": "text*", "counter": "integer*"},
    "heartbeat tasks": {"processId": "text*"},
    "create schedule": {
        "id": "text*",
        "cron": "cron*",
        "promiseId": "template*",
        "promiseTimeout": "integer",
        "tags": "texts",
        "promiseParam": "value",
        "promiseTags": "texts",
        "description": "text",
    },
    "read schedule": {},
    "delete schedule": {},
    "delete promise": {},
    "update schedule": {
        "cron": "cron",
        "promiseId": "template",
        "promiseTimeout": "integer",
        "tags": "texts",
        "promiseParam": "value",
        "promiseTags": "texts",
        "description": "text",
    },
    "pause schedule": {"id": "text*"},
    "resume schedule": {"id": "text*", "catchUp": "limit"},
    "run schedule": {"id": "text*"},
    "run bulk job": {},
    "give task back": {"id": "text*"},
    "send task now": {"id": "text*"},
    "break lock": {"resourceId": "text*"},
    "list tasks": {},
    "list locks": {},
    "list waiting": {},
    "show tree": {},
    "tell why": {},
    "send all now": {"receiver": "text*"},
    "count": {},
    "acquire lock": {
        "resourceId": "text*",
        "executionId": "text*",
        "processId": "text*",
        "ttl": "duration",
        "expiryInMilliseconds": "duration",
    },
    "release lock": {"resourceId": "text*", "executionId": "text*"},
    "heartbeat locks": {"processId": "text*"},
    "search promises": {"id": "text*", "state": "filter", "limit": "limit", "tags": "texts"},
    "search schedules": {"id": "text*", "limit": "limit", "tags": "texts"},
}
OUTCOMES = ("RESOLVED", "REJECTED", "REJECTED_CANCELED")
FILTERS = ("pending", "resolved", "rejected")
WRONG_CRONS = ("nonsense", "60 * * * * *", "* * * * 7", "@reboot")
WRONG_TEMPLATES = ("a.{{.nothing}}", "{{if .id}}x{{end}}", "{{")


def refuse_invalid(name: str, arguments: dict[str, Any]) -> None:
    """Raise Refused if a field or a header is not as it must be."""
    if arguments.get("strict") not in (None, True, False):
        raise Refused(INVALID)
    for field, kind in FIELDS[name].items():
        given = arguments.get(field)
        if given is None or (given in ("", 0) and not isinstance(given, bool)):
            if kind.endswith("*"):
                raise Refused(INVALID)
            if given is None:
                continue
        if not _fits(kind.rstrip("*"), given):
            raise Refused(INVALID)


def _fits(kind: str, given: Any) -> bool:
    if kind == "any":
        return True
    if kind in ("integer", "duration", "limit"):
        if not isinstance(given, int) or isinstance(given, bool):
            return False
        low = INTEGER_MIN if kind == "integer" else 0
        return low <= given <= (100 if kind == "limit" else INTEGER_MAX)
    if kind == "value":
        return isinstance(given, dict) and _is_base64(given.get("data"))
    if kind == "texts":
        return isinstance(given, dict) and all(
            text is None or isinstance(text, str) for text in given.values()
        )
    if not isinstance(given, str):
        return False
    return {
        "text": True,
        "outcome": given.upper() in OUTCOMES,
        "filter": given.lower() in FILTERS,
        "cron": given not in WRONG_CRONS,
        "template": given not in WRONG_TEMPLATES,
    }[kind]


def _is_base64(given: Any) -> bool:
    if given is None:
        return True
    if not isinstance(given, str):
        return False
    try:
        base64.b64decode(given, validate=True)
    except binascii.Error:
        return False
    return True
