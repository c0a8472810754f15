"""What schemathesis must know beyond the OpenAPI description, to tell a defect from a rule.

JSON Schema cannot say: a cursor is one that this server made, and without one a search names ids; a
cron expression has a grammar; an integer is written without a fraction (to JSON Schema, 5.0 is
one); two promises must differ; what a function has depends on its type; how many pages a list of
tasks has depends on their length; that a header's text beyond ASCII may come in one of two ways, so
that its bytes have a limit.

What is there has ids that no schema tells: `TROTH_FUZZED_IDS` has them, as JSON, by the names of
paths' parameters. Two of three good requests get them, but for those that delete.
"""

import itertools
import json
import os
from typing import Any
from urllib.parse import unquote

import schemathesis
from hypothesis import strategies

schemathesis.openapi.format(
    "cron",
    strategies.sampled_from(["* * * * *", "0 3 * * 1-5", "*/5 0 3 1,15 jan ?", "@every 1h"]),
)
schemathesis.openapi.format("time-zone", strategies.sampled_from(["", "UTC", "Asia/Kathmandu"]))
schemathesis.openapi.format(
    "retention-rules",
    strategies.sampled_from(["none", "resolved:7d", "all:90d:team=billing,rejected:1h30m"]),
)
schemathesis.openapi.format(
    "http-url", strategies.sampled_from(["http://127.0.0.1:9/x", "https://example.com/?a=b"])
)
schemathesis.openapi.format(
    "promise-id-template",
    strategies.sampled_from(["p", "{{.id}}", "a.{{ .timestamp }}", "{{.id}}/{{.timestamp}}"]),
)

schemathesis.openapi.format(
    "base64-header-pairs", strategies.sampled_from(["", "W10=", "W1siYSIsICJiIl1d"])
)
schemathesis.openapi.format("base64-text", strategies.sampled_from(["", "eA==", "w6Q="]))

_NO_HEADER_TEXT = "x\x0b"
"""Refused in every header, as the schemas say of all text beyond ASCII."""

_IDS: dict[str, str] = json.loads(os.environ.get("TROTH_FUZZED_IDS", "{}"))
_turns = itertools.cycle((True, True, False))


def _with_whole_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _with_whole_integers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_integers(inner) for inner in value]
    return value


def _with_numbers_that_can_be_kept(value: Any) -> Any:
    """What is inside a receiver has no schema: that would refer to itself."""
    if isinstance(value, int | float) and not -(2**63) <= value < 2**63:
        return 0
    if isinstance(value, dict):
        return {key: _with_numbers_that_can_be_kept(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers_that_can_be_kept(inner) for inner in value]
    return value


def _decide_for_a_kind(function: dict[str, Any]) -> None:
    """Code has a language, and what calls a URL has a URL: neither has both."""
    is_http = str(function.get("type")).upper() == "HTTP"
    superfluous, required, given = (
        ("lang", "url", "http://127.0.0.1:9/x") if is_http else ("url", "lang", "PY")
    )
    if isinstance(function.get(superfluous), str):
        del function[superfluous]
    if not function.get(required):
        function[required] = given


def _list_what_can_be_listed(query: dict[str, Any]) -> None:
    """Of function tasks the newest 100,000: pages times tasks of a page, 100 unless given."""
    page, limit = str(query.get("page", "")), str(query.get("limit", 100))
    if page.isdecimal() and limit.isdecimal() and 1 <= int(limit) <= 1_000:
        most = 100_000 // int(limit)
        if most < int(page) <= 100_000:
            query["page"] = most


def _leave_out_a_url(change: dict[str, Any], path_parameters: dict[str, Any]) -> None:
    """The function that is there is code."""
    if path_parameters.get("functionId") == _IDS.get("functionId"):
        change.pop("url", None)


def _ask_for_a_job(job: dict[str, Any]) -> None:
    """What can be done depends on what to; a filter has the list's parameters. None acts here."""
    action = str(job.get("action")).lower()
    subject = {"retry": "tasks", "pause": "schedules", "resume": "schedules"}.get(action)
    if subject is None or str(job.get("subject")).lower() != subject:
        job.pop("subject", None)
    job["filter"] = {} if subject == "tasks" else {"id": "*"}
    job["dryRun"] = True
    if action not in ("cancel", "reject", "resolve"):
        job.pop("value", None)


def _is_good(case: "schemathesis.Case[Any]") -> bool:
    """Whether the request is meant to be accepted."""
    return case.meta is None or case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE


def _name_what_is_there(case: "schemathesis.Case[Any]") -> None:
    if _is_good(case) and case.method != "DELETE" and case.path.startswith("/v1/") and next(_turns):
        ids = {**_IDS, "id": _IDS["functionId"]} if case.operation.path == "/v1/task/{id}" else _IDS
        for name in case.path_parameters or {}:
            if name in ids:
                case.path_parameters[name] = ids[name]


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext,
    case: "schemathesis.Case[Any]",
    kwargs: dict[str, Any],
) -> None:
    """Adapt a request."""
    for name, text in (case.headers or {}).items():
        if isinstance(text, str) and not text.isascii():
            case.headers[name] = _NO_HEADER_TEXT
    _name_what_is_there(case)
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
        if case.path in {"/promises", "/schedules"} and _is_good(case):
            case.query.setdefault("id", "*")
        if case.operation.path == "/v1/task/list":
            _list_what_can_be_listed(case.query)
    if isinstance(case.body, dict | list):
        case.body = _with_whole_integers(case.body)
    if isinstance(case.body, dict) and _is_good(case):
        case.body = _with_numbers_that_can_be_kept(case.body)
    if isinstance(case.body, dict) and case.operation.path == "/bulk" and _is_good(case):
        _ask_for_a_job(case.body)
    if isinstance(case.body, dict) and case.operation.path == "/v1/function":
        _decide_for_a_kind(case.body)
    if isinstance(case.body, dict) and isinstance(case.path_parameters, dict):
        _leave_out_a_url(case.body, case.path_parameters)
        leaf = case.body.get("promiseId", case.path_parameters.get("id"))
        if isinstance(leaf, str) and case.body.get("rootPromiseId") == unquote(leaf):
            leaf = case.body["rootPromiseId"]  # in a path it may be encoded already
        if leaf is not None and case.body.get("rootPromiseId") == leaf:
            case.body["rootPromiseId"] = f"{leaf}'s root"
