"""What schemathesis must know beyond the OpenAPI description, to tell a defect from a rule.

JSON Schema cannot say: a cursor is one that this server made; a cron expression has a grammar; an
integer is written without a fraction (to JSON Schema, 5.0 is one); two promises must differ.
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
    if isinstance(case.body, dict) and isinstance(case.path_parameters, dict):
        leaf = case.body.get("promiseId", case.path_parameters.get("id"))
        if leaf is not None and case.body.get("rootPromiseId") == leaf:
            case.body["rootPromiseId"] = f"{leaf}'s root"
