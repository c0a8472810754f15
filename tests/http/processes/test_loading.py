"""What a program does while it waits for its seat, so that clients need not wait for it."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from troth.http.api.context import limits_of
from troth.http.documents import served_pages
from troth.http.documents.served_pages import make_ahead, pages_of_server
from troth.http.settings.sources import load

_LOADED = """
import sys
from troth.http.processes.loading import load_ahead
from troth.http.settings.sources import load
for act in load_ahead(load(None, {}, {"log": sys.argv[1], "ui": "false"})):
    act()
print(*sys.modules)
"""


@pytest.mark.parametrize(
    "settings",
    [{}, {"listen": "[::1]:8100"}, {"url": "https://example.com"}],
)
def test_pages_that_were_made_ahead_are_served(settings: dict[str, str]) -> None:
    found = load(None, {}, settings)
    make_ahead(found)
    made_count = served_pages._made.cache_info().misses
    host = f"[{found.listen.host}]" if ":" in found.listen.host else found.listen.host
    api = SimpleNamespace(
        settings=found,
        url=(found.url or f"http://{host}:{found.listen.port}").rstrip("/"),
        credentials=SimpleNamespace(has_users=bool(found.basic_auth)),
        limits=limits_of(found),
    )
    assert pages_of_server(cast("Any", api)).ui is not None
    assert served_pages._made.cache_info().misses == made_count


def test_pages_of_another_address_are_made_again() -> None:
    make_ahead(load(None, {}, {"listen": "127.0.0.1:8100"}))
    found = load(None, {}, {"listen": "127.0.0.1:8200"})
    api = SimpleNamespace(
        settings=found,
        url="http://127.0.0.1:8200",
        credentials=SimpleNamespace(has_users=False),
        limits=limits_of(found),
    )
    assert b"127.0.0.1:8200" in pages_of_server(cast("Any", api)).openapi.body


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("postgresql://nowhere/x", "troth.persistence.streams.postgres_stream"),
        ("nats://nowhere/x", "troth.shards.streams.nats_opening"),
    ],
)
def test_what_an_engine_needs_is_loaded_ahead(url: str, module: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _LOADED, url], capture_output=True, text=True, check=True
    )
    assert module in found.stdout.split()
    assert not found.stderr
