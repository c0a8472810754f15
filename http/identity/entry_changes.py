"""Changes of accounts and tokens in the catalog, one at a time, each with a known outcome.

An entry lives in a shard, perhaps of another process; what is remembered of it here takes effect.
So the two must not stay apart. A change that got no answer may have been carried out: the entry is
*in doubt* then, and is read again before the next change of any. The same is done with an entry
that the catalog has otherwise than it is remembered.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, final

from troth.core.catalog import Account, Token
from troth.core.codes import Code
from troth.core.commands import Command, CreateEntry, DeleteEntry, ReadEntry, ReplaceEntry
from troth.core.replies import Reply
from troth.http.wire.errors import ApiError

from .credentials import Credentials

DOUBTFUL: Final = frozenset({Code.ENTRY_NOT_FOUND, Code.ENTRY_EXISTS, Code.ENTRY_CHANGED})
"""Refusals that `ask` of `EntryChanges` returns: the entry is not as it was thought to be."""


@final
class EntryChanges:
    """Changes credentials for the time of a block; nothing else does in the meantime.

    `ask` has the shards carry a command out, and raises ApiError for any refusal but `DOUBTFUL`.
    """

    def __init__(
        self, credentials: Credentials, ask: Callable[[Command], Awaitable[Reply]]
    ) -> None:
        self._credentials = credentials
        self._ask = ask

    async def __aenter__(self) -> "EntryChanges":
        """Wait until no other changes them, and end all doubts. Raises ApiError."""
        await self._credentials.changing.acquire()
        try:
            for entry_id in list(self._credentials.in_doubt):
                await self._read(entry_id)
        except BaseException:
            self._credentials.changing.release()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the credentials to the next change."""
        self._credentials.changing.release()

    async def _read(self, entry_id: str) -> None:
        """Take in an entry as the catalog has it."""
        reply = await self._ask(ReadEntry(entry_id))
        known = self._credentials.account_or_token(entry_id)
        if isinstance(reply.entry, Account | Token):
            if reply.entry != known:
                self._credentials.put(reply.entry)
        elif isinstance(known, Token):
            self._credentials.drop(known)
        del self._credentials.in_doubt[entry_id]

    async def make(self, command: CreateEntry | ReplaceEntry | DeleteEntry) -> None:
        """Change the catalog; the caller takes that in, without a wait. Raises ApiError."""
        entry_id = command.id if isinstance(command, DeleteEntry) else command.entry.id
        self._credentials.in_doubt[entry_id] = None
        reply = await self._ask(command)
        if reply.code in DOUBTFUL:
            raise ApiError(reply.code)
        del self._credentials.in_doubt[entry_id]
