"""Credentials in several linked processes: the owner's in process 0, copies in the others."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.shards.mesh.world import Process, World, world
from troth.core.catalog import Account, Scope, Token
from troth.http.identity.attempts import Attempts
from troth.http.identity.copied import CopiedCredentials, CredentialsCopy
from troth.http.identity.credentials import Credentials, new_secret
from troth.http.identity.digests import digest_of
from troth.http.identity.spreading import CredentialsOwner

ACCOUNT = Account("a" * 24, 1, 1, "billing")


def now_ms() -> int:
    """Return the time as the processes see it."""
    return 1_000_000 + int(trio.current_time() * 1000)


def token_of(secret: str, name: str = "1") -> Token:
    """Return a token of the account."""
    token_id = name.rjust(24, "0")
    return Token(token_id, 1, 1, ACCOUNT.id, digest_of(secret), (Scope.PROMISES_READ,))


@dataclass
class Copies:
    """All credentials, by process."""

    world: World
    owner: CredentialsOwner
    credentials: list[Credentials]
    copies: dict[int, CredentialsCopy]

    @property
    def owned(self) -> Credentials:
        """The owner's own."""
        return self.credentials[0]

    def lets_in(self, secret: str) -> list[bool]:
        """Return which processes know a token."""
        return [one.bearer(secret) is not None for one in self.credentials]


def make_owner(
    process: Process, epoch: int = 1, *, of_cluster: bool = False
) -> tuple[Credentials, CredentialsOwner]:
    """Make the credentials of process 0."""
    owned = Credentials({}, Attempts(10, now_ms), now_ms)
    return owned, CredentialsOwner(
        owned,
        process.mesh.calls,
        epoch=epoch,
        now_s=trio.current_time,
        now_ms=now_ms,
        of_cluster=of_cluster,
    )


def make_copy(process: Process) -> tuple[CopiedCredentials, CredentialsCopy]:
    """Make those of another process."""
    copied = CopiedCredentials({}, Attempts(10, now_ms), now_ms, trio.current_time)
    return copied, CredentialsCopy(
        copied, process.mesh.calls, now_s=trio.current_time, now_ms=now_ms
    )


@asynccontextmanager
async def copies(
    count: int = 3,
    *,
    delay_s: float = 0.0,
    seed: int = 0,
    before: Callable[[Credentials], None] = lambda _: None,
    of_cluster: bool = False,
) -> AsyncIterator[Copies]:
    """Run several processes with credentials; `before` fills those of the owner."""
    async with world(count, delay_s=delay_s, seed=seed) as all_of:
        owned, owner = make_owner(all_of.processes[0], of_cluster=of_cluster)
        before(owned)
        credentials: list[Credentials] = [owned]
        made: dict[int, CredentialsCopy] = {}
        for process in all_of.processes[1:]:
            copied, copy = make_copy(process)
            credentials.append(copied)
            made[process.place.process] = copy
            all_of.nursery.start_soon(copy.run)
        owner.begin()
        with trio.fail_after(30):
            for copy in made.values():
                await copy.loaded.wait()
        yield Copies(all_of, owner, credentials, made)


__all__ = ["ACCOUNT", "Copies", "copies", "make_copy", "make_owner", "new_secret", "token_of"]
