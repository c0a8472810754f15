"""Promise id templates of schedules: `{{.id}}` and `{{.timestamp}}`, nothing else.

The values are put in as they are (decisions.md 1). Blanks inside the braces are allowed, as in Go
templates.
"""

import re

# The blanks are taken off afterwards: in the pattern they could be divided in too many ways.
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAMES = (".id", ".timestamp")


def check(template: str) -> str | None:
    """Say what is wrong with a template; None if nothing is."""
    for match in _PLACEHOLDER.finditer(template):
        if match[1].strip() not in _NAMES:
            return (
                f"unknown placeholder {match[0]!r}; only {{{{.id}}}} and {{{{.timestamp}}}} are "
                "supported"
            )
    rest = _PLACEHOLDER.sub("", template)
    if "{{" in rest or "}}" in rest:
        return "unbalanced '{{' or '}}'"
    return None


def beginning(template: str, schedule_id: str) -> str:
    """Return what the promise ids of all runs of a schedule begin with, as far as it is certain."""
    for match in _PLACEHOLDER.finditer(template):
        if match[1].strip() != ".id":
            template = template[: match.start()]
            break
    return expand(template, schedule_id, 0)


def expand(template: str, schedule_id: str, timestamp_ms: int) -> str:
    """Return the promise id for the run of a schedule at `timestamp_ms`."""
    values = {".id": schedule_id, ".timestamp": str(timestamp_ms)}
    return _PLACEHOLDER.sub(lambda match: values.get(match[1].strip(), match[0]), template)
