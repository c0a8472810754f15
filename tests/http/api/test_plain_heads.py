"""Which heads need no look: only those without anything that a check reads."""

import pytest

from tests.http.client import running
from troth.http.api.dispatch import Dispatcher
from troth.http.documents.table import API_ENDPOINTS

READ = sorted({raw for row in API_ENDPOINTS for raw in row.reads_raw})
PLAIN = {b"host": b"localhost", b"content-type": b"application/json", b"content-length": b"2"}


@pytest.mark.parametrize("name", [b"origin", b"referer", b"request-id", b"sec-fetch-site", *READ])
async def test_a_head_with_a_header_that_counts_is_not_plain(name: bytes) -> None:
    async with running() as world:
        dispatcher = Dispatcher(world.api, API_ENDPOINTS)
        assert dispatcher.is_plain_head(PLAIN | {name: b"x"}) is False


async def test_a_host_is_plain_only_after_it_was_found_good() -> None:
    async with running() as world:
        dispatcher = Dispatcher(world.api, API_ENDPOINTS)
        assert dispatcher.is_plain_head(PLAIN) is None
        dispatcher._familiar_hosts.add(b"localhost")
        assert dispatcher.is_plain_head(PLAIN) is True
        assert dispatcher.is_plain_head(PLAIN | {b"host": b"evil.example"}) is None
