"""Encoding when there is no memory for the result: an exception, not the end of the process."""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tests.helpers.repository import LAYERS, ROOT
from troth.core.json_bytes import encoder, own_encoder

MAKERS = (encoder, own_encoder)
Maker = Callable[..., Callable[[object], bytes]]

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


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("order", [None, "deterministic"])
def test_it_encodes_as_msgspec_does(make: Maker, order: str | None) -> None:
    value = {"b": [1, "ü\u2028"], "a": None, "text": "x" * 100_000}
    encode = make("deterministic") if order else make()

    assert encode(value) == msgspec.json.Encoder(order="deterministic" if order else None).encode(
        value
    )


@pytest.mark.parametrize("make", MAKERS)
def test_a_buffer_that_is_used_again_leaves_nothing_behind(make: Maker) -> None:
    encode = make()
    lengths = [*range(600), 70_000, 0, 16_384, 1, 300, 70_000, 2]

    assert [encode("x" * length) for length in lengths] == [
        b'"%b"' % (b"x" * length) for length in lengths
    ]


@pytest.mark.parametrize("make", MAKERS)
def test_what_cannot_be_encoded_changes_nothing(make: Maker) -> None:
    encode = make()
    for value in ("a", ["b" * 1_000, object()], "c", [object()], ["d"]):
        try:
            text = encode(value)
        except TypeError:
            assert type(value) is list
        else:
            assert text == msgspec.json.Encoder().encode(value)


def test_threads_do_not_share_a_buffer() -> None:
    encode = encoder()

    def texts(number: int) -> set[bytes]:
        return {encode(f"{number}" * 1_000) for _ in range(2_000)}

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(texts, range(4)))
    finally:
        sys.setswitchinterval(interval_s)
    assert found == [{b'"%b"' % (b"%d" % number * 1_000)} for number in range(4)]


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
