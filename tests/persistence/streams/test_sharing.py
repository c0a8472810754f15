"""Which node owns which group: even shares, few moves, and one order in which nodes claim."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from troth.core.limits import CLUSTER_CLAIM_STEP_MS
from troth.persistence.streams.sharing import ClaimTurn, Move, Sharing, Wishes, decode_wishes

_NODES = st.sets(st.sampled_from("abcde"), min_size=1)


@st.composite
def _sharings(draw: st.DrawFn) -> Sharing:
    count = draw(st.integers(1, 9))
    held = st.dictionaries(st.integers(0, count - 1), st.sampled_from("abcdefg"))
    return Sharing(count, draw(held), draw(_NODES))


@st.composite
def _wished(draw: st.DrawFn) -> Sharing:
    """Return what a node knows when the operator has wishes."""
    sharing = draw(_sharings())
    groups = st.integers(0, sharing.groups_count - 1)
    drained = draw(st.frozensets(st.sampled_from("abcde")))
    placed = draw(st.dictionaries(groups, st.sampled_from("abcdefg"), max_size=4))
    return replace(sharing, wishes=Wishes(drained, placed))


def _placed(sharing: Sharing) -> dict[int, str]:
    """Return the wished places that count."""
    placed = sharing.wishes.placed.items()
    return {group: node for group, node in placed if node in sharing.takers}


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


@given(_wished())
def test_drained_nodes_have_no_groups_as_long_as_others_live(sharing: Sharing) -> None:
    owners = {*sharing.wanted().values()}
    if sharing.living - sharing.wishes.drained:
        assert not owners & sharing.wishes.drained
    else:
        assert sharing.takers == sharing.living, "somebody has to serve"
    assert owners <= sharing.living


@given(_wished())
def test_groups_are_where_they_are_wished_and_the_others_make_it_even(sharing: Sharing) -> None:
    wanted, placed = sharing.wanted(), _placed(sharing)
    assert sorted(wanted) == [*range(sharing.groups_count)]
    assert {group: wanted[group] for group in placed} == placed
    counts = Counter(dict.fromkeys(sharing.takers, 0))
    counts.update(wanted.values())
    for node in {node for group, node in wanted.items() if group not in placed}:
        assert counts[node] - min(counts.values()) <= 1, "it could give one up"


@given(_wished(), st.data())
def test_groups_move_one_by_one_in_any_order_and_never_back(
    sharing: Sharing, data: st.DataObject
) -> None:
    left = len(sharing.moves())
    while moves := sharing.moves():
        assert len(moves) <= left
        left = len(moves) - 1
        group, target = data.draw(st.sampled_from(moves))
        sharing = replace(sharing, holders={**sharing.holders, group: target})


@given(_wished(), st.data())
def test_a_free_group_is_claimed_first_where_it_is_wished_and_last_by_drained_nodes(
    sharing: Sharing, data: st.DataObject
) -> None:
    group = data.draw(st.integers(0, sharing.groups_count - 1))
    node = data.draw(st.sampled_from(sorted(sharing.living)))
    order = sharing.claimers(group, node)
    assert node in order, "each has a turn"
    before = sharing.holders.get(group)
    if before == node and node in sharing.takers:
        assert order[0] == node
        return
    takers = sharing.takers - {before}
    assert {*order[: len(takers)]} == takers
    wished = _placed(sharing).get(group)
    if wished in takers:
        assert order[0] == wished


def test_a_wish_counts_while_its_node_lives_and_is_not_drained() -> None:
    held = dict(enumerate("aabb"))
    wishes = Wishes(placed={0: "b"})
    there = Sharing(4, held, {"a", "b"}, wishes)
    assert there.wanted()[0] == "b"
    assert len(there.moves()) == 2, "another one comes back for it"
    assert Sharing(4, held, {"a", "c"}, wishes).wanted()[0] == "a"
    drained = Sharing(4, held, {"a", "b"}, Wishes(frozenset("b"), {0: "b"}))
    assert {*drained.wanted().values()} == {"a"}
    one_node = dict.fromkeys(range(4), "b")
    crowded = Sharing(4, held, {"a", "b"}, Wishes(placed=one_node))
    assert crowded.wanted() == one_node, "the operator may want it uneven"


def test_wishes_are_text_in_the_book() -> None:
    wishes = Wishes(frozenset("ba"), {11: "b", 2: "a"})
    assert decode_wishes(wishes.encoded()) == wishes
    assert Wishes(frozenset("ab"), {2: "a", 11: "b"}).encoded() == wishes.encoded()
    assert decode_wishes("") == Wishes()


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


def test_a_group_goes_that_the_other_node_has_read() -> None:
    held = dict.fromkeys(range(4), "a")
    for group in held:
        sharing = Sharing(4, held, {"a", "b"}, standing_by={group: {"b"}})
        assert group in {move.group for move in sharing.moves()}


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


def test_a_node_looks_more_often_while_it_expects_a_group() -> None:
    turn = ClaimTurn(lambda: 0)
    usual_s = turn.look_s()
    turn.is_expected = True
    assert turn.look_s() < usual_s / 5
