"""Entries of the catalog as the handlers of `/v1` use them: always those of one account.

An entry of another account is answered exactly like a missing one, so that no client learns which
ids are in use. All functions raise ApiError: 404 with the code given, 503 for the shards.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from troth.core.catalog import Build, Entry, Function, Label, Node
from troth.core.codes import Code
from troth.core.commands import CreateEntry, DeleteEntry, ReadEntry, ReplaceEntry
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.shards_port import answered, ask
from troth.http.wire.errors import ApiError

Owned = TypeVar("Owned", Build, Function, Label, Node)
Change = Callable[[Owned], Owned | None]

CHANGE_ATTEMPTS_COUNT: Final = 100
"""How often a change is tried again because another request changed the entry first."""

ABSENT: Final = frozenset({Code.ENTRY_NOT_FOUND})
"""What reading an entry may be refused with."""

_CHANGED: Final = ABSENT | {Code.ENTRY_CHANGED}


async def read_own(
    api: Api, kind: type[Owned], entry_id: str, account_id: str, code: Code
) -> Owned:
    """Read an entry of an account; `code` is the refusal if there is none."""
    reply = await ask(api.shards, ReadEntry(entry_id), tolerated=ABSENT)
    entry = reply.entry
    if not isinstance(entry, kind) or entry.account_id != account_id:
        raise ApiError(code)
    return entry


async def list_all(api: Api, kind: type[Owned], account_id: str | None) -> list[Owned]:
    """Return all entries of a type, of one account or of all (None), the oldest first."""
    return await answered(api.shards.list_entries(kind, account_id))


async def list_own(api: Api, kind: type[Owned], account_id: str) -> list[Owned]:
    """Return all entries of a type that an account has, newest first."""
    found = await list_all(api, kind, account_id)
    found.reverse()
    return found


async def create(api: Api, entry: Entry) -> None:
    """Put a new entry into the catalog; its id must be new."""
    await ask(api.shards, CreateEntry(entry))


async def change_own(
    api: Api, kind: type[Owned], entry_id: str, account_id: str, code: Code, change: Change[Owned]
) -> Owned:
    """Replace an entry of an account by what `change` makes of it; the entry as it is then.

    `change` may be called several times, each time with the entry as another request has left it.
    It need not mind the revision; None means that there is nothing to do.
    """
    for _ in range(CHANGE_ATTEMPTS_COUNT):
        entry = await read_own(api, kind, entry_id, account_id, code)
        changed = change(entry)
        if changed is None or changed == entry:
            return entry
        changed = replace(changed, revision=entry.revision + 1)
        reply = await ask(api.shards, ReplaceEntry(changed), tolerated=_CHANGED)
        if reply.code.status < 300:
            return changed
    raise ApiError(Code.ENTRY_CHANGED)


async def delete_own(
    api: Api, kind: type[Owned], entry_id: str, account_id: str, code: Code
) -> Owned:
    """Take an entry of an account out of the catalog; the entry as it last was."""
    for _ in range(CHANGE_ATTEMPTS_COUNT):
        entry = await read_own(api, kind, entry_id, account_id, code)
        reply = await ask(api.shards, DeleteEntry(entry.id, entry.revision), tolerated=_CHANGED)
        if reply.code.status < 300:
            return entry
    raise ApiError(Code.ENTRY_CHANGED)
