"""The bodies and answers of the endpoints that look after accounts and tokens."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Struct

from troth.core import limits
from troth.core.catalog import Account, Scope, Token
from troth.http.identity.credentials import TokenState
from troth.http.wire.fields import Field, Flag, Integer, RequestLimits, Schema, Text
from troth.http.wire.json_text import JsonObject
from troth.http.wire.schema_parts import object_of, text, time_ms

_SCOPES: Final = tuple(scope.value for scope in Scope)
_FAR_MS: Final = 4_102_444_800_000  # the year 2100


@dataclass(frozen=True, slots=True)
class ScopeList(Field):
    """A list of scopes: at least one."""

    def check(self, value: list[str] | None, limits: RequestLimits) -> str | None:  # noqa: ARG002
        """Only words that are scopes."""
        allowed = ", ".join(_SCOPES)
        if not value:
            return f"is required and must not be empty; allowed are {allowed}"
        for word in value:
            if word not in _SCOPES:
                return f"given {word[:64]!r}; allowed are {allowed}"
        return None

    def schema(self, limits: RequestLimits) -> Schema:  # noqa: ARG002
        """An array of the words."""
        words = {"type": "string", "enum": list(_SCOPES)}
        return self.describe({"type": "array", "minItems": 1, "items": words})


class IdPrefix(Text):
    """What ids begin with: never nothing, which would be all ids."""

    __slots__ = ()

    def check(self, value: str | None, limits: RequestLimits) -> str | None:
        """Not empty, and no longer than an id."""
        if not value:
            return "must not be empty; leave it out for a token that may name all ids"
        return Text.check(self, value, limits)

    def schema(self, limits: RequestLimits) -> Schema:
        """A string of at least one character."""
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
    """What is to change about an account."""

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


def account_object(account: Account) -> JsonObject:
    """An account, as `SCHEMAS` says."""
    return {
        "id": account.id,
        "name": account.name,
        "createdOn": account.created_on,
        "disabled": account.disabled,
    }


def token_object(token: Token, account: Account | None, state: TokenState) -> JsonObject:
    """A token without its secret, which nobody but its bearer has."""
    return {
        "id": token.id,
        "account": token.account_id,
        "accountName": "" if account is None else account.name,
        "name": token.name,
        "scopes": [scope.value for scope in token.scopes],
        "idPrefix": token.id_prefix,
        "state": state.value,
        "createdOn": token.created_on,
        "expiresOn": token.expires_on,
        "revokedOn": token.revoked_on,
    }


_ID: Final = "65fb40f0a1b2c3d4e5f60718"


def _time_or_null(description: str) -> Schema:
    return {"anyOf": [time_ms(description), {"type": "null"}]}


def _array(description: str, name: str) -> Schema:
    items = {"$ref": f"#/components/schemas/{name}"}
    return {"type": "array", "description": description, "items": items}


SCHEMAS: Final[dict[str, Any]] = {
    "Created": object_of("What was made.", id=text("Its id.", _ID)),
    "Account": object_of(
        "An account.",
        id=text("The id.", _ID),
        name=text("The name.", "billing"),
        createdOn=time_ms("When it was made"),
        disabled={
            "type": "boolean",
            "description": "Whether its tokens do not work.",
            "examples": [False],
        },
    ),
    "Accounts": _array("All accounts, the oldest first.", "Account"),
    "CreatedToken": object_of(
        "The new token. Its text is shown this once.",
        id=text("The id.", _ID),
        token=text("What to send as `Authorization: Bearer`.", "troth_…"),
    ),
    "Token": object_of(
        "A token, without its text.",
        id=text("The id.", _ID),
        account=text("The id of its account.", _ID),
        accountName=text("The name of its account.", "billing"),
        name=text("What it is for; may be empty.", "nightly job"),
        scopes={
            "type": "array",
            "description": "What it allows.",
            "items": {"type": "string", "enum": list(_SCOPES)},
            "examples": [[Scope.PROMISES_READ.value]],
        },
        idPrefix=text("What the ids must begin with that it may name; may be empty.", "billing/"),
        state={
            "type": "string",
            "enum": [state.value for state in TokenState],
            "description": "Only an active token works.",
            "examples": [TokenState.ACTIVE.value],
        },
        createdOn=time_ms("When it was made"),
        expiresOn=_time_or_null("When it stops working"),
        revokedOn=_time_or_null("When it was revoked"),
    ),
    "Tokens": _array("All tokens, the oldest first.", "Token"),
    "AuditEntry": {
        "type": "object",
        "description": "One act; what it was about is in further keys.",
        "properties": {
            "time": text("When, in RFC 3339.", "2026-11-22T10:00:00.000Z"),
            "act": text("What was done.", "token.revoke"),
            "outcome": text("`done`, or `refused` and a code.", "done"),
            "by": text("Who did it.", "operator"),
            "from": {
                "type": ["string", "null"],
                "description": "The network address it came from.",
                "examples": ["127.0.0.1"],
            },
            "request": text("The request's id, as in the log.", "a1b2c3"),
        },
        "required": ["time", "act", "outcome", "by", "from", "request"],
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
    },
    "AuditEntries": _array("The last acts, the oldest of them first.", "AuditEntry"),
}
"""The answers, by name; `response_schemas.SCHEMAS` includes them."""
