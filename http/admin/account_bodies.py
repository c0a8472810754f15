"""The bodies of requests to the endpoints that look after accounts and tokens."""

from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Struct

from troth.core import limits
from troth.core.catalog import Scope
from troth.http.wire.fields import Field, Flag, Integer, RequestLimits, Text
from troth.http.wire.schema_parts import Schema

_SCOPES: Final = tuple(scope.value for scope in Scope)
_ID: Final = "65fb40f0a1b2c3d4e5f60718"
_FAR_MS: Final = 4_102_444_800_000  # the year 2100


@dataclass(frozen=True, slots=True)
class ScopeList(Field):
    """A list of scopes: at least one."""

    def check(self, value: list[str] | None, limits: RequestLimits) -> str | None:  # noqa: ARG002
        """Accept only words that are scopes."""
        allowed = ", ".join(_SCOPES)
        if not value:
            return f"is required and must be {allowed}"
        for word in value:
            if word not in _SCOPES:
                return f"must be one of {allowed} (got {word[:64]!r})"
        return None

    def schema(self, limits: RequestLimits) -> Schema:  # noqa: ARG002
        """Return an array of the words."""
        words = {"type": "string", "enum": list(_SCOPES)}
        return self.describe({"type": "array", "minItems": 1, "items": words})


class IdPrefix(Text):
    """A prefix of ids: never empty, which would mean all ids."""

    __slots__ = ()

    def check(self, value: str | None, limits: RequestLimits) -> str | None:
        """Accept what is not empty, and not longer than an id."""
        if not value:
            return "must not be empty; leave it out for a token that may name all ids"
        return Text.check(self, value, limits)

    def schema(self, limits: RequestLimits) -> Schema:
        """Return a string of at least one character."""
        return {**Text.schema(self, limits), "minLength": 1}


class CreateAccountBody(Struct, rename="camel", forbid_unknown_fields=True):
    """A new account."""

    name: Annotated[
        str | None,
        Text(
            "Its name, which no other account has.",
            "billing",
            required=True,
            limit_bytes=limits.ACCOUNT_NAME_LIMIT_BYTES,
        ),
    ] = None


class ChangeAccountBody(Struct, rename="camel", forbid_unknown_fields=True):
    """The changes to an account."""

    disabled: Annotated[
        bool | None,
        Flag("True: none of its tokens works any more. False: they do again.", True, required=True),
    ] = None


class CreateTokenBody(Struct, rename="camel", forbid_unknown_fields=True):
    """A new token."""

    account: Annotated[
        str | None,
        Text("The account it acts for: its id or its name.", "billing", required=True),
    ] = None
    scopes: Annotated[
        list[str] | None,
        ScopeList(
            "What it allows.",
            [Scope.PROMISES_READ.value, Scope.PROMISES_WRITE.value],
            required=True,
        ),
    ] = None
    name: Annotated[
        str | None,
        Text("What it is for.", "nightly job", limit_bytes=limits.ACCOUNT_NAME_LIMIT_BYTES),
    ] = None
    expires_in: Annotated[
        int | None,
        Integer("In how many milliseconds it stops working; absent: never.", minimum=1),
    ] = None
    expires_at: Annotated[
        int | None,
        Integer("When it stops working, in milliseconds since 1970; absent: never.", _FAR_MS),
    ] = None
    id_prefix: Annotated[
        str | None,
        IdPrefix("What the ids must begin with that it may name; absent: any.", "billing/"),
    ] = None


class RotateTokenBody(Struct, rename="camel", forbid_unknown_fields=True):
    """The token that gets a new secret."""

    id: Annotated[
        str | None,
        Text("The token's id, or its name if no other valid token has it.", _ID, required=True),
    ] = None
    grace: Annotated[
        int | None,
        Integer(
            "How long the secret before still works, in milliseconds; 0, or absent: not at all.",
            3_600_000,
            minimum=0,
        ),
    ] = None
