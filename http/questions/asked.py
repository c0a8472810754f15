"""What questions read from a query string: numbers, words, times and cursors."""

from collections.abc import Collection, Mapping
from typing import Final, TypeVar, final

import msgspec
from msgspec import Struct

from troth.core.catalog import EXECUTION_PREFIX, RESERVED_PREFIX, Scope
from troth.core.codes import Code
from troth.core.json_bytes import encoder
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.limits import INTEGER_MAX
from troth.http.api.context import Api
from troth.http.api.permissions import refuse_unless_within
from troth.http.api.rows import Call, Parameter
from troth.http.promises.search_endpoints import words_schema
from troth.http.wire.cursors import FOREIGN_CURSOR, sign_payload, verified_payload
from troth.http.wire.decoding import integer, query_pairs
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.surveys.surveys import Surveys

LIMIT_COUNT: Final = 100
"""How many rows a page has unless asked otherwise."""

LIMIT_MAX_COUNT: Final = 1_000

Form = TypeVar("Form", bound=Struct)
_encode = encoder()


@final
class AskedQuery:
    """Query parameters. `done` raises ApiError with all that was wrong in what was read."""

    def __init__(self, query: bytes | Mapping[str, str]) -> None:
        self._pairs = list(query_pairs(query) if isinstance(query, bytes) else query.items())
        self._given = dict(reversed(self._pairs))  # of repeated ones the first
        self._problems: list[FieldProblem] = []

    def text(self, name: str) -> str | None:
        """Return a parameter; None if it is absent or empty."""
        return self._given.get(name) or None

    def texts(self, name: str, limit_count: int) -> list[str]:
        """Return all values of a parameter that may be repeated; empty ones do not count."""
        found = [given for known, given in self._pairs if known == name and given]
        if len(found) > limit_count:
            self.refuse(name, f"may be given {limit_count} times (got {len(found)})")
        return found

    def number(self, name: str, least: int, most: int, default: int) -> int:
        """Return a number within bounds."""
        given = self.text(name)
        if given is None:
            return default
        try:
            number = integer(f"query {name}", given)
            if not least <= number <= most:
                raise invalid(f"query {name}", f"must be between {least} and {most} (got {number})")
        except ApiError as error:
            self._problems.extend(error.problems)
            return default
        return number

    def limit(self, default: int = LIMIT_COUNT, most: int = LIMIT_MAX_COUNT) -> int:
        """Return how many rows are wanted."""
        return self.number("limit", 1, most, default)

    def time(self, name: str, default: int = INTEGER_MAX) -> int:
        """Return a time in ms since 1970."""
        return self.number(name, 0, INTEGER_MAX, default)

    def words(self, name: str, known: Collection[str]) -> frozenset[str]:
        """Return a list of words with commas between; empty if the parameter is absent."""
        given = self.text(name)
        words = frozenset() if given is None else frozenset(given.lower().split(","))
        unknown = sorted(words - frozenset(known))
        if unknown:
            self._problems.append(
                FieldProblem(
                    f"query {name}",
                    f"must be some of {', '.join(known)} (got {unknown[0][:64]!r})",
                )
            )
        return words - frozenset(unknown)

    def word(self, name: str, known: Collection[str], default: str) -> str:
        """Return one of a few words."""
        given = (self.text(name) or default).lower()
        if given in known:
            return given
        self._problems.append(
            FieldProblem(f"query {name}", f"must be one of {', '.join(known)} (got {given[:64]!r})")
        )
        return default

    def refuse(self, name: str, problem: str) -> None:
        """Note that a parameter is wrong."""
        self._problems.append(FieldProblem(f"query {name}", problem))

    def done(self) -> None:
        """Raise ApiError (400) if anything was wrong."""
        if self._problems:
            raise ApiError(Code.INVALID, self._problems)

    def place(self, form: type[Form], secret: bytes) -> Form | None:
        """Return where the page begins, from the parameter `cursor`. Raises ApiError (400)."""
        given = self.text("cursor")
        if given is None:
            return None
        refusal = invalid("query cursor", FOREIGN_CURSOR)
        payload = verified_payload(given, secret)
        if payload is None:
            raise refusal
        try:
            return msgspec.json.decode(payload, type=form)
        except UNREADABLE_JSON as error:
            # The secret outlives the program: another version has signed another form.
            raise refusal from error


def cursor(place: Struct, secret: bytes) -> str:
    """Make the cursor that `AskedQuery.place` reads."""
    return sign_payload(_encode(place), secret)


def surveys_of(api: Api) -> Surveys | AllSurveys:
    """Return what looks at the whole server."""
    assert api.surveys is not None, "a server has surveys"
    return api.surveys


def named_promise(call: Call) -> str:
    """Return the promise that a path names, if the sender may name it. Raises ApiError (403)."""
    promise_id = call.path["id"]
    if promise_id.startswith(RESERVED_PREFIX):
        raise ApiError(Code.RESERVED_ID)
    if call.request.principal.id_prefix:
        refuse_unless_within(call.request.principal, (promise_id,))
    return promise_id


def account_of(call: Call) -> str:
    """Return the account whose function tasks the sender may see; empty for none."""
    principal = call.request.principal
    return principal.account_id if Scope.TASKS_READ in principal.scopes else ""


def function_promise(call: Call) -> str | None:
    """Return the promise of the function task that a path names, if it names one that may be."""
    name = call.path["id"].removeprefix(EXECUTION_PREFIX)
    return EXECUTION_PREFIX + name if name and account_of(call) else None


def limit_parameter(default: int = LIMIT_COUNT, most: int = LIMIT_MAX_COUNT) -> Parameter:
    """Return the row's words on how many rows are wanted."""
    return Parameter(
        "limit",
        f"Rows per page; {default} unless given.",
        {"type": "integer", "minimum": 1, "maximum": most},
        example=10,
    )


CURSOR: Final = Parameter(
    "cursor",
    "The `cursor` of the previous page. The list then continues as it began; other parameters "
    "are ignored.",
    {"type": "string"},
)


def words_parameter(
    name: str, description: str, known: Mapping[str, object] | Collection[str]
) -> Parameter:
    """Return a parameter that is a list of words with commas between."""
    return Parameter(name, f"{description} With commas between.", words_schema(known))
