"""TLS between nodes: both ends show a certificate of the cluster's authority, for their host."""

import ssl
import warnings
from pathlib import Path

import pytest
import trustme

from tests.shards.guard.ends import GuardedPair, answerer, asker
from troth.http.links.tls_end import (
    TLS_HANDSHAKE_LIMIT_BYTES,
    LinkTls,
    LinkTlsRefused,
    TlsEnd,
    check_own,
    load_link_tls,
)
from troth.shards.guard.handshake import NotTrusted
from troth.shards.mesh.frames import LinkDamaged

from .certificates import Files, make_files

HOST = "south.example"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """Make files of nodes that belong together, and of some that do not."""
    directory = tmp_path_factory.mktemp("certificates")
    ours, theirs = trustme.CA(), trustme.CA()
    return {
        "north": make_files(directory / "north", ours, ours, "north.example"),
        "south": make_files(directory / "south", ours, ours, HOST),
        "stranger": make_files(directory / "stranger", theirs, ours, HOST),
        "credulous": make_files(directory / "credulous", ours, theirs, HOST),
    }


def ends(
    nodes: dict[str, Files], one: str, other: str, host: str = HOST
) -> tuple[GuardedPair, TlsEnd, TlsEnd]:
    """Make both ends of a connection."""
    pair = GuardedPair()
    asking = TlsEnd(pair.guard(asker(), pair.asking), nodes[one].load(), host)
    answering = TlsEnd(pair.guard(answerer(), pair.answering), nodes[other].load(), None)
    return pair, asking, answering


def carry(one: TlsEnd, other: TlsEnd, piece_bytes: int = 1 << 20) -> bytes:
    """Carry bytes both ways until both are silent; return what has crossed."""
    crossed = b""
    while True:
        to_other, to_one = one.take(), other.take()
        crossed += to_other + to_one
        if not to_other and not to_one:
            return crossed
        for end, data in ((other, to_other), (one, to_one)):
            for start in range(0, len(data), piece_bytes):
                end.received(data[start : start + piece_bytes])


@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 20])
def test_what_crosses_is_secret(nodes: dict[str, Files], piece_bytes: int) -> None:
    pair, one, other = ends(nodes, "north", "south")
    said = b"a question " * 30_000
    pair.asking.to_say, pair.answering.to_say = said, b"an answer"
    if piece_bytes == 1:
        pair.asking.to_say = said = said[:100]
    crossed = carry(one, other, piece_bytes)
    assert (pair.answering.heard, pair.asking.heard) == (said, b"an answer")
    assert b"a question" not in crossed
    assert b"north" not in crossed
    assert one.look()
    other.say_last()
    other.closed()
    assert pair.answering.ends == ["last", "closed"]


@pytest.mark.parametrize(
    ("one", "other", "host"),
    [
        ("stranger", "south", HOST),  # it shows a certificate of another authority
        ("north", "stranger", HOST),  # it is shown one
        ("credulous", "south", HOST),
        ("north", "south", "west.example"),  # it is for another host
    ],
)
def test_who_has_no_certificate_for_it_gets_no_further(
    nodes: dict[str, Files], one: str, other: str, host: str
) -> None:
    pair, asking, answering = ends(nodes, one, other, host)
    with pytest.raises(NotTrusted, match="no TLS was agreed on"):
        carry(asking, answering)
    assert pair.admitted == []


def test_who_shows_no_certificate_gets_no_further(nodes: dict[str, Files]) -> None:
    pair = GuardedPair()
    tls = nodes["south"].load()
    bare = ssl.create_default_context(cafile=nodes["north"].authority)
    without = TlsEnd(pair.guard(asker(), pair.asking), LinkTls(bare, bare), HOST)
    answering = TlsEnd(pair.guard(answerer(), pair.answering), tls, None)
    with pytest.raises(NotTrusted, match="no TLS was agreed on"):
        carry(without, answering)
    assert pair.admitted == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(nodes: dict[str, Files], version: ssl.TLSVersion) -> None:
    pair = GuardedPair()
    old = nodes["north"].load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.for_asking.minimum_version = old.for_asking.maximum_version = version
    answering = TlsEnd(pair.guard(answerer(), pair.answering), nodes["south"].load(), None)
    with pytest.raises(NotTrusted, match="no TLS was agreed on"):
        carry(TlsEnd(pair.guard(asker(), pair.asking), old, HOST), answering)


def test_plain_links_and_http_are_refused(nodes: dict[str, Files]) -> None:
    for strange in (b"GET / HTTP/1.1\r\n\r\n", answerer().begin(), bytes(100)):
        _, _, answering = ends(nodes, "north", "south")
        with pytest.raises(NotTrusted, match="no TLS was agreed on"):
            answering.received(strange)


def test_a_stranger_may_not_say_much_before_tls_is_agreed_on(nodes: dict[str, Files]) -> None:
    _, _, answering = ends(nodes, "north", "south")
    with pytest.raises(NotTrusted, match="too much"):
        answering.received(bytes(TLS_HANDSHAKE_LIMIT_BYTES + 1))


def test_the_end_of_tls_and_damage_end_the_link(nodes: dict[str, Files]) -> None:
    pair, one, other = ends(nodes, "north", "south")
    carry(one, other)
    pair.asking.to_say = b"a question"
    changed = bytearray(one.take())
    changed[-1] ^= 1
    with pytest.raises(LinkDamaged):
        other.received(bytes(changed))


def test_files_that_cannot_be_used_are_named(nodes: dict[str, Files], tmp_path: Path) -> None:
    north, south = nodes["north"], nodes["south"]
    with pytest.raises(LinkTlsRefused, match=r"south.*cannot be used.*MISMATCH"):
        load_link_tls(south.certificate, north.key, north.authority)
    with pytest.raises(LinkTlsRefused, match="cannot be read"):
        load_link_tls(tmp_path / "none.pem", north.key, north.authority)
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"nothing")
    with pytest.raises(LinkTlsRefused, match=r"empty\.pem: cannot be used"):
        load_link_tls(north.certificate, north.key, empty)


def test_a_certificate_that_other_nodes_would_refuse_is_found_out(nodes: dict[str, Files]) -> None:
    south, stranger = nodes["south"], nodes["stranger"]
    check_own(south.certificate, south.load(), HOST)
    with pytest.raises(LinkTlsRefused, match="other nodes would refuse it: Hostname mismatch"):
        check_own(south.certificate, south.load(), "north.example")
    with pytest.raises(LinkTlsRefused, match="unable to get local issuer certificate"):
        check_own(stranger.certificate, stranger.load(), HOST)
