"""Administrators: they make tokens, revoke them, and disable accounts, again and again.

Each change is made by process 0, as its endpoints make it (`http/admin/account_endpoints.py`). From
the moment when it is answered for, no process may go by what was before it: it is looked at in that
moment, and for some seconds after it, in all processes that serve.
"""

from collections.abc import Awaitable, Callable, Iterator
from random import Random

import trio

from troth.core.catalog import Account, Scope, Token
from troth.core.commands import CreateEntry, ReplaceEntry
from troth.core.model import replace
from troth.http.identity.copied import CopiedCredentials
from troth.http.identity.credentials import Credentials, new_secret
from troth.http.identity.digests import digest_of
from troth.http.identity.entry_changes import EntryChanges
from troth.http.wire.errors import ApiError

from .ledger import require
from .server import Server, Unreachable
from .world import World

SECRET_LENGTH = len(new_secret())
LOOKS_COUNT = 6
CALM_TRIES_COUNT = 100

Act = Callable[[Server, Credentials, EntryChanges], Awaitable[None]]
"""A request to process 0. Raises Unreachable, and ApiError: it is to be asked again."""


async def administer(
    world: World, who: str, rounds: Iterator[int], rest: Callable[[Random, float], Awaitable[None]]
) -> None:
    """Change one account and its tokens, as long as there are rounds."""
    admin = _Administrator(world, who)
    await admin.insist(admin.add_account)
    for round_number in rounds:
        await rest(admin.random, 6)
        await admin.have_a_token(round_number)


class _Administrator:
    def __init__(self, world: World, who: str) -> None:
        self.random = world.random(who)
        self._world = world
        self._who = who
        self._account_id = ""
        self._token_id = ""
        self._secret = ""

    async def have_a_token(self, round_number: int) -> None:
        """Make a token, use it, and have it refused: by the account's end, or by its own."""
        self._world.trace.note(self._who, f"wants token {round_number}")
        await self.insist(self._add_token)
        await self._look(is_wanted=True)
        if self.random.random() < 0.4:
            await self.insist(lambda *process: self._disable(*process, is_disabled=True))
            await self._look(is_wanted=False)
            await self.insist(lambda *process: self._disable(*process, is_disabled=False))
            await self._look(is_wanted=True)
        await self.insist(self._revoke)
        await self._look(is_wanted=False)

    async def insist(self, act: Act) -> None:
        """Ask process 0 again and again until it has done something."""
        for _ in self._tries():
            server = await self._world.first_process.serves()
            if not server.may_answer():  # its requests wait, or get 503
                await trio.sleep(self.random.uniform(0.1, 1))
                continue
            try:
                async with server.connection():
                    changes = EntryChanges(server.credentials, server.shards.ask)
                    async with changes:
                        await act(server, server.credentials, changes)
                    return
            except (Unreachable, ApiError) as error:
                self._world.trace.note(self._who, f"asks again: {type(error).__name__}")
            await trio.sleep(self.random.uniform(0.1, 1))

    def _tries(self) -> Iterator[None]:
        """Go on, but not forever in calm times."""
        calm_count = 0
        while True:
            yield None
            calm_count += self._world.is_calm
            require(calm_count < CALM_TRIES_COUNT, f"{self._who} is refused again and again")

    async def _look(self, *, is_wanted: bool) -> None:
        """Look at all processes, now and for some seconds: do they let the token in?"""
        for number in range(LOOKS_COUNT):
            if number:
                await trio.sleep(self.random.expovariate(1 / 0.5))
            for server in self._world.all_serving():
                if not server.may_answer():
                    continue  # its group may have another owner: requests wait, or get 503
                credentials = server.credentials
                is_let_in = credentials.bearer(self._secret) is not None
                is_stale = (
                    isinstance(credentials, CopiedCredentials) and not credentials.is_current()
                )
                require(
                    is_let_in is is_wanted or (is_stale and not is_let_in),
                    f"{server.group} {'lets in' if is_let_in else 'refuses'} {self._who}'s token",
                )

    # What the endpoints do

    async def add_account(
        self, server: Server, credentials: Credentials, changes: EntryChanges
    ) -> None:
        """Add the account, unless an earlier try did."""
        named = [one for one in credentials.accounts() if one.name == self._who]
        require(len(named) <= 1, f"there are {len(named)} accounts of the name {self._who}")
        if named:
            self._account_id = named[0].id
        else:
            self._account_id = _id_of(self.random)
            account = Account(self._account_id, 1, server.clock.now_ms(), self._who)
            await changes.make(CreateEntry(account))
            credentials.put(account)
        await credentials.spread()

    async def _add_token(
        self, server: Server, credentials: Credentials, changes: EntryChanges
    ) -> None:
        """Make another token: whether an earlier try did is not looked at."""
        self._secret = f"{self.random.getrandbits(1024):0256x}"[:SECRET_LENGTH]
        self._token_id = _id_of(self.random)
        now_ms, digest = server.clock.now_ms(), digest_of(self._secret)
        scopes = (Scope.PROMISES_READ,)
        token = Token(self._token_id, 1, now_ms, self._account_id, digest, scopes)
        await changes.make(CreateEntry(token))
        credentials.put(token)
        await credentials.spread()

    async def _disable(
        self,
        server: Server,  # noqa: ARG002
        credentials: Credentials,
        changes: EntryChanges,
        *,
        is_disabled: bool,
    ) -> None:
        account = credentials.account(self._account_id)
        require(account is not None, f"the account of {self._who} is lost")
        assert account is not None
        if account.disabled != is_disabled:
            account = replace(account, revision=account.revision + 1, disabled=is_disabled)
            await changes.make(ReplaceEntry(account))
            credentials.put(account)
        await credentials.spread()

    async def _revoke(
        self,
        server: Server,  # noqa: ARG002
        credentials: Credentials,
        changes: EntryChanges,
    ) -> None:
        token = credentials.token(self._token_id)
        require(token is not None, f"a token of {self._who} is lost")
        assert token is not None
        if token.revoked_on is None:
            token = replace(token, revision=token.revision + 1, revoked_on=1)
            await changes.make(ReplaceEntry(token))
            credentials.put(token)
        await credentials.spread()


def _id_of(random: Random) -> str:
    return f"{random.getrandbits(96):024x}"
