"""Refusals: the exception that carries one, and the JSON body that every refusal has.

The shape is rest.md 0.4's; the wording is Troth's: which field is wrong, what was given, what is
allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, Struct, UnsetType
from msgspec import field as struct_field

from troth.core.codes import EXPLANATIONS, MESSAGES, Code

from .answers import told
from .json_text import dump
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
    """A request that is refused. The code says who is to blame: 4xx the client, 5xx the server."""

    def __init__(
        self,
        code: Code,
        problems: Sequence[FieldProblem] = (),
        *,
        message: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Initialize. `message` replaces the detail text that the code has by default."""
        super().__init__(f"{code.value} {MESSAGES[code]}")
        self.code = code
        self.problems = tuple(problems)
        self.message = message
        self.headers = tuple(headers)


def invalid(field: str, problem: str) -> ApiError:
    """Make the refusal (400) of a request with one wrong field."""
    return ApiError(Code.INVALID, [FieldProblem(field, problem)])


class ErrorMetadataObject(Struct, gc=False, rename="camel"):
    """More about it."""

    field: Annotated[str | UnsetType, told("Which field is wrong.", "id")]
    url: Annotated[
        str, told("Where the code is explained.", "http://127.0.0.1:8001/docs/errors#40000")
    ]
    request_id: Annotated[str | UnsetType, told("The request's id, as in the log.", "a1b2c3")]


class ErrorDetailObject(Struct, gc=False):
    """One thing that is wrong."""

    type: Annotated[
        str,
        told(
            "Whether a field, the request or the server is to blame.",
            "FieldValidationError",
            enum=["FieldValidationError", "RequestError", "ServerError"],
        ),
    ] = struct_field(name="@type")
    message: Annotated[str, told("For people.", "id: is required and must not be empty")]
    domain: Annotated[str, told("Whose fault it is.", "request", enum=["request", "server"])]
    metadata: ErrorMetadataObject


class ErrorBodyObject(Struct, gc=False):
    """What is wrong."""

    code: Annotated[
        int,
        told(
            "A code that `/docs/errors` explains; its first three digits are the HTTP status.",
            Code.INVALID.value,
            enum=[code.value for code in Code if code.status >= 400],
        ),
    ]
    message: Annotated[str, told("The code in words.", "The request is invalid")]
    details: Annotated[list[ErrorDetailObject], told("At least one.")]


class ErrorObject(Struct, gc=False):
    """A refusal."""

    error: ErrorBodyObject


def error_object(error: ApiError, url: str, request_id: str) -> ErrorObject:
    """Return a refusal as its answer says it."""
    code = error.code
    where = f"{url}/docs/errors#{code.value}"
    asked = request_id or UNSET
    if error.problems:
        details = [
            ErrorDetailObject(
                "FieldValidationError",
                f"{problem.field}: {problem.problem}",
                "request",
                ErrorMetadataObject(problem.field, where, asked),
            )
            for problem in error.problems
        ]
    else:
        ours = code.status >= 500 or code is Code.RECEIVER_NOT_FOUND
        details = [
            ErrorDetailObject(
                "ServerError" if ours else "RequestError",
                error.message or EXPLANATIONS[code],
                "server" if ours else "request",
                ErrorMetadataObject(UNSET, where, asked),
            )
        ]
    return ErrorObject(ErrorBodyObject(code.value, MESSAGES[code], details))


def error_body(error: ApiError, url: str, request_id: str) -> bytes:
    """Render the JSON body of a refusal."""
    return dump(error_object(error, url, request_id))


def error_response(error: ApiError, url: str, request_id: str) -> Response:
    """Render a refusal; 503 says when to try again."""
    headers = list(error.headers)
    if error.code.status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    return json_response(error.code.status, error_body(error, url, request_id), headers)
