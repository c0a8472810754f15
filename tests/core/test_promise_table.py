"""Promises that wait are bytes, and nobody who asks for them can tell."""

from random import Random

import pytest

from troth.core.limits import FOLD_SLICE_COUNT, INTEGER_MAX
from troth.core.model import EMPTY_VALUE, PENDING, RESOLVED, Promise, Trace, Value, replace
from troth.core.records import PromiseCreated
from troth.core.state.creations import promise_created
from troth.core.state.shard_state import ShardState
from troth.core.tables import folding
from troth.core.tables.bulk_load import BulkLoad
from troth.core.tables.folding import (
    DATA_CHARACTERS,
    NAMES_LIMIT_COUNT,
    ROW_MARK,
    SERIAL,
    FoldedRow,
    NameSets,
    RowUnreadable,
    fold,
    promise_of,
    row_of,
)
from troth.core.tables.promise_table import PromiseTable
from troth.core.tables.serial_index import SerialIndex
from troth.core.tables.tag_index import LateTagIndex, TagIndex

NAMES = ("resonate:origin", "resonate:invoke", "customer", "", "größe", "x" * 300)


def any_promise(random: Random, number: int) -> Promise:
    """A pending promise with some of what promises may have."""
    promise_id = f"pröm-{number}"
    texts = ("", promise_id, "c7", "ü" * 40)
    some = {name: random.choice(texts) for name in random.sample(NAMES, random.randint(0, 6))}
    param = Value(
        random.choice((None, {}, {"a": "b", "c": ""})), random.choice((None, "", "aGVsbG8="))
    )
    return Promise(
        promise_id,
        number,
        PENDING,
        random.choice((0, 1, 4_102_444_800_000, INTEGER_MAX)),
        random.choice((0, 1_760_000_000_000)),
        param if param != EMPTY_VALUE else EMPTY_VALUE,
        random.choice((None, some)),
        random.choice((None, "", "key")),
        trace=random.choice((None, Trace("00-a-b-01"), Trace("00-a-b-01", "state=1"))),
    )


def folded_ids(table: PromiseTable) -> set[str]:
    """The ids of those that are bytes."""
    return {promise_id for promise_id, kept in table.kept.items() if isinstance(kept, bytes)}


@pytest.mark.parametrize("seed", range(5))
def test_a_folded_promise_is_read_as_it_was(seed: int) -> None:
    random = Random(seed)
    table = PromiseTable()
    expected: dict[str, Promise] = {}
    for number in range(300):
        promise = any_promise(random, number)
        expected[promise.id] = table[promise.id] = promise
        if random.random() < 0.7:
            table.fold(promise)
        read = random.choice(list(expected))
        assert table[read] == table.get(read) == expected[read]
        if random.random() < 0.2:
            ended = random.choice(list(expected))
            expected[ended] = table[ended] = replace(expected[ended], state=RESOLVED)
        if random.random() < 0.2:
            gone = random.choice(list(expected))
            del expected[gone], table[gone]
    assert len(folded_ids(table)) == table.folded_count > 0
    assert dict(table) == expected
    assert len(table) == len(expected)
    assert all(name in table for name in expected)
    assert {name: table.get(name) for name in expected} == expected
    assert "none" not in table
    assert table.get("none") is None
    with pytest.raises(KeyError):
        table["none"]
    pending = {one.id: one.timeout for one in expected.values() if one.state is PENDING}
    assert dict(zip(*table.timeouts(), strict=True)) == pending


def test_sets_of_tag_names_that_are_too_many_or_too_long_are_kept_with_their_promises() -> None:
    table = PromiseTable()
    long = {f"{number}" * 10: "a" for number in range(100)}
    promises = [
        Promise(f"p{number}", number, PENDING, 9, 5, tags={f"name{number}": "a", "b": f"p{number}"})
        for number in range(NAMES_LIMIT_COUNT + 10)
    ]
    promises.append(Promise("long", INTEGER_MAX, PENDING, 9, 5, tags=long))
    for promise in promises:
        table.add_folded(promise)
    assert list(table.values()) == promises
    assert len(table.name_sets.names) == NAMES_LIMIT_COUNT
    assert tuple(long) not in table.name_sets.names


@pytest.mark.parametrize("seed", range(5))
def test_a_row_brings_a_folded_promise_back(seed: int) -> None:
    """In a shard that has other sets of names, or all that it may have; and alone."""
    random = Random(seed)
    written, read = NameSets(), PromiseTable()
    if seed:
        for number in range(random.choice((3, NAMES_LIMIT_COUNT - 2, NAMES_LIMIT_COUNT))):
            read.name_sets.number_of((f"name{number}",))
    promises = [any_promise(random, number) for number in range(1_000)]
    found: list[Promise | FoldedRow] = []
    for promise in promises:
        folded = fold(promise, written)
        assert folded is not None
        row = row_of(promise.id, folded, written.packed)
        assert row[0] == ROW_MARK != ord("[")
        assert promise_of(folded[SERIAL], row) == promise
        found.append((folded[SERIAL], row))
        if random.random() < 0.2:
            found[-1] = promise  # as a shard has it that has not folded it yet
    index = SerialIndex()
    BulkLoad(read, index, TagIndex(read.serial_of)).load(found)
    tag_index = LateTagIndex(read, index)
    while tag_index.read_some(100):
        pass
    assert list(read.values()) == promises
    assert index.next_ids(-1, 1_000) == (promises[-1].serial, [one.id for one in promises])
    for name in NAMES:
        for value in ("", "c7", "ü" * 40, "pröm-3"):
            having = [one.id for one in promises if (one.tags or {}).get(name) == value]
            assert tag_index.whole().smallest({name: value}).ids() == having
    assert len(folded_ids(read)) == read.folded_count == len(promises)


def take_up(table: PromiseTable, row: FoldedRow) -> None:
    """Take up the only promise of a shard, and then its tags."""
    index = SerialIndex()
    BulkLoad(table, index, TagIndex(table.serial_of)).load([row])
    LateTagIndex(table, index).read_some(1)


def test_a_row_that_ends_too_early_is_refused() -> None:
    promise = Promise("größe", 7, PENDING, 9, 5, Value(None, "aGVsbG8="), {"a": "b"}, "key")
    names = NameSets()
    folded = fold(promise, names)
    assert folded is not None
    row = row_of(promise.id, folded, names.packed)
    for length in range(len(row)):
        table = PromiseTable()
        with pytest.raises(RowUnreadable):
            take_up(table, (folded[SERIAL], row[:length]))


def test_what_all_promises_of_a_kind_have_is_kept_once() -> None:
    table = PromiseTable()
    tags = {"resonate:origin": "promise-1", "resonate:parent": "promise-1", "resonate:scope": "g"}
    promise = Promise("promise-1", 7, PENDING, INTEGER_MAX, 1_760_000_000_000, EMPTY_VALUE, tags)
    table.add_folded(promise)
    assert table["promise-1"] == promise
    folded = table.kept["promise-1"]
    assert isinstance(folded, bytes)
    assert len(folded) <= 45


def test_a_promise_with_long_data_stays_an_object() -> None:
    state = ShardState(0, lambda _: 0)
    limit = DATA_CHARACTERS
    for serial, length in enumerate((limit + 1, limit)):
        param = Value({}, "x" * length)
        state.add_promise(Promise(f"p{serial}", serial, PENDING, 9, 5, param), None)
    assert state.promises.fold_some(state.promise_index, 1)
    assert folded_ids(state.promises) == {"p1"}
    assert state.promises.folded_count == 1
    assert state.promises.folded_through == 1
    table = PromiseTable()
    for promise in state.promises.values():
        table.add_folded(promise)
    assert folded_ids(table) == {"p1"}
    assert dict(table) == dict(state.promises)


def test_a_promise_stays_an_object_while_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    table = PromiseTable()
    promise = Promise("p", 0, PENDING, 9, 5, tags={})
    with monkeypatch.context() as patch:
        patch.setattr(folding, "_pack", fail)
        table.add_folded(promise)
        assert table.kept == {"p": promise}
        assert table.folded_count == 0
    table.fold(promise)
    assert folded_ids(table) == {"p"}


def test_a_new_promise_stays_an_object_while_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    state = ShardState(0, lambda _: 0)
    long = Value(None, "x" * (DATA_CHARACTERS + 1))
    with monkeypatch.context() as patch:
        patch.setattr(folding, "_pack_start", fail)
        patch.setattr(folding, "_pack_data_start", fail)
        for serial, param in enumerate((EMPTY_VALUE, Value(None, "aGVsbG8="))):
            promise_created(state, PromiseCreated(f"p{serial}", serial, 9, 5, param, *[None] * 4))
    promise_created(state, PromiseCreated("p2", 2, 9, 5, long, *[None] * 4))
    assert folded_ids(state.promises) == set()
    assert state.promises.folded_count == 0
    assert [one.param for one in state.promises.values()] == [
        EMPTY_VALUE,
        Value(None, "aGVsbG8="),
        long,
    ]
    assert state.promises.fold_some(state.promise_index, 2)
    assert folded_ids(state.promises) == {"p0", "p1"}


def test_what_is_old_and_pending_is_folded_in_slices() -> None:
    state = ShardState(0, lambda _: 0)
    count = 3 * FOLD_SLICE_COUNT
    for serial in range(count):
        state.add_promise(Promise(f"p{serial}", serial, PENDING, 9, 5), None)
    old = range(2 * FOLD_SLICE_COUNT + 7)
    completed = replace(state.promises["p3"], state=RESOLVED)
    state.promises["p3"], state.completed["p3"] = completed, None

    slices_count = 0
    while state.promises.fold_some(state.promise_index, old[-1]):
        slices_count += 1
    assert slices_count >= 2
    assert folded_ids(state.promises) == {f"p{serial}" for serial in old} - {"p3"}
    assert not state.promises.fold_some(state.promise_index, old[-1])

    del state.promises["p9"]
    while state.promises.fold_some(state.promise_index, count):
        pass
    assert set(state.promises) - folded_ids(state.promises) == {"p3"}
    assert len(state.promises) == count - 1
    assert not state.promises.fold_some(state.promise_index, count)
