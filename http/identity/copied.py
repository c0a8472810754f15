"""A copy of the credentials that process 0 owns, in another process of the same server.

What this module promises:

- The copy is read before anything is let in by it, and is told of each change before that is
  answered for (`spreading.py`).
- Without a word from the owner for `lease_s` it counts as stale: it is unknown then which
  tokens still work, and whether credentials are needed at all. What needs to know is refused (503),
  and open streams of tokens and sessions end. Users of the setting `basic_auth` and the operator
  are still known.
- While there is no owner, which the supervisor says again and again, nothing can change: a copy
  that is current stays so. One that is stale does not become current by that: it may have missed
  something before the owner ended.
- The time is looked at with each request, so a process that has hung lets no token in when it goes
  on.
- Sessions end by being idle on time, give or take two minutes: uses are told once a minute.
"""

from collections.abc import Callable, Mapping
from typing import Final, final

import structlog
import trio
from msgspec.structs import replace

from troth.core.catalog import Account, Token
from troth.core.limits import COPY_LEASE_MS, COPY_RENEWAL_MS
from troth.http.supervision.seat import OWNER
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import Principal, PrincipalKind
from troth.shards.errors import OutOfReach, ShardsError
from troth.shards.mesh.calls import ProcessCalls

from .attempts import Attempts
from .changes import (
    Change,
    DroppedToken,
    EndedSession,
    EndedStreams,
    OpenedSession,
    UsedSessions,
)
from .credentials import Credentials
from .sessions import BrowserSession, Sessions
from .spreading import (
    CHANGED,
    RENEW,
    TAKEN,
    USES_INTERVAL_MS,
    Renewal,
    Renewed,
    TakenVersion,
    ToldChange,
)

_STALE_MESSAGE: Final = (
    "This process of the server has lost contact with the one that knows accounts and tokens, so "
    "it is unknown at the moment whether these credentials still work. Nothing was done."
)

_log = structlog.get_logger("troth.http.credentials")


def _stale() -> ApiError:
    return ApiError(OutOfReach.code, message=_STALE_MESSAGE)


@final
class CopiedSessions(Sessions):
    """The sessions that a copy knows."""

    is_current: Callable[[], bool] = staticmethod(lambda: False)

    def find(self, secret: str) -> BrowserSession | None:
        """Do as for one process. Raises ApiError (503) while the copy is stale."""
        if not self.is_current():
            raise _stale()
        return super().find(secret)

    def adopt(self, opened: OpenedSession) -> BrowserSession:
        """Take in a session that was opened elsewhere."""
        known = self._sessions.get(opened.digest)
        return self._put(opened) if known is None else known

    def end_by_digest(self, digest: str) -> None:
        """End a session, if it is known."""
        session = self._sessions.get(digest)
        if session is not None:
            self.end(session)

    def end_streams(self) -> None:
        """End the streams of all sessions, which go on."""
        for session in list(self._sessions.values()):
            for stop in list(session.streams):
                stop()

    def keep_only(self, digests: set[str]) -> None:
        """End all other sessions."""
        for session in list(self._sessions.values()):
            if session.digest not in digests:
                self.end(session)


class CopiedCredentials(Credentials):
    """The credentials of a process that does not own them. `now_s` is a monotonic clock.

    `lease_ms` is how long it counts as current, as its owner knows.
    """

    sessions: CopiedSessions

    def __init__(
        self,
        users: Mapping[str, str],
        attempts: Attempts,
        now_ms: Callable[[], int],
        now_s: Callable[[], float],
        lease_ms: int | None = None,
    ) -> None:
        self._now_s = now_s
        self.lease_s = (lease_ms or COPY_LEASE_MS) / 1000
        self._until_s = float("-inf")
        self._is_open = self._is_loaded = False
        super().__init__(users, attempts, now_ms)
        self.unload()

    def _make_sessions(self, now_ms: Callable[[], int]) -> Sessions:
        sessions = CopiedSessions(now_ms)
        sessions.is_current = self.is_current
        return sessions

    def is_current(self) -> bool:
        """Return whether the owner was heard of lately enough."""
        return self._now_s() < self._until_s

    def renewed(self, until_s: float) -> None:
        """Count as current until then."""
        self._until_s = until_s

    def had_no_owner(self, at_s: float) -> None:
        """Note that there was no owner at a time of the same clock: nothing had changed by then."""
        if self.is_current():
            self._until_s = max(self._until_s, at_s + self.lease_s)

    @property
    def is_open(self) -> bool:
        """Return whether no credentials are required, and that is certain."""
        return self._is_open and self.is_current()

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        self._is_open = is_open

    @property
    def is_loaded(self) -> bool:
        """Return whether it is known which tokens work."""
        return self._is_loaded and self.is_current()

    @is_loaded.setter
    def is_loaded(self, is_loaded: bool) -> None:
        self._is_loaded = is_loaded

    def _shall_be_open(self) -> bool:
        return self._is_loaded and not self._users and not self._accounts

    def unknown(self) -> ApiError:
        """Make the refusal (503) of tokens while it is unknown which of them work."""
        return _stale() if self._is_loaded else super().unknown()

    def bearer(self, secret: str) -> Principal | None:
        """Do as for one process; but while the copy is stale no token is known."""
        return super().bearer(secret) if self.is_current() else None

    def end_all_streams(self) -> None:
        """End the streams of all tokens and sessions: it is unknown who may go on."""
        for token in list(self._tokens.values()):
            if token.id in self._watched:
                self._stop_streams(token)
        self.sessions.end_streams()

    # What the owner says

    def apply(self, change: Change) -> None:
        """Take in a change, or what is there already."""
        if isinstance(change, Account | Token):
            self.put(change)
        elif isinstance(change, DroppedToken):
            self._drop_known(change.token_id)
        elif isinstance(change, EndedStreams):
            token = self._tokens.get(change.token_id)
            if token is not None:
                self._stop_streams(token)
        elif isinstance(change, OpenedSession):
            self._adopt(change)
        elif isinstance(change, EndedSession):
            self.sessions.end_by_digest(change.digest)
        elif isinstance(change, UsedSessions):
            self.sessions.note_used(change.digests, change.used_ms)

    def _drop_known(self, token_id: str) -> None:
        token = self._tokens.get(token_id)
        if token is not None:
            self._stop_streams(token)
            self.drop(token)

    def _adopt(self, opened: OpenedSession) -> None:
        session = self.sessions.adopt(opened)
        if opened.principal.kind is PrincipalKind.TOKEN:
            session.forget()
            bearer = replace(opened.principal, session_id="")
            session.forget = self.watch(bearer, lambda: self._end_of_token(session, bearer))

    def _end_of_token(self, session: BrowserSession, bearer: Principal) -> None:
        """End a session whose token does not work any more: not one of a stale copy."""
        token = self._tokens.get(bearer.token_id)
        if token is None or not self._has_bearer(token):
            self.sessions.end(session)

    def _has_bearer(self, token: Token) -> bool:
        return token.digest in self._bearers

    def keep_only(self, token_ids: set[str], digests: set[str]) -> None:
        """Forget all other tokens and sessions. Accounts are never deleted."""
        for token_id in [one for one in self._tokens if one not in token_ids]:
            self._drop_known(token_id)
        self.sessions.keep_only(digests)


@final
class CredentialsCopy:
    """Keeps the credentials of this process current."""

    def __init__(
        self,
        credentials: CopiedCredentials,
        calls: ProcessCalls,
        *,
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.loaded = trio.Event()
        """Set when all was read for the first time."""
        self._credentials = credentials
        self._calls = calls
        self._now_s = now_s
        self._now_ms = now_ms
        self._epoch = 0
        self._version = 0
        self._offset = 0
        self._seen_tokens: set[str] = set()
        self._seen_sessions: set[str] = set()
        self._uses_told_ms = now_ms()
        self._hurry = trio.Event()
        calls.hear(CHANGED, self._take)
        calls.when_linked.append(self._linked)

    async def run(self) -> None:
        """Ask the owner again and again, until canceled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_lapses)
            while True:
                is_more = await self._renew()
                if is_more:
                    continue
                with trio.move_on_after(COPY_RENEWAL_MS / 1000):
                    await self._hurry.wait()
                self._hurry = trio.Event()

    async def _look_for_lapses(self) -> None:
        """End streams when the copy has become stale."""
        was_current = False
        while True:
            is_current = self._credentials.is_current()
            if was_current and not is_current:
                _log.warning("accounts and tokens may have changed; tokens are refused until heard")
                self._credentials.end_all_streams()
            was_current = is_current
            await trio.sleep(COPY_RENEWAL_MS / 1000 / 5)

    def _linked(self, process: int) -> None:
        if process == OWNER:
            self._hurry.set()

    def _take(self, process: int, told: ToldChange) -> None:
        """Take in a change that the owner tells of; what was missed is asked for."""
        if told.epoch != self._epoch or told.version > self._version + 1:
            self._hurry.set()
        elif told.version == self._version + 1:
            self._credentials.apply(told.change)
            self._version = told.version
            self._calls.note(process, TAKEN, TakenVersion(self._epoch, self._version))

    async def _renew(self) -> bool:
        """Ask for what is new; return whether there is more to ask immediately."""
        now_ms = self._now_ms()
        tokens: set[str] = set()
        sessions: tuple[str, ...] = ()
        is_told = now_ms - self._uses_told_ms >= USES_INTERVAL_MS
        if is_told:
            tokens = self._credentials.take_used() - {""}
            sessions = self._credentials.sessions.used_since(self._uses_told_ms)
        asked = Renewal(self._epoch, self._version, self._offset, tuple(tokens), sessions)
        asked_s = self._now_s()
        answer: Renewed | None = None
        try:
            with trio.move_on_after(self._credentials.lease_s):
                answer = await self._calls.call(OWNER, RENEW, asked, wait_ms=0)
        except ShardsError as error:
            _log.debug("the owner of accounts is away", reason=str(error))
        if answer is None:
            self._credentials.note_used(tokens)
            return False
        if is_told:
            self._uses_told_ms = now_ms
        if answer.offset is not None:
            self._take_page(answer)
            return True
        return not self._take_changes(asked, answer, asked_s)

    def _take_changes(self, asked: Renewal, answer: Renewed, asked_s: float) -> bool:
        """Take in what has changed after what was asked; return whether the copy is current."""
        if answer.epoch != self._epoch:
            return False
        first = asked.version + 1
        for version, change in enumerate(answer.changes, first):
            if version == self._version + 1:  # others have come by themselves in the meantime
                self._credentials.apply(change)
                self._version = version
        if self._version < answer.version:
            return False
        self._credentials.renewed(asked_s + self._credentials.lease_s)
        self._credentials.load((), ())
        self.loaded.set()
        return True

    def _take_page(self, page: Renewed) -> None:
        """Take in a page of all there is."""
        if page.offset == 0:
            self._seen_tokens, self._seen_sessions = set(), set()
        for one in page.changes:
            self._credentials.apply(one)
            if isinstance(one, Token):
                self._seen_tokens.add(one.id)
            elif isinstance(one, OpenedSession):
                self._seen_sessions.add(one.digest)
        if page.next_offset is not None:
            self._offset = page.next_offset
            return
        self._credentials.keep_only(self._seen_tokens, self._seen_sessions)
        self._offset = 0
        self._epoch, self._version = page.epoch, page.version
