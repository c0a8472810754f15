"""Who sent a request, as handlers see it: what may be done, for which account, to which ids."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from troth.core.catalog import Scope

ACCOUNT_SCOPES: Final = frozenset(
    {
        Scope.TASKS_READ,
        Scope.TASKS_WRITE,
        Scope.FUNCTIONS_READ,
        Scope.FUNCTIONS_WRITE,
        Scope.NODE,
    }
)
"""What only makes sense for an account, since what it is about belongs to one."""


class PrincipalKind(StrEnum):
    """The kind of credentials that a request had."""

    ANONYMOUS = "anonymous"
    USER = "user"
    TOKEN = "token"  # noqa: S105  the name of a kind, not a secret
    OPERATOR = "operator"


class Principal(Struct, frozen=True):
    """Who sent a request. `account_id` and `token_id` are empty but for tokens.

    With an `id_prefix`, only ids with this prefix may be named. `expires_on` is when the token
    ends, in ms since 1970; None for never. `name` is a user's. A `session_id` says that it came
    with a session, whose rights are those of the credentials that opened it.
    """

    kind: PrincipalKind
    scopes: frozenset[Scope]
    name: str = ""
    account_id: str = ""
    token_id: str = ""
    id_prefix: str = ""
    expires_on: int | None = None
    session_id: str = ""

    @property
    def may_end(self) -> bool:
        """Return whether it may stop working while the server runs."""
        return self.kind is PrincipalKind.TOKEN or bool(self.session_id)


OPEN_SCOPES: Final = frozenset(Scope) - ACCOUNT_SCOPES - {Scope.ADMIN}
"""What needs no credentials while the server has neither users nor accounts."""

ANONYMOUS: Final = Principal(PrincipalKind.ANONYMOUS, OPEN_SCOPES)
"""A client without credentials; `authentication.py` decides whether that is enough."""

OPERATOR: Final = Principal(PrincipalKind.OPERATOR, frozenset({Scope.ADMIN}))
"""Who can read the key in the data directory."""
