"""What schemathesis must know beyond the OpenAPI description, to tell a defect from a rule.

JSON Schema cannot say: a cursor is one that this server made; a cron expression has a grammar; an
integer is written without a fraction (to JSON Schema, 5.0 is one); two promises must differ; what
a function has depends on its type.
"""

from typing import Any

import schemathesis
from hypothesis import strategies

schemathesis.openapi.format(
    "cron",
    strategies.sampled_from(["* * * * *", "0 3 * * 1-5", "*/5 0 3 1,15 jan ?", "@every 1h"]),
)
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


def _with_whole_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _with_whole_integers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_integers(inner) for inner in value]
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


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext,
    case: "schemathesis.Case[Any]",
    kwargs: dict[str, Any],
) -> None:
    """Adapt a request."""
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
    if isinstance(case.body, dict | list):
        case.body = _with_whole_integers(case.body)
    if isinstance(case.body, dict) and case.path == "/v1/function":
        _decide_for_a_kind(case.body)
    if isinstance(case.body, dict) and isinstance(case.path_parameters, dict):
        leaf = case.body.get("promiseId", case.path_parameters.get("id"))
        if leaf is not None and case.body.get("rootPromiseId") == leaf:
            case.body["rootPromiseId"] = f"{leaf}'s root"
