"""All principals the server knows: accounts, tokens, users and the operator, in memory.

What this module promises:

- What it says is true at this moment: a disabled account, or a token that was revoked or has
expired, is refused from the next request on, and its open streams end (`watch`).
- No secret is kept: of a token only its SHA-256, which is enough for 256 random bits. Looking one
  up is a dictionary access, whose time says nothing about any other token.
- The catalog in the shards is the durable copy. Code that changes an account or a token there tells
this object once that is durable (`put`).
- In a server of several processes each has such an object. Process 0 changes its own, which tells
`on_change`, and waits in `spread` before it answers; see `spreading.py` and `copied.py`.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

import trio
from msgspec.structs import replace

from troth.core.catalog import Account, Scope, Token
from troth.core.codes import Code
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import OPERATOR, Principal, PrincipalKind

from .attempts import Attempts
from .changes import Change, DroppedToken, EndedStreams
from .digests import digest_of
from .sessions import BrowserSession, Sessions

TOKEN_PREFIX: Final = "troth_"  # noqa: S105  what tokens begin with, so that scanners find them
_TOKEN_BYTES: Final = 32
_TOKEN_LENGTH: Final = len(TOKEN_PREFIX) + 43


class TokenState(StrEnum):
    """Whether a token works: only an active one does."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"
    REVOKED = "revoked"


def new_secret() -> str:
    """Make the text of a new token: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


async def _no_others() -> None:
    """Return: this is the only process."""


def _heard_by_no_one(change: Change) -> None:
    """Do nothing with a change."""


class Credentials:
    """The accounts, tokens and users of one server.

    `is_open` says whether no credentials are required: no users and no account, not even a disabled
    one. Until `is_loaded`, it knows only users and the operator.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        attempts: Attempts,
        now_ms: Callable[[], int],
    ) -> None:
        """Initialize. `users` has passwords by name; tokens expire by the clock `now_ms`."""
        self.attempts = attempts
        self.sessions = self._make_sessions(now_ms)
        self.operator_key = ""
        """The operator's key; empty if there is none."""
        self.is_loaded = True
        self._users = users
        self._now_ms = now_ms
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, Token] = {}
        self._bearers: dict[str, tuple[str, Principal]] = {}
        self._watched: dict[str, set[Callable[[], None]]] = {}
        self._used: set[str] = set()
        self.uses: dict[str, int] = {}
        """When tokens were seen to be used, in ms, by id."""
        self.is_open = self._shall_be_open()
        self.on_change: Callable[[Change], None] = _heard_by_no_one
        """Told of each change, sessions included, when it has taken effect here."""
        self.spread: Callable[[], Awaitable[None]] = _no_others
        """Waits until no process of the server goes by what was before the changes so far."""
        self.changing = trio.Lock()
        """Held while an account or a token is changed, from the first read to the last write."""
        self.in_doubt: dict[str, None] = {}
        """Ids of entries that the catalog may have otherwise; see `entry_changes.py`."""

    def _make_sessions(self, now_ms: Callable[[], int]) -> Sessions:
        return Sessions(now_ms, lambda change: self.on_change(change))

    def unknown(self) -> ApiError:
        """Make the refusal (503) of tokens while it is unknown which of them work."""
        return ApiError(Code.STARTING)

    def unload(self) -> None:
        """Accept only users and the operator until `load` has read the accounts."""
        self.is_loaded = self.is_open = False

    def load(self, accounts: Iterable[Account], tokens: Iterable[Token]) -> None:
        """Take in what the catalog holds; the credentials are loaded then."""
        for account in accounts:
            self.put(account)
        for token in tokens:
            self.put(token)
        self.is_loaded = True
        self.is_open = self._shall_be_open()

    def put(self, entry: Account | Token) -> None:
        """Take in a new or changed account or token; streams end whose bearer is a stranger now."""
        if isinstance(entry, Account):
            self._accounts[entry.id] = entry
            changed = [token for token in self._tokens.values() if token.account_id == entry.id]
        else:
            before = self._tokens.get(entry.id)
            if before is not None:
                self._forget_secrets(before)
            self._tokens[entry.id] = entry
            changed = [entry]
        for token in changed:
            self._judge(token)
        self.is_open = self._shall_be_open()
        self.on_change(entry)

    def drop(self, token: Token) -> None:
        """Forget a token that no longer works."""
        del self._tokens[token.id]
        self._forget_secrets(token)
        self.uses.pop(token.id, None)
        self.on_change(DroppedToken(token.id))

    def _forget_secrets(self, token: Token) -> None:
        self._bearers.pop(token.digest, None)
        self._bearers.pop(token.old_digest, None)

    def _judge(self, token: Token) -> None:
        account = self._accounts.get(token.account_id)
        if account is not None and not account.disabled and token.revoked_on is None:
            principal = Principal(
                PrincipalKind.TOKEN,
                frozenset(token.scopes),
                account.name,
                account.id,
                token.id,
                token.id_prefix,
                token.expires_on,
            )
            self._bearers[token.digest] = token.digest, principal
            if token.old_until is not None:
                ends = [one for one in (token.old_until, token.expires_on) if one is not None]
                outgoing = replace(principal, expires_on=min(ends))
                self._bearers[token.old_digest] = token.old_digest, outgoing
            return
        self._forget_secrets(token)
        self._stop_streams(token)

    def end_streams(self, token: Token) -> None:
        """End the open streams of a token; clients whose secret still works come again."""
        self._stop_streams(token)
        self.on_change(EndedStreams(token.id))

    def _stop_streams(self, token: Token) -> None:
        for stop in list(self._watched.get(token.id, ())):
            stop()

    def _shall_be_open(self) -> bool:
        return self.is_loaded and not self._users and not self._accounts

    # Who has shown this?

    @property
    def has_users(self) -> bool:
        """Return whether there are users with passwords (setting `basic_auth`)."""
        return bool(self._users)

    def bearer(self, secret: str) -> Principal | None:
        """Return the token's principal, or None if the token is unknown, expired or revoked."""
        if len(secret) != _TOKEN_LENGTH or not secret.isascii():
            return None
        digest = digest_of(secret)
        kept, principal = self._bearers.get(digest, ("", None))
        if principal is None or not hmac.compare_digest(kept, digest):
            return None
        if principal.expires_on is not None and principal.expires_on <= self._now_ms():
            return None
        self._used.add(principal.token_id)
        return principal

    def user(self, name: str, password: str) -> Principal | None:
        """Return the user of this name, if the password is theirs.

        An unknown user's password is compared too, so that the time does not tell who is one.
        """
        known = self._users.get(name)
        given, expected = digest_of(password), digest_of(known if known is not None else "")
        if hmac.compare_digest(given, expected) and known is not None:
            return Principal(PrincipalKind.USER, frozenset(Scope), name)
        return None

    def operator(self, secret: str) -> Principal | None:
        """Return the operator, if this is the key of the data directory."""
        key = self.operator_key.encode()
        return OPERATOR if key and hmac.compare_digest(key, secret.encode()) else None

    # What is there?

    def accounts(self) -> list[Account]:
        """Return all accounts, the oldest first."""
        return sorted(self._accounts.values(), key=lambda account: (account.created_on, account.id))

    def tokens(self) -> list[Token]:
        """Return all tokens, also those that no longer work, the oldest first."""
        return sorted(self._tokens.values(), key=lambda token: (token.created_on, token.id))

    def disabled_accounts(self) -> frozenset[str]:
        """Return the ids of the accounts that are disabled."""
        return frozenset(one.id for one in self._accounts.values() if one.disabled)

    def account(self, account_id: str) -> Account | None:
        """Return the account with this id, or else with this name, or None if there is none."""
        found = self._accounts.get(account_id)
        if found is not None:
            return found
        named = (one for one in self._accounts.values() if one.name == account_id)
        return next(named, None)

    def tokens_of(self, account: Account) -> list[Token]:
        """Return an account's tokens, also those that no longer work, the oldest first."""
        return [token for token in self.tokens() if token.account_id == account.id]

    def state_of(self, token: Token) -> TokenState:
        """Return whether a token works, and if not, why."""
        if token.revoked_on is not None:
            return TokenState.REVOKED
        if token.expires_on is not None and token.expires_on <= self._now_ms():
            return TokenState.EXPIRED
        account = self._accounts.get(token.account_id)
        return TokenState.DISABLED if account is None or account.disabled else TokenState.ACTIVE

    def account_or_token(self, entry_id: str) -> Account | Token | None:
        """Return what has this id, or None."""
        return self._accounts.get(entry_id) or self._tokens.get(entry_id)

    def token(self, token_id: str) -> Token | None:
        """Return the token with this id, or None if there is none."""
        return self._tokens.get(token_id)

    def used_on(self, token: Token) -> int | None:
        """Return when a token was last used, some minutes more or less; None if it never was."""
        if token.id in self._used:
            return self._now_ms()
        return self.uses.get(token.id, token.used_on)

    def note_used(self, token_ids: Iterable[str]) -> None:
        """Note that tokens were used, as another process says."""
        self._used |= set(token_ids)

    def take_used(self) -> set[str]:
        """Return the ids of tokens that were used since the last call.

        An open stream is a use, and so is what comes with the cookie of a token's session.
        """
        used, self._used = self._used | self.sessions.take_used(), set()
        sessions = self.sessions.count_by_token()  # each watches for its token's end, too
        watched = self._watched.items()
        return used.union(name for name, stops in watched if len(stops) > sessions[name])

    # Streams

    def watch(self, principal: Principal, stop: Callable[[], None]) -> Callable[[], None]:
        """Register `stop`, called when a token stops working before its expiry; return its removal.

        Only tokens and sessions can stop working.
        """
        if principal.session_id:
            return self.sessions.watch(principal, stop)
        token = self._tokens.get(principal.token_id)
        if token is None or self.state_of(token) is not TokenState.ACTIVE:
            stop()  # it has ended since its bearer was let in
        watched = self._watched.setdefault(principal.token_id, set())
        watched.add(stop)

        def forget() -> None:
            watched.discard(stop)
            if not watched and self._watched.get(principal.token_id) is watched:
                del self._watched[principal.token_id]

        return forget

    def remaining_ms(self, principal: Principal) -> int | None:
        """Return how long a principal's credentials are valid: None is forever, 0 no longer."""
        if principal.session_id:
            return self.sessions.remaining_ms(principal)
        if principal.expires_on is None:
            return None
        return max(0, principal.expires_on - self._now_ms())

    def open_session(self, principal: Principal) -> tuple[str, BrowserSession] | None:
        """Open a session that ends with a principal's token, if it has one.

        Return the cookie's secret and the session; None if the token does not work any more.
        """
        secret, session = self.sessions.open(principal)
        if principal.kind is PrincipalKind.TOKEN:
            session.forget = self.watch(principal, lambda: self.sessions.end(session))
            if self.sessions.of(session.principal) is None:
                session.forget()
                return None
        return secret, session
