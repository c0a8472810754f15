"""The filter of stored ids: what was added is never denied, and hardly anything else is not."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.persistence.checkpoints import id_filter, rows
from troth.persistence.checkpoints.id_filter import BITS_PER_ID, IdFilter, StoredIds
from troth.persistence.errors import CheckpointDamaged

WRONG_YES_LIMIT = 0.01


def head(identifier: str) -> bytes:
    """An id as its key has it."""
    return rows.id_head(rows.id_key(3, identifier))


def wrong_yes_rate(made: IdFilter, seed: int = 1, count: int = 20_000) -> float:
    """How many of ids that were not added the filter says yes to."""
    random = Random(seed)
    return sum(made.may_hold(f"other/{random.random()}") for _ in range(count)) / count


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
    st.integers(min_value=1, max_value=5),
    st.sampled_from(["", "é" * 219 + "a", "l" * 438, "l" * 478, "l" * 1000]),
)
def test_an_id_that_was_added_is_never_denied(names: list[str], room: int, front: str) -> None:
    """However many layers it takes, and however long the ids are."""
    made, made_together = IdFilter(room), IdFilter(room)
    for number, name in enumerate(names):
        made.add([head(front + name)])
        assert all(made.may_hold(front + one) for one in names[: number + 1])
    made_together.add(head(front + name) for name in names)
    assert (made_together.layers, made_together.ids_count) == (made.layers, made.ids_count)


def test_a_growing_filter_is_seldom_wrong_and_takes_what_it_says() -> None:
    """With eight layers, all of them full, and at every size before."""
    room = 250
    made = IdFilter(room)
    ids = [f"id/{number}" for number in range(room * 128)]
    for number, identifier in enumerate(ids):
        made.add([head(identifier)])
        most_bytes = max(room, 2 * made.ids_count) * BITS_PER_ID // 8
        assert made.size_bytes <= most_bytes, f"after {number}"

    assert all(made.may_hold(identifier) for identifier in ids)
    assert made.ids_count == pytest.approx(len(ids), rel=0.01)
    assert len(made.layers) == 8
    assert 0 < wrong_yes_rate(made) < WRONG_YES_LIMIT


def test_an_empty_filter_denies_everything_and_takes_nothing() -> None:
    made = IdFilter(1000)
    assert not made.may_hold("a")
    assert made.size_bytes == 0


def test_adding_an_id_again_takes_no_room() -> None:
    made = IdFilter(2)
    for _ in range(10):
        made.add([b"a"])
    assert made.ids_count == 1
    assert len(made.layers) == 1


def test_before_the_pass_everything_may_be_stored() -> None:
    """And after it only what the pass has found, or what was committed since."""
    ids = StoredIds(is_empty=False)
    assert ids.filter.may_hold("a")
    with ids.committing() as add_ids:
        add_ids([b"before"])
    assert not ids.is_complete
    with ids.filling(10) as add_ids:
        add_ids([b"before"])
        with ids.committing() as add_more:
            add_more([b"meanwhile"])
        assert ids.filter.may_hold("a")
        assert not ids.is_complete
    assert ids.is_complete
    with ids.committing() as add_ids:
        add_ids([b"later"])

    assert all(ids.filter.may_hold(one) for one in ("before", "meanwhile", "later"))
    assert not ids.filter.may_hold("a")


def test_what_is_committed_while_a_filter_is_renewed_is_in_both() -> None:
    """The old one is asked until the new one is complete, which forgets what is not stored."""
    ids = StoredIds(is_empty=True)
    with ids.committing() as add_ids:
        add_ids([b"deleted"])
    with ids.filling(0):
        with ids.committing() as add_ids:
            add_ids([b"meanwhile"])
        assert ids.filter.may_hold("meanwhile")
        assert ids.filter.may_hold("deleted")

    assert ids.filter.may_hold("meanwhile")
    assert not ids.filter.may_hold("deleted")


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_pass_that_fails_changes_nothing(is_empty: bool) -> None:
    ids = StoredIds(is_empty=is_empty)
    with ids.committing() as add_ids:
        add_ids([b"a"])

    def fail(add_ids: Callable[[list[bytes]], None]) -> None:
        add_ids([b"b"])
        raise CheckpointDamaged("promises", "a test says so")

    with pytest.raises(CheckpointDamaged), ids.filling(0) as add_ids:
        fail(add_ids)
    assert ids.is_complete is is_empty
    assert ids.filter.may_hold("a")
    assert ids.filter.may_hold("never") is not is_empty
    with ids.filling(0) as add_ids:
        add_ids([b"a"])
    assert ids.is_complete


def test_a_pass_makes_room_for_what_is_stored_in_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_filter, "ROOM_MIN_COUNT", 10)
    ids = StoredIds(is_empty=False)
    with ids.filling(1000) as add_ids:
        add_ids(b"%d" % number for number in range(1200))
    assert len(ids.filter.layers) == 1


def test_a_filter_of_what_was_deleted_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_filter, "ROOM_MIN_COUNT", 100)
    ids = StoredIds(is_empty=True)
    with ids.committing() as add_ids:
        add_ids([b"%d" % number for number in range(200)])
    assert not ids.is_stale(40)
    assert ids.is_stale(20)
    assert not StoredIds(is_empty=False).is_stale(0)
