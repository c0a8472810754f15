"""Encoding when there is no memory for the result: an exception, not the end of the process."""

import re
import subprocess
import sys

import msgspec
import pytest

from tests.helpers.repository import LAYERS, ROOT
from troth.core.json_bytes import encoder

SCARCE = """
import resource, sys
from pathlib import Path
from troth.core.json_bytes import encoder
text = "x" * 4_000_000
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
try:
    encoder()({"data": text})
except MemoryError:
    sys.exit(7)
"""


@pytest.mark.parametrize("order", [None, "deterministic"])
def test_it_encodes_as_msgspec_does(order: str | None) -> None:
    value = {"b": [1, "ü\u2028"], "a": None, "text": "x" * 100_000}
    encode = encoder("deterministic") if order else encoder()

    assert encode(value) == msgspec.json.Encoder(order="deterministic" if order else None).encode(
        value
    )


def test_nothing_else_in_the_server_encodes() -> None:
    """Whatever the server encodes with msgspec goes through this module."""
    found = [
        str(path.relative_to(ROOT))
        for folder in LAYERS
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"json\.Encoder\(|json\.encode\(", path.read_text())
    ]

    assert found == ["core/json_bytes.py"]


def test_memory_that_cannot_be_had_is_an_exception() -> None:
    """msgspec's own `encode` ends this process by a segmentation fault."""
    ended = subprocess.run([sys.executable, "-c", SCARCE], check=False, timeout=60)

    assert ended.returncode == 7
