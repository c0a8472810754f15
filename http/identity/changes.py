"""What changes in the credentials of a server, as one of its processes tells it to the others.

An account or a token stands for itself. No secret is among it: of tokens and cookies only digests.
"""

from msgspec import Struct

from troth.core.catalog import Account, Token
from troth.http.wire.principals import Principal


class DroppedToken(Struct, frozen=True, array_like=True, tag="dropped"):
    """A token that no longer worked was deleted."""

    token_id: str


class EndedStreams(Struct, frozen=True, array_like=True, tag="streams"):
    """The open streams of a token end, since its secret is another one now."""

    token_id: str


class OpenedSession(Struct, frozen=True, array_like=True, tag="opened"):
    """A session; see `sessions.BrowserSession`."""

    principal: Principal
    digest: str
    csrf: str
    opened_ms: int
    ends_ms: int
    used_ms: int


class EndedSession(Struct, frozen=True, array_like=True, tag="ended"):
    """A session has ended."""

    digest: str


class UsedSessions(Struct, frozen=True, array_like=True, tag="used"):
    """Sessions were used, at about this time."""

    digests: tuple[str, ...]
    used_ms: int


Change = Account | Token | DroppedToken | EndedStreams | OpenedSession | EndedSession | UsedSessions
