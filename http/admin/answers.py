"""The answers of the endpoints for operators: the types, and how they are made."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

from msgspec import UNSET, Struct, UnsetType
from msgspec import field as struct_field

from troth.core.catalog import Account, Scope, Token
from troth.http.identity.credentials import TokenState
from troth.http.wire.answers import time_ms, told
from troth.http.wire.schema_parts import Schema

_ID: Final = "65fb40f0a1b2c3d4e5f60718"


class StatusObject(Struct, gc=False):
    """A word."""

    status: Annotated[str, told("`ok` or `ready`.", "ok")]
    clock: Annotated[
        str | UnsetType,
        told(
            "Says by how much the wall clock was set while the server ran; absent if it was not.",
            "the wall clock was set by -86395000 ms while the server ran",
        ),
    ] = UNSET


class CreatedObject(Struct, gc=False):
    """The created object."""

    id: Annotated[str, told("Its id.", _ID)]


class AccountObject(Struct, gc=False, rename="camel"):
    """An account."""

    id: Annotated[str, told("The id.", _ID)]
    name: Annotated[str, told("The name.", "billing")]
    created_on: Annotated[int, time_ms("When it was made")]
    disabled: Annotated[bool, told("Whether its tokens do not work.", False)]


class CreatedTokenObject(Struct, gc=False):
    """The new token. Its text is shown this once."""

    id: Annotated[str, told("The id.", _ID)]
    token: Annotated[str, told("What to send as `Authorization: Bearer`.", "troth_…")]


class TokenObject(Struct, gc=False, rename="camel"):
    """A token, without its text."""

    id: Annotated[str, told("The id.", _ID)]
    account: Annotated[str, told("The id of its account.", _ID)]
    account_name: Annotated[str, told("The name of its account.", "billing")]
    name: Annotated[str, told("What it is for; may be empty.", "nightly job")]
    scopes: Annotated[tuple[Scope, ...], told("What it allows.", [Scope.PROMISES_READ.value])]
    id_prefix: Annotated[
        str, told("The prefix of all ids that it may name; may be empty.", "billing/")
    ]
    state: Annotated[TokenState, told("Only an active token works.", TokenState.ACTIVE.value)]
    created_on: Annotated[int, time_ms("When it was made")]
    expires_on: Annotated[int | None, time_ms("When it stops working")]
    revoked_on: Annotated[int | None, time_ms("When it was revoked")]
    last_used_on: Annotated[int | None, time_ms("When it was last used, some minutes more or less")]
    old_secret_until: Annotated[
        int | None, time_ms("Until when the secret before the last rotation works")
    ]


class AuditEntryObject(Struct, gc=False):
    """One act; further keys name its subject.

    Entries are answered as they are in the log, so nothing is made of this type; tests compare.
    """

    FURTHER: ClassVar[Schema] = {
        "oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]
    }

    time: Annotated[str, told("When, in RFC 3339.", "2026-11-22T10:00:00.000Z")]
    act: Annotated[str, told("What was done.", "token.revoke")]
    outcome: Annotated[str, told("`done`, or `refused` and a code.", "done")]
    by: Annotated[str, told("Who did it.", "operator")]
    from_: Annotated[str | None, told("The network address it came from.", "127.0.0.1")] = (
        struct_field(name="from")
    )
    request: Annotated[str, told("The request's id, as in the log.", "a1b2c3")]


class KeptSnapshotObject(Struct, gc=False, rename="camel"):
    """A snapshot in the server's directory."""

    name: Annotated[str, told("The file's name.", "troth-20260301T100000Z-000000000012.snapshot")]
    bytes: Annotated[int, told("Its size.", 4_096)]
    created_on: Annotated[int | None, time_ms("When it was taken")]
    problem: Annotated[str | None, told("Why it is of no use, if it is.", None)]


class KeptSnapshotsObject(Struct, gc=False):
    """The snapshots in the server's directory."""

    snapshots: Annotated[list[KeptSnapshotObject], told("Oldest first.")]


class ImportedObject(Struct, gc=False):
    """The outcome for one promise."""

    id: Annotated[str, told("Its id.", "order/42")]
    result: Annotated[
        str,
        told(
            "`present`: it was here already. `conflict`: another promise has its id; it stays.",
            "created",
            enum=["created", "present", "conflict"],
        ),
    ]


class ImportOutcomeObject(Struct, gc=False):
    """The outcome for all promises."""

    promises: Annotated[list[ImportedObject], told("As in the request.")]


class RetainedByRuleObject(Struct, gc=False):
    """One rule."""

    rule: Annotated[str, told("The rule.", "resolved:7d")]
    count: Annotated[int, told("How many promises it has deleted, or would delete.", 3)]


class RetentionOutcomeObject(Struct, gc=False, rename="camel"):
    """What retention did."""

    dry_run: Annotated[bool, told("Whether promises were only counted.", True)]
    rules: Annotated[list[RetainedByRuleObject], told("The rules, in order.")]
    waiting: Annotated[
        int, told("Promises that were due, but that unfinished work still needs.", 0)
    ]
    duration_ms: Annotated[int, told("How long it took, in milliseconds.", 12)]


ACCOUNTS: Final = Annotated[list[AccountObject], told("All accounts, the oldest first.")]
TOKENS: Final = Annotated[list[TokenObject], told("All tokens, the oldest first.")]
AUDIT_ENTRIES: Final = Annotated[
    list[AuditEntryObject], told("The last acts, the oldest of them first.")
]


def account_object(account: Account) -> AccountObject:
    """Return an account."""
    return AccountObject(account.id, account.name, account.created_on, account.disabled)


def token_object(
    token: Token, account: Account | None, state: TokenState, last_used_on: int | None
) -> TokenObject:
    """Return a token without its secret, which only its bearer has."""
    return TokenObject(
        id=token.id,
        account=token.account_id,
        account_name="" if account is None else account.name,
        name=token.name,
        scopes=token.scopes,
        id_prefix=token.id_prefix,
        state=state,
        created_on=token.created_on,
        expires_on=token.expires_on,
        revoked_on=token.revoked_on,
        last_used_on=last_used_on,
        old_secret_until=token.old_until,
    )


def retention_outcome(
    rules: Sequence[str],
    counts: Sequence[int],
    *,
    is_dry: bool,
    waiting_count: int,
    duration_ms: int,
) -> RetentionOutcomeObject:
    """Return what retention did; `counts` has one number for each rule."""
    counted = [RetainedByRuleObject(*row) for row in zip(rules, counts, strict=True)]
    return RetentionOutcomeObject(is_dry, counted, waiting_count, duration_ms)
