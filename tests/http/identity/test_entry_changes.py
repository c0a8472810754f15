"""Changes of accounts and tokens whose outcome is unknown are made good before the next one."""

import pytest
import trio
from msgspec.structs import replace

from tests.http.identity.copies_world import ACCOUNT, now_ms, token_of
from troth.core.catalog import Account, Token
from troth.core.codes import Code
from troth.core.commands import Command, CreateEntry, DeleteEntry, ReadEntry, ReplaceEntry
from troth.core.replies import Reply
from troth.http.identity.attempts import Attempts
from troth.http.identity.credentials import Credentials, new_secret
from troth.http.identity.entry_changes import EntryChanges
from troth.http.wire.errors import ApiError

SECRET = new_secret()
TOKEN = token_of(SECRET)


class Catalog:
    """The catalog as shards keep it; the answers to the next changes may be lost."""

    def __init__(self) -> None:
        self.entries: dict[str, Account | Token] = {ACCOUNT.id: ACCOUNT, TOKEN.id: TOKEN}
        self.lost_count = 0
        self.is_away = False
        self.reads_count = 0

    async def ask(self, command: Command) -> Reply:
        """Carry out a command, and answer or not."""
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise ApiError(Code.OUT_OF_REACH)
        reply = self._carry_out(command)
        if self.lost_count and not isinstance(command, ReadEntry):
            self.lost_count -= 1
            raise ApiError(Code.LINK_BROKEN)
        return reply

    def _carry_out(self, command: Command) -> Reply:
        if isinstance(command, ReadEntry):
            self.reads_count += 1
            found = self.entries.get(command.id)
            return Reply(Code.ENTRY_NOT_FOUND) if found is None else Reply(Code.OK, entry=found)
        if isinstance(command, DeleteEntry):
            self.entries.pop(command.id)
            return Reply(Code.NO_CONTENT)
        assert isinstance(command, CreateEntry | ReplaceEntry)
        entry = command.entry
        assert isinstance(entry, Account | Token)
        before = self.entries.get(entry.id)
        if isinstance(command, ReplaceEntry):
            if before is None or before.revision + 1 != entry.revision:
                return Reply(Code.ENTRY_CHANGED)
        elif before is not None:
            return Reply(Code.ENTRY_EXISTS)
        self.entries[entry.id] = entry
        return Reply(Code.OK, entry=entry)


@pytest.fixture
def catalog() -> Catalog:
    """A catalog with an account and its token."""
    return Catalog()


@pytest.fixture
def credentials(catalog: Catalog) -> Credentials:
    """What is remembered of it."""
    made = Credentials({}, Attempts(10, now_ms), now_ms)
    made.load([ACCOUNT], [TOKEN])
    return made


async def revoke(catalog: Catalog, credentials: Credentials) -> None:
    """Revoke the token, as the endpoint does."""
    async with EntryChanges(credentials, catalog.ask) as changes:
        token = credentials.token(TOKEN.id)
        assert token is not None
        if token.revoked_on is None:
            token = replace(token, revision=token.revision + 1, revoked_on=1)
            await changes.make(ReplaceEntry(token))
            credentials.put(token)


async def test_a_token_whose_revocation_got_no_answer_can_be_revoked(
    catalog: Catalog, credentials: Credentials
) -> None:
    catalog.lost_count = 1
    with pytest.raises(ApiError):
        await revoke(catalog, credentials)
    assert credentials.bearer(SECRET) is not None, "nobody was told that it is revoked"
    await revoke(catalog, credentials)
    assert credentials.bearer(SECRET) is None
    assert catalog.entries[TOKEN.id].revision == 2, "it was revoked once"
    await revoke(catalog, credentials)
    assert catalog.reads_count == 1, "nothing is in doubt any more"


async def test_a_change_that_comes_too_late_is_taken_in(
    catalog: Catalog, credentials: Credentials
) -> None:
    catalog.entries[TOKEN.id] = replace(TOKEN, revision=2, name="late")
    with pytest.raises(ApiError) as caught:
        await revoke(catalog, credentials)
    assert caught.value.code is Code.ENTRY_CHANGED
    await revoke(catalog, credentials)
    assert credentials.bearer(SECRET) is None


async def test_an_account_that_was_made_without_an_answer_is_known(
    catalog: Catalog, credentials: Credentials
) -> None:
    catalog.lost_count = 1
    made = Account("b" * 24, 1, 1, "shop")
    with pytest.raises(ApiError):
        async with EntryChanges(credentials, catalog.ask) as changes:
            await changes.make(CreateEntry(made))
    async with EntryChanges(credentials, catalog.ask):
        assert credentials.account("shop") == made, "so that no second one gets its name"


async def test_a_token_that_was_deleted_without_an_answer_is_forgotten(
    catalog: Catalog, credentials: Credentials
) -> None:
    catalog.lost_count = 1
    with pytest.raises(ApiError):
        async with EntryChanges(credentials, catalog.ask) as changes:
            await changes.make(DeleteEntry(TOKEN.id, 1))
    async with EntryChanges(credentials, catalog.ask):
        assert credentials.token(TOKEN.id) is None


async def test_a_client_that_hangs_up_leaves_a_doubt(
    catalog: Catalog, credentials: Credentials
) -> None:
    async def slow(command: Command) -> Reply:
        reply = await catalog.ask(command)
        if not isinstance(command, ReadEntry):
            await trio.sleep_forever()
        return reply

    with trio.move_on_after(0):
        async with EntryChanges(credentials, slow) as changes:
            await changes.make(ReplaceEntry(replace(TOKEN, revision=2, revoked_on=1)))
    with trio.move_on_after(0.01):
        async with EntryChanges(credentials, slow) as changes:
            await changes.make(ReplaceEntry(replace(TOKEN, revision=2, revoked_on=1)))
    assert credentials.bearer(SECRET) is not None
    async with EntryChanges(credentials, catalog.ask):
        assert credentials.bearer(SECRET) is None


async def test_while_a_doubt_cannot_be_ended_nothing_is_changed(
    catalog: Catalog, credentials: Credentials
) -> None:
    catalog.lost_count = 1
    with pytest.raises(ApiError):
        await revoke(catalog, credentials)
    catalog.is_away = True
    for _ in range(2):
        with pytest.raises(ApiError):
            await revoke(catalog, credentials)
    catalog.is_away = False
    await revoke(catalog, credentials)
    assert credentials.bearer(SECRET) is None
