"""What a server answered, and the words for a refusal: its code, what happened, what to do.

A refusal by the server becomes `RequestRefused` (exit status 1). A server that does not answer, or
not in the language of the API, becomes `ServerUnreachable` (exit status 3). Nothing here sends a
request, so a command's help needs no HTTP library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from troth.core.codes import EXPLANATIONS, Code

_SHOWN_TEXT_COUNT: Final = 300

HINTS: Final[Mapping[int, str]] = {
    Code.UNAUTHORIZED: (
        "Give --token, or --user and --password; or set TROTH_TOKEN, or TROTH_USER and "
        "TROTH_PASSWORD. Operations on the whole server also takes --data with the server's data "
        "directory, if that is on this machine."
    ),
    Code.FORBIDDEN_SCOPE: "`troth token create ACCOUNT --scope SCOPE` makes one that may.",
    Code.ACCOUNT_NOT_FOUND: "`troth account list` shows all.",
    Code.TOKEN_NOT_FOUND: "`troth token list` shows the ids of all.",
    Code.PROMISE_RESOLVED: "`troth promises get ID` shows its value.",
    Code.PROMISE_REJECTED: "`troth promises get ID` shows its value.",
    Code.PROMISE_CANCELED: "`troth promises get ID` shows its value.",
    Code.PROMISE_NOT_FOUND: "`troth promises search 'PREFIX*'` finds ids.",
    Code.SCHEDULE_NOT_FOUND: "`troth schedules search 'PREFIX*'` finds ids.",
    Code.PROMISE_EXISTS: "Choose another id, or give the --idempotency-key it was created with.",
    Code.SCHEDULE_EXISTS: "Choose another id, or delete the schedule that has it first.",
    Code.PATH_NOT_FOUND: "Does --server name the server's API address, without a path of its own?",
}
"""What the user of the command line can do about a refusal, by code."""

_EXPLANATIONS: Final = {code.value: text for code, text in EXPLANATIONS.items()}


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What the server said. `text` is the body as it came, `content` its JSON; None if empty."""

    status: int
    text: str
    content: Any
    fencing_token: str | None = None

    @property
    def is_new(self) -> bool:
        """Return whether the request changed something (201) rather than found it done (200)."""
        return self.status == 201


class RequestRefused(click.ClickException):
    """The server understood and said no. Ends the command with status 1."""

    exit_code = 1

    def __init__(self, message: str, answer: ApiAnswer) -> None:
        """Initialize. `message` is for people; `answer` is what the server sent."""
        super().__init__(message)
        self.answer = answer


class ServerUnreachable(click.ClickException):
    """No Troth server answered. Ends the command with status 3."""

    exit_code = 3


def refusal(answer: ApiAnswer, reason: str, retry_after: str | None) -> str:
    """Return the code and its meaning, then the server's explanation, then what to do.

    `reason` is what the status line said after its number, `retry_after` the header, in seconds.
    """
    error = answer.content.get("error") if isinstance(answer.content, dict) else None
    if not isinstance(error, dict):
        # Not the API's own refusal: a proxy, another program, a page.
        code = Code.UNAUTHORIZED.value if answer.status == 401 else 0
        shown = answer.text.strip()[:_SHOWN_TEXT_COUNT]
        lines = [f"HTTP status {answer.status} {reason}".rstrip(), shown]
    else:
        given = error.get("code")
        code = given if isinstance(given, int) else 0
        meaning = error.get("message") or "refused without giving a reason"
        lines = [f"{code} {meaning}", *_details(error)]
        if len(lines) == 1:
            lines.append(_EXPLANATIONS.get(code, ""))
    hint = HINTS.get(code, "")
    if retry_after and answer.status in {429, 503}:
        hint = f"Try again after {retry_after} s."
    if hint:
        lines.append(f"Hint: {hint}")
    return "\n  ".join(_visible(line) for line in lines if line)


def _details(error: Mapping[str, Any]) -> list[str]:
    details = error.get("details")
    if not isinstance(details, list):
        return []
    messages = [entry.get("message") for entry in details if isinstance(entry, dict)]
    return [message for message in messages if isinstance(message, str) and message]


def _visible(text: str) -> str:
    """Escape control characters: an answer must not control the terminal."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
