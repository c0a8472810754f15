"""What a program does while it waits for its seat, so that clients need not wait for it."""

import subprocess
import sys

import pytest

_LOADED = """
import sys
from troth.http.processes.loading import load_ahead
from troth.http.settings.sources import load
for act in load_ahead(load(None, {}, {"log": sys.argv[1], "ui": "false"})):
    act()
print(*sys.modules)
"""


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
