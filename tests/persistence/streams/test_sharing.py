"""Which node owns which group: even shares, few moves, and one order in which nodes claim."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from troth.core.limits import CLUSTER_CLAIM_STEP_MS
from troth.persistence.streams.sharing import ClaimTurn, Move, Sharing

_NODES = st.sets(st.sampled_from("abcde"), min_size=1)


@st.composite
def _sharings(draw: st.DrawFn) -> Sharing:
    count = draw(st.integers(1, 9))
    held = st.dictionaries(st.integers(0, count - 1), st.sampled_from("abcdefg"))
    return Sharing(count, draw(held), draw(_NODES))


@given(_sharings())
def test_shares_are_even_and_living_owners_keep_what_they_can(sharing: Sharing) -> None:
    wanted = sharing.wanted()
    assert sorted(wanted) == [*range(sharing.groups_count)]
    counts = Counter(dict.fromkeys(sharing.living, 0))
    counts.update(wanted.values())
    assert set(counts) == sharing.living
    assert max(counts.values()) - min(counts.values()) <= 1
    held = Counter(node for node in sharing.holders.values() if node in sharing.living)
    least = sharing.groups_count // len(sharing.living)
    for move in sharing.moves():
        assert held[sharing.holders[move.group]] > least, "it has no more than the others"
        assert move.target in sharing.living


@given(_sharings())
def test_when_all_have_moved_there_is_nothing_to_move(sharing: Sharing) -> None:
    settled = Sharing(sharing.groups_count, sharing.wanted(), sharing.living)
    assert settled.wanted() == settled.holders
    assert settled.moves() == []


@given(_sharings(), st.data())
def test_nodes_agree_on_who_claims_first(sharing: Sharing, data: st.DataObject) -> None:
    group = data.draw(st.integers(0, sharing.groups_count - 1))
    last = sharing.holders.get(group)
    orders = {tuple(sharing.claimers(group, node)) for node in sharing.living if node != last}
    assert len(orders) <= 1
    for order in orders:
        assert sorted(order) == sorted(sharing.living - {last})
    if last is not None and last in sharing.living:
        assert sharing.claimers(group, last)[0] == last, "a process that was started again"


def test_a_node_that_joins_gets_groups_of_the_fullest() -> None:
    assert Sharing(4, dict.fromkeys(range(4), "a"), {"a"}).moves() == []
    two = Sharing(4, dict.fromkeys(range(4), "a"), {"a", "b"}).moves()
    assert [target for _, target in two] == ["b", "b"]
    three = Sharing(4, {0: "a", 1: "b", 2: "a", 3: "b"}, {"a", "b", "c"}).moves()
    assert [target for _, target in three] == ["c"]
    assert Sharing(2, {0: "a"}, set()).wanted() == {}
    assert Sharing(2, {0: "a"}, set()).claimers(0, "a") == []
    assert isinstance(two[0], Move)


def test_the_groups_of_a_node_that_is_gone_are_spread() -> None:
    left = Sharing(6, dict(enumerate("ababcc")), {"a", "b"})
    assert Counter(left.wanted().values()) == {"a": 3, "b": 3}
    assert {left.claimers(group, "a")[0] for group in (4, 5)} == {"a", "b"}


def test_a_node_waits_for_those_that_come_before_it() -> None:
    now_ms = 5_000
    turn = ClaimTurn(lambda: now_ms)
    assert not turn.may_claim(), "it does not know its place yet"
    turn.rank = 0
    assert turn.may_claim()
    turn.rank = 2
    assert not turn.may_claim()
    for _ in range(2 * CLUSTER_CLAIM_STEP_MS // 100):
        assert not turn.may_claim()
        now_ms += 100
    assert turn.may_claim()
    now_ms += 1_000  # it had an owner in the meantime
    assert not turn.may_claim()
