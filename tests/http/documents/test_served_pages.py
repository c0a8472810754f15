"""Pages that are made before the server is there."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from troth.http.api.context import limits_of
from troth.http.documents.served_pages import ServedPages
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.sources import load


@pytest.mark.parametrize(
    "settings",
    [{}, {"listen": "[::1]:8100"}, {"url": "https://example.com"}],
)
def test_pages_that_were_made_ahead_are_served(settings: dict[str, str]) -> None:
    found = load(None, {}, settings)
    pages = ServedPages(API_ENDPOINTS, ())
    pages.make_ahead(found)
    made = pages._made
    host = f"[{found.listen.host}]" if ":" in found.listen.host else found.listen.host
    api = SimpleNamespace(
        settings=found,
        url=(found.url or f"http://{host}:{found.listen.port}").rstrip("/"),
        credentials=SimpleNamespace(has_users=bool(found.basic_auth)),
        limits=limits_of(found),
    )
    assert made is not None
    assert pages.of(cast("Any", api)) is made[1]


def test_pages_of_another_address_are_made_again() -> None:
    pages = ServedPages(API_ENDPOINTS, ())
    pages.make_ahead(load(None, {}, {"listen": "127.0.0.1:8100"}))
    found = load(None, {}, {"listen": "127.0.0.1:8200"})
    api = SimpleNamespace(
        settings=found,
        url="http://127.0.0.1:8200",
        credentials=SimpleNamespace(has_users=False),
        limits=limits_of(found),
    )
    assert b"127.0.0.1:8200" in pages.of(cast("Any", api)).openapi.body
