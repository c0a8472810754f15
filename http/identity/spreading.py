"""The owner's side of copied credentials: process 0 tells all others what changes.

Each other process has a copy (`copied.py`), which counts as current for a time from when it last
asked the owner: `COPY_LEASE_MS`, or longer where nodes share groups, so that it outlives the
owner's node, and others serve until there is the next owner. So the owner may answer for a change
as soon as each copy has taken it in or has not asked for that long: `spread` waits for that. A
process that hangs or is cut off holds up no change for longer, and lets no token in by an old copy
when it goes on.

Both ends count on a monotonic clock of their own, the copy from before it asked, the owner from
when it answered: so the copy's time is over first. An owner that has just started does not know
when copies last asked the one before it, nor what that one told them: it takes it that all asked at
that moment, and lack something. Its supervisor has heard by then that it begins (`Seated.owning`),
and prolongs no copy any more.

In a cluster the owner before may have been on another node, whose copies never ask this one. They
count as one more that asked at that moment, and has gone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

import trio
from msgspec import Struct

from troth.core.limits import COPY_CHANGES_KEPT_COUNT, COPY_LEASE_MS, COPY_PAGE_COUNT
from troth.shards.mesh.calls import ProcessCall, ProcessCalls, ProcessNote

from .changes import Change, UsedSessions
from .credentials import Credentials

_ELSEWHERE: Final = -1
"""Stands for all copies on other nodes: no process has this number."""

_LEASE_PART: Final = 1.01
"""How much longer the lease is as the owner counts it: the other's clock may be a little slower."""

_NOTHING: Final = -1
"""Taken by a copy that has not asked this owner yet: it may lack a change of the owner before."""

USES_INTERVAL_MS: Final = 60_000
"""How often processes tell one another which tokens and sessions were used."""


class Renewal(Struct, frozen=True, array_like=True):
    """What a copy asks: all changes after a version of an owner's epoch.

    `offset` is where it goes on to read all there is, page by page. `used_tokens` and
    `used_sessions` were used there since it last said so.
    """

    epoch: int
    version: int
    offset: int = 0
    used_tokens: tuple[str, ...] = ()
    used_sessions: tuple[str, ...] = ()


class Renewed(Struct, frozen=True, array_like=True):
    """The answer: changes up to a version. With an `offset` they are a page of all there is.

    `next_offset` is where the page after it begins.
    """

    epoch: int
    version: int
    changes: tuple[Change, ...]
    offset: int | None = None
    next_offset: int | None = None


class ToldChange(Struct, frozen=True, array_like=True):
    """One change, and the version that it makes."""

    epoch: int
    version: int
    change: Change


class TakenVersion(Struct, frozen=True, array_like=True):
    """A copy has taken in all changes up to a version."""

    epoch: int
    version: int


RENEW: Final = ProcessCall("credentials.renew", Renewal, Renewed)
CHANGED: Final = ProcessNote("credentials.changed", ToldChange)
TAKEN: Final = ProcessNote("credentials.taken", TakenVersion)


@final
class CredentialsOwner:
    """Tells other processes what changes in the credentials of this one, process 0.

    `epoch` is greater than that of each owner before. `now_s` is a monotonic clock. The owner
    before may have been on another node `of_cluster`. Copies count as current for `lease_ms`.
    """

    def __init__(
        self,
        credentials: Credentials,
        calls: ProcessCalls,
        *,
        epoch: int,
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
        of_cluster: bool = False,
        lease_ms: int = COPY_LEASE_MS,
    ) -> None:
        self._lease_s = lease_ms / 1000 * _LEASE_PART
        self._credentials = credentials
        self._calls = calls
        self.epoch = epoch
        """It changes only before `begin`."""
        self._now_s = now_s
        self._now_ms = now_ms
        self._version = 0
        self._changes: deque[Change] = deque(maxlen=COPY_CHANGES_KEPT_COUNT)
        self._pages: dict[int, tuple[int, Sequence[Change]]] = {}
        self._taken: dict[int, int] = {}
        self._copies = (*calls.others, _ELSEWHERE) if of_cluster else tuple(calls.others)
        self._leases = dict.fromkeys(self._copies, now_s() + self._lease_s)
        self._begun = trio.Event()
        self._news = trio.Event()
        calls.handle(RENEW, self._renew)
        calls.hear(TAKEN, self._note_taken)

    def begin(self) -> None:
        """Serve copies from now on: the credentials are loaded."""
        self._leases = {process: self._now_s() + self._lease_s for process in self._copies}
        self._credentials.on_change = self._tell
        self._credentials.spread = self.spread
        self._begun.set()

    async def run(self) -> None:
        """Tell all now and then which sessions are used here, until canceled."""
        while True:
            since_ms = self._now_ms()
            await trio.sleep(USES_INTERVAL_MS / 1000)
            used = self._credentials.sessions.used_since(since_ms)
            if used:
                self._note_used_sessions(used)

    def _tell(self, change: Change) -> None:
        self._version += 1
        self._changes.append(change)
        self._calls.note_all(CHANGED, ToldChange(self.epoch, self._version, change))

    async def spread(self) -> None:
        """Wait until no copy that counts as current is without the changes so far."""
        version = self._version
        while True:
            now_s = self._now_s()
            ends_s = [
                until_s
                for process, until_s in self._leases.items()
                if until_s > now_s and self._taken.get(process, _NOTHING) < version
            ]
            if not ends_s:
                return
            with trio.move_on_after(min(ends_s) - now_s):
                await self._news.wait()

    def _note_taken(self, process: int, taken: TakenVersion) -> None:
        if taken.epoch == self.epoch and taken.version > self._taken.get(process, _NOTHING):
            self._taken[process] = taken.version
            self._news.set()
            self._news = trio.Event()

    async def _renew(self, process: int, asked: Renewal) -> Renewed:
        """Answer a copy; it is current from when it asked until its lease is over."""
        await self._begun.wait()
        self._note_used(asked)
        self._note_taken(process, TakenVersion(asked.epoch, asked.version))
        behind_count = self._version - asked.version
        if asked.epoch != self.epoch or asked.offset or behind_count > len(self._changes):
            return self._page(process, asked)
        self._leases[process] = self._now_s() + self._lease_s
        changes = tuple(self._changes)
        return Renewed(self.epoch, self._version, changes[len(changes) - behind_count :])

    def _page(self, process: int, asked: Renewal) -> Renewed:
        """Return a page of all there is; what changes in the meantime is asked for after it."""
        start = asked.offset
        version, found = self._pages.get(process, (0, ()))
        if not start or start >= len(found):
            credentials = self._credentials
            found = (*credentials.accounts(), *credentials.tokens(), *credentials.sessions.opened())
            start, version = 0, self._version
            self._pages[process] = version, found
        end = start + COPY_PAGE_COUNT
        following = end if end < len(found) else None
        if following is None:
            del self._pages[process]
        return Renewed(self.epoch, version, tuple(found[start:end]), start, following)

    def _note_used(self, asked: Renewal) -> None:
        self._credentials.note_used(asked.used_tokens)
        if asked.used_sessions:
            self._note_used_sessions(asked.used_sessions)

    def _note_used_sessions(self, digests: tuple[str, ...]) -> None:
        now_ms = self._now_ms()
        self._credentials.sessions.note_used(digests, now_ms)
        self._tell(UsedSessions(digests, now_ms))
