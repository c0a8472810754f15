"""Refusals: the exception that carries one, and the JSON body that every refusal has.

The shape is rest.md 0.4's; the wording is ours: which field is wrong, what was given, what is
allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from troth.core.codes import EXPLANATIONS, MESSAGES, Code

from .requests import Response, json_response

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of a request.

    `field` is the JSON path (`param.data`), or `header Strict`, `query limit`, `path counter`,
    `body`.
    """

    field: str
    problem: str


class ApiError(Exception):
    """A request that is refused. Whoever raises it blames the code's owner: 4xx client, 5xx us."""

    def __init__(
        self,
        code: Code,
        problems: Sequence[FieldProblem] = (),
        *,
        message: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """`message` replaces the detail text that the code has by default."""
        super().__init__(f"{code.value} {MESSAGES[code]}")
        self.code = code
        self.problems = tuple(problems)
        self.message = message
        self.headers = tuple(headers)


def invalid(field: str, problem: str) -> ApiError:
    """Make the refusal (400) of a request with one wrong field."""
    return ApiError(Code.INVALID, [FieldProblem(field, problem)])


def error_body(error: ApiError, url: str, request_id: str) -> bytes:
    """Render the JSON body of a refusal."""
    code = error.code
    metadata = {"url": f"{url}/docs/errors#{code.value}"}
    if request_id:
        metadata["requestId"] = request_id
    if error.problems:
        details = [
            {
                "@type": "FieldValidationError",
                "message": f"{problem.field}: {problem.problem}",
                "domain": "request",
                "metadata": {"field": problem.field, **metadata},
            }
            for problem in error.problems
        ]
    else:
        ours = code.status >= 500 or code is Code.RECEIVER_NOT_FOUND
        details = [
            {
                "@type": "ServerError" if ours else "RequestError",
                "message": error.message or EXPLANATIONS[code],
                "domain": "server" if ours else "request",
                "metadata": metadata,
            }
        ]
    return orjson.dumps(
        {"error": {"code": code.value, "message": MESSAGES[code], "details": details}}
    )


def error_response(error: ApiError, url: str, request_id: str) -> Response:
    """Render a refusal; 503 says when to try again."""
    headers = list(error.headers)
    if error.code.status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    return json_response(error.code.status, error_body(error, url, request_id), headers)
