"""When tokens were last used: noticed in memory, and written down now and then.

A request with a token adds its id to a set, and so does one with the cookie of a session that a
token has opened. Once a minute the set is emptied, and a token that was in it, or has an open
stream, gets the time. It is written to the catalog at most once in `SAVE_MS`, so it survives a
restart and no request waits for it. Secrets whose time after a rotation is over are taken out, too.
"""

from typing import Final, final

import structlog
import trio

from troth.core.catalog import Token
from troth.core.commands import ReplaceEntry
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.wire.errors import ApiError

from .account_endpoints import entry_changes

LOOK_S: Final = 60.0
SAVE_MS: Final = 10 * 60_000
"""How much later than what is stored a use must be to be stored."""

log = structlog.get_logger("troth.tokens")


@final
class TokenUses:
    """Notes the uses of one server's tokens."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def run(self) -> None:
        """Look once a minute until canceled."""
        while True:
            await trio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Note what was used since the last look, and write down what has to be."""
        credentials, now_ms = self._api.credentials, self._api.now_ms()
        credentials.uses.update(dict.fromkeys(credentials.take_used(), now_ms))
        for token in credentials.tokens():
            if token.revoked_on is None and self._changed(token, now_ms) != token:
                try:
                    await self._save(token.id)
                except ApiError as error:
                    # It is tried again with the next look; the server may be stopping.
                    log.debug("the use of a token is not stored", reason=str(error))
                    return

    def _changed(self, token: Token, now_ms: int) -> Token:
        used_on = self._api.credentials.uses.get(token.id)
        if used_on is not None and (token.used_on is None or used_on >= token.used_on + SAVE_MS):
            token = replace(token, used_on=used_on)
        if token.old_until is not None and token.old_until <= now_ms:
            token = replace(token, old_digest="", old_until=None)
        return token

    async def _save(self, token_id: str) -> None:
        credentials = self._api.credentials
        async with entry_changes(self._api) as changes:
            token = credentials.token(token_id)  # as it is now
            if token is None or token.revoked_on is not None:
                return
            changed = replace(self._changed(token, self._api.now_ms()), revision=token.revision + 1)
            await changes.make(ReplaceEntry(changed))
            credentials.put(changed)
            if changed.old_until != token.old_until:
                credentials.end_streams(changed)
