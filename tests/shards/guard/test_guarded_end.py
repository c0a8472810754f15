"""A guarded end: a stranger gets no further than the handshake, and has not long for it."""

import pytest

from troth.shards.guard.guarded_end import HANDSHAKE_LIMIT_S
from troth.shards.guard.handshake import NotTrusted
from troth.shards.guard.trust import Callee, ClusterTrust, Party, Use
from troth.shards.mesh.frames import LinkDamaged

from .ends import HERE, SECRET, THERE, GuardedPair, answerer, asker, carry


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_two_ends_let_each_other_in_and_talk(piece_bytes: int) -> None:
    pair = GuardedPair()
    one = pair.guard(asker(), pair.asking)
    other = pair.guard(answerer(), pair.answering)
    pair.asking.to_say = b"a question"
    pair.answering.to_say = b"an answer"
    said, _ = carry(one, other, piece_bytes)
    assert pair.admitted == [HERE, THERE]
    assert (pair.answering.heard, pair.asking.heard) == (b"a question", b"an answer")
    assert b"a question" in said, "without TLS it is not secret"
    assert one.is_known
    assert other.is_known


def test_both_ends_know_what_a_connection_is_for() -> None:
    pair = GuardedPair()
    one = pair.guard(asker(callee=Callee("south", 1, Use.STREAM)), pair.asking)
    carry(one, pair.guard(answerer(), pair.answering))
    assert pair.uses == [Use.STREAM, Use.STREAM]


def test_nothing_is_said_to_who_has_not_proved_anything() -> None:
    pair = GuardedPair()
    pair.answering.to_say = b"something"
    other = pair.guard(answerer(), pair.answering)
    challenge = other.take()
    assert challenge == answerer().begin()
    assert other.take() == b""
    with pytest.raises(NotTrusted):
        other.received(b"GET / HTTP/1.1\r\n\r\n")
    assert (other.take(), pair.admitted, pair.answering.heard) == (b"", [], b"")
    other.closed()
    other.say_last()
    assert pair.answering.ends == [], "the end itself was never asked for"


def test_a_stranger_has_its_time_and_no_more() -> None:
    pair = GuardedPair()
    other = pair.guard(answerer(), pair.answering)
    one = pair.guard(asker(), pair.asking)
    pair.now_s += HANDSHAKE_LIMIT_S - 0.01
    assert other.look()
    pair.now_s += 0.02
    assert not other.look()
    assert not one.look(), "so has a listener that says nothing"
    known, peer = GuardedPair(), GuardedPair()
    other = known.guard(answerer(), known.answering)
    carry(peer.guard(asker(), peer.asking), other)
    known.now_s += 100
    assert other.look(), "then it is for the end itself to say"


def test_what_is_not_sealed_ends_the_link() -> None:
    pair = GuardedPair()
    one, other = pair.guard(asker(), pair.asking), pair.guard(answerer(), pair.answering)
    carry(one, other)
    pair.asking.to_say = b"resolve order-7"
    said = one.take()
    assert other.received(said)
    with pytest.raises(LinkDamaged, match="not sealed"):
        other.received(said)
    assert pair.answering.heard == b"resolve order-7"


def test_one_end_of_another_cluster_ends_before_anything_is_said() -> None:
    pair = GuardedPair()
    pair.asking.to_say = b"a question"
    one = pair.guard(asker(ClusterTrust("other", SECRET)), pair.asking)
    other = pair.guard(answerer(), pair.answering)
    with pytest.raises(NotTrusted):
        carry(one, other)
    assert pair.admitted == []
    assert one.take() == b""


def test_who_is_not_admitted_is_not_heard() -> None:
    pair = GuardedPair()
    one = pair.guard(asker(own=Party("north", 0, 2)), pair.asking)
    other = pair.guard(answerer(), pair.answering)
    pair.answering.to_say = b"something"

    def refuse(party: Party, use: Use) -> object:
        raise LinkDamaged(f"{party.node} was succeeded")

    other._admit = refuse  # type: ignore[assignment]
    with pytest.raises(LinkDamaged, match="succeeded"):
        carry(one, other)
    assert not other.is_known
    assert pair.asking.heard == b""
