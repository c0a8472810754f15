"""Sessions of browsers: what a cookie stands for, in memory only.

What this module promises:

- A session has the rights of the credentials that opened it, never more, and ends with them.
- No secret is kept: of a cookie only its SHA-256, which is enough for 256 random bits.
- A session ends `SESSION_IDLE_LIMIT_MS` after it was last used, an open stream being use, and
  `SESSION_LIMIT_MS` after it began. Its streams end with it (`watch`).
- There are at most `SESSIONS_LIMIT_COUNT`, and `SESSIONS_OF_ONE_LIMIT_COUNT` of the same
  credentials. Beyond that the one that was not used for longest ends.
- A one-time code opens one session, within `CODE_LIMIT_MS`.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct, structs

from troth.core.limits import (
    CODE_LIMIT_MS,
    CODES_LIMIT_COUNT,
    SESSION_IDLE_LIMIT_MS,
    SESSION_LIMIT_MS,
    SESSIONS_LIMIT_COUNT,
    SESSIONS_OF_ONE_LIMIT_COUNT,
)
from troth.http.wire.principals import OPEN_SCOPES, OPERATOR, Principal, PrincipalKind

from .changes import Change, EndedSession, OpenedSession
from .digests import digest_of

_SECRET_BYTES: Final = 32
_ID_DIGITS: Final = 16

SESSION_OF_OPERATOR: Final = structs.replace(OPERATOR, scopes=OPERATOR.scopes | OPEN_SCOPES)
"""What a session of the operator may do: who has the key could make a token for all of it."""


class BrowserSession(Struct, eq=False):
    """One session. `csrf` is what its page sends with all that changes something.

    `ends_ms` is its end, whatever happens, in ms since 1970; `used_ms` when it was last used.
    `streams` has what stops its open streams. `forget` ends the watch for its token's end.
    """

    principal: Principal
    digest: str
    csrf: str
    opened_ms: int
    ends_ms: int
    used_ms: int
    streams: set[Callable[[], None]]
    forget: Callable[[], None] = lambda: None

    @property
    def id(self) -> str:
        """The id that logs may show."""
        return self.principal.session_id


class _Code(Struct, frozen=True):
    """A one-time code: whose session it opens, and until when."""

    principal: Principal
    ends_ms: int


class Sessions:
    """The sessions of one server, and the codes that open some."""

    def __init__(
        self, now_ms: Callable[[], int], on_change: Callable[[Change], None] = lambda _: None
    ) -> None:
        """Initialize. `now_ms` is the clock by which sessions end.

        `on_change` is told of those that are opened and ended.
        """
        self._now_ms = now_ms
        self._on_change = on_change
        # In the order of their last use.
        self._sessions: dict[str, BrowserSession] = {}
        self._by_id: dict[str, BrowserSession] = {}
        self._codes: dict[str, _Code] = {}
        self._used: set[str] = set()

    def __len__(self) -> int:
        """Return how many there are, those that have ended unnoticed included."""
        return len(self._sessions)

    def open(self, principal: Principal) -> tuple[str, BrowserSession]:
        """Open a session with a principal's rights; return the cookie's secret and the session."""
        now_ms = self._now_ms()
        self._make_room(principal)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        digest = digest_of(secret)
        if principal.kind is PrincipalKind.OPERATOR:
            principal = SESSION_OF_OPERATOR
        ends_ms = now_ms + SESSION_LIMIT_MS
        if principal.expires_on is not None:
            ends_ms = min(ends_ms, principal.expires_on)
        principal = structs.replace(principal, session_id=digest[:_ID_DIGITS])
        csrf = secrets.token_urlsafe(_SECRET_BYTES)
        session = self._put(OpenedSession(principal, digest, csrf, now_ms, ends_ms, now_ms))
        return secret, session

    def _put(self, opened: OpenedSession) -> BrowserSession:
        session = BrowserSession(
            opened.principal,
            opened.digest,
            opened.csrf,
            opened.opened_ms,
            opened.ends_ms,
            opened.used_ms,
            set(),
        )
        self._sessions[session.digest] = self._by_id[session.id] = session
        self._on_change(opened)
        return session

    def _make_room(self, principal: Principal) -> None:
        """End those that have ended unnoticed, and the least used if there are too many."""
        for session in list(self._sessions.values()):
            if self._has_ended(session):
                self.end(session)
        owner = _owner(principal)
        of_one = [one for one in self._sessions.values() if _owner(one.principal) == owner]
        if len(of_one) >= SESSIONS_OF_ONE_LIMIT_COUNT:
            self.end(of_one[0])
        if len(self._sessions) >= SESSIONS_LIMIT_COUNT:
            self.end(next(iter(self._sessions.values())))

    def find(self, secret: str) -> BrowserSession | None:
        """Return the session of a cookie, and note that it is used; None if there is none."""
        session = self._sessions.get(digest_of(secret))
        if session is None:
            return None
        if self._has_ended(session):
            self.end(session)
            return None
        self._use(session)
        return session

    def _use(self, session: BrowserSession) -> None:
        self._used.add(session.principal.token_id)
        session.used_ms = self._now_ms()
        self._sessions[session.digest] = self._sessions.pop(session.digest)

    def take_used(self) -> set[str]:
        """Return the ids of tokens whose sessions were used since the last call, or have streams.

        Sessions of users count as those of the empty id.
        """
        used, self._used = self._used, set()
        watching = (one for one in self._sessions.values() if one.streams)
        return used | {one.principal.token_id for one in watching}

    def opened(self) -> list[OpenedSession]:
        """Return all sessions, as others are told of them."""
        return [
            OpenedSession(
                one.principal, one.digest, one.csrf, one.opened_ms, one.ends_ms, one.used_ms
            )
            for one in self._sessions.values()
        ]

    def used_since(self, since_ms: int) -> tuple[str, ...]:
        """Return the digests of the sessions that were used since then, or have streams."""
        sessions = self._sessions.values()
        return tuple(one.digest for one in sessions if one.used_ms >= since_ms or one.streams)

    def note_used(self, digests: Iterable[str], used_ms: int) -> None:
        """Note that sessions were used, as another process says."""
        for digest in digests:
            session = self._sessions.pop(digest, None)
            if session is not None:
                session.used_ms = max(session.used_ms, used_ms)
                self._sessions[digest] = session

    def count_by_token(self) -> Counter[str]:
        """Return how many sessions there are of each token, by its id."""
        return Counter(one.principal.token_id for one in self._sessions.values())

    def _has_ended(self, session: BrowserSession) -> bool:
        now_ms = self._now_ms()
        is_idle = not session.streams and now_ms - session.used_ms >= SESSION_IDLE_LIMIT_MS
        return is_idle or now_ms >= session.ends_ms

    def of(self, principal: Principal) -> BrowserSession | None:
        """Return the session that a request came with."""
        return self._by_id.get(principal.session_id)

    def end(self, session: BrowserSession) -> None:
        """End a session, and its streams."""
        if self._sessions.pop(session.digest, None) is None:
            return
        del self._by_id[session.id]
        session.forget()
        for stop in list(session.streams):
            stop()
        self._on_change(EndedSession(session.digest))

    def watch(self, principal: Principal, stop: Callable[[], None]) -> Callable[[], None]:
        """Register `stop`, called when the session ends early; return its removal."""
        session = self.of(principal)
        if session is None:
            stop()  # it has ended since its cookie was looked at
            return lambda: None
        session.streams.add(stop)

        def forget() -> None:
            session.streams.discard(stop)
            if session.digest in self._sessions:
                self._use(session)

        return forget

    def remaining_ms(self, principal: Principal) -> int:
        """Return how long a session goes on while it is used; 0 if it has ended."""
        session = self.of(principal)
        return 0 if session is None else max(0, session.ends_ms - self._now_ms())

    # One-time codes

    def new_code(self, principal: Principal) -> str:
        """Make a code that opens one session with a principal's rights."""
        now_ms = self._now_ms()
        self._codes = {text: code for text, code in self._codes.items() if code.ends_ms > now_ms}
        while len(self._codes) >= CODES_LIMIT_COUNT:
            del self._codes[next(iter(self._codes))]
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        self._codes[digest_of(secret)] = _Code(principal, now_ms + CODE_LIMIT_MS)
        return secret

    def take_code(self, secret: str) -> Principal | None:
        """Use a code up: return whose session it opens; None if it is unknown or too old."""
        code = self._codes.pop(digest_of(secret), None)
        return None if code is None or code.ends_ms <= self._now_ms() else code.principal


def _owner(principal: Principal) -> tuple[str, str, str]:
    """Return what sessions of the same credentials have in common."""
    return principal.kind.value, principal.token_id, principal.name
