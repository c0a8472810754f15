"""Who belongs to the cluster gets in, and nothing else: whatever it sends, repeats or passes on."""

import msgspec
import pytest

from troth.shards.guard.handshake import (
    CALL_BYTES,
    HANDSHAKE_LIMIT_BYTES,
    AskerHandshake,
    NotTrusted,
    decode_call,
    encode_call,
)
from troth.shards.guard.trust import Callee, ClusterTrust, Party

from .ends import HERE, SECRET, THERE, answerer, asker

STRANGE = [
    b"GET /promises HTTP/1.1\r\nHost: troth\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # the first of TLS
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"\x00\x00",
    b"\xff\xff",
    bytes(5_000),
]


def introduction(one: AskerHandshake, challenge: bytes) -> bytes:
    """Return what an asker says to a challenge."""
    said, known = one.received(challenge)
    assert known is None
    assert said
    return said


def test_both_ends_know_each_other_and_have_the_same_keys() -> None:
    one, other = asker(), answerer()
    said = introduction(one, other.begin())
    welcome, of_other = other.received(said)
    _, of_one = one.received(welcome)
    assert of_one is not None
    assert of_other is not None
    assert (of_other.peer, of_one.peer) == (HERE, THERE), "its incarnation, too"
    assert (of_one.own_key, of_one.peer_key) == (of_other.peer_key, of_other.own_key)
    assert of_one.own_key != of_one.peer_key, "what one has said is worth nothing the other way"


def test_it_may_come_in_single_bytes() -> None:
    one, other = asker(), answerer()
    said = b"".join(one.received(bytes([byte]))[0] for byte in other.begin())
    found = [other.received(bytes([byte])) for byte in said]
    welcome, known = found[-1]
    assert known is not None
    assert all(not answer for answer, _ in found[:-1])
    (last,) = [known for byte in welcome if (known := one.received(bytes([byte]))[1])]
    assert last.peer == THERE


def test_what_follows_the_handshake_is_kept() -> None:
    one, other = asker(), answerer()
    said = introduction(one, other.begin())
    welcome, of_other = other.received(said + b"more")
    _, of_one = one.received(welcome + b"and more")
    assert of_other is not None
    assert of_one is not None
    assert (of_other.rest, of_one.rest) == (b"more", b"and more")


@pytest.mark.parametrize(
    "trust",
    [ClusterTrust("shop", SECRET + b"!"), ClusterTrust("shop-2", SECRET)],
    ids=["another secret", "another cluster with the same secret"],
)
def test_who_does_not_belong_here_is_refused_by_both_ends(trust: ClusterTrust) -> None:
    other = answerer()
    with pytest.raises(NotTrusted, match="another secret"):
        other.received(introduction(asker(trust), other.begin()))
    one, impostor = asker(), answerer(trust)
    impostor_meets = introduction(asker(trust), impostor.begin())
    welcome, _ = impostor.received(impostor_meets)
    introduction(one, answerer(trust).begin())
    with pytest.raises(NotTrusted, match="another secret"):
        one.received(welcome)


def test_a_handshake_that_was_heard_is_worth_nothing_again() -> None:
    first = answerer(number=2)
    said = introduction(asker(), first.begin())
    welcome, known = first.received(said)
    assert known is not None
    with pytest.raises(NotTrusted):  # said again to the same node: its random number is another
        answerer(number=3).received(said)
    again = asker(number=4)
    introduction(again, answerer(number=2).begin())
    with pytest.raises(NotTrusted):  # a listener that repeats what the node said the last time
        again.received(welcome)


def test_what_a_node_says_cannot_be_turned_against_it() -> None:
    """A node asks an impostor, which has it asked back: with its own words, in both directions."""
    one, mirror = asker(), answerer(own=HERE, number=5)
    said = introduction(one, mirror.begin())
    with pytest.raises(NotTrusted, match="south"):  # it was meant for another one
        mirror.received(said)
    itself = asker()
    with pytest.raises(NotTrusted, match="random number"):
        itself.received(answerer(number=1).begin())  # its own number, said back
    with pytest.raises(NotTrusted):
        asker().received(said)  # its introduction, said back


def test_a_proof_is_good_for_one_process_only() -> None:
    """Whoever passes it on to another node, group or incarnation is refused."""
    challenge = answerer().begin()
    said = introduction(asker(), challenge)
    for own in (Party("west", 1, 7), Party("south", 2, 7)):
        with pytest.raises(NotTrusted, match="it wants group 1 at node 'south'"):
            answerer(own=own).received(said)
    one = asker()
    other = answerer()
    welcome, _ = other.received(introduction(one, other.begin()))
    incarnation, proof = msgspec.msgpack.decode(welcome[2:])
    assert incarnation == 7
    forged = msgspec.msgpack.encode((8, proof))
    with pytest.raises(NotTrusted):
        one.received(len(forged).to_bytes(2, "big") + forged)


@pytest.mark.parametrize("target", ["challenge", "introduction", "welcome"])
def test_no_bit_can_be_changed_on_the_way(target: str) -> None:
    """A change of any bit of what either end says is noticed by the one that it reaches."""
    one, other = asker(), answerer()
    challenge = other.begin()
    said = introduction(one, challenge)
    welcome, _ = other.received(said)
    heard = {"challenge": challenge, "introduction": said, "welcome": welcome}[target]

    def go_on(changed: bytes) -> object:
        if target == "challenge":  # the proof is of what was heard, not of what was said
            return answerer().received(introduction(asker(), changed))
        if target == "introduction":
            return answerer().received(changed)
        one = asker()
        introduction(one, challenge)
        return one.received(changed)

    for bit in range(16, 8 * len(heard)):  # behind the length
        changed = bytearray(heard)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(NotTrusted):
            go_on(bytes(changed))


def test_one_that_says_it_serves_our_group_is_refused() -> None:
    other = answerer()
    twin = asker(own=Party("north", 1, 8))
    with pytest.raises(NotTrusted, match="serves group 1"):
        other.received(introduction(twin, other.begin()))


@pytest.mark.parametrize("strange", STRANGE)
def test_what_speaks_otherwise_is_refused_with_few_bytes(strange: bytes) -> None:
    with pytest.raises(NotTrusted):
        answerer().received(strange)
    with pytest.raises(NotTrusted):
        asker().received(strange)
    with pytest.raises(NotTrusted):
        decode_call(strange[:CALL_BYTES])


def test_no_more_is_kept_of_a_stranger_than_one_message() -> None:
    other = answerer()
    length = HANDSHAKE_LIMIT_BYTES.to_bytes(2, "big")
    assert other.received(length + bytes(HANDSHAKE_LIMIT_BYTES - 1)) == (b"", None)
    with pytest.raises(NotTrusted, match="cannot be read"):
        other.received(b"\x00")
    with pytest.raises(NotTrusted, match="1025 bytes"):
        answerer().received((HANDSHAKE_LIMIT_BYTES + 1).to_bytes(2, "big"))


def test_one_that_speaks_before_its_turn_is_refused() -> None:
    with pytest.raises(NotTrusted, match="before its turn"):
        asker().received(answerer().begin() + b"\x00")


def test_a_call_names_the_group() -> None:
    assert decode_call(encode_call(513)) == 513
    with pytest.raises(NotTrusted):
        decode_call(encode_call(513)[:-1])


def test_names_that_run_into_each_other_are_not_the_same_proof() -> None:
    """What is signed is taken apart in one way only."""
    proofs = set()
    for own, callee, cluster in (
        (Party("a", 1, 1), Callee("bc", 2), "x"),
        (Party("ab", 1, 1), Callee("c", 2), "x"),
        (Party("a", 1, 12), Callee("bc", 2), "x"),
        (Party("a", 11, 2), Callee("bc", 2), "x"),
        (Party("a", 1, 1), Callee("bc", 2), "xa"),
    ):
        one = asker(ClusterTrust(cluster, SECRET), own, callee)
        proofs.add(introduction(one, answerer().begin())[-32:])
    assert len(proofs) == 5
