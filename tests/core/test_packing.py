"""Completed promises are bytes until a checkpoint has them, and nobody who asks can tell."""

from random import Random

import pytest

from tests.core.system import System
from tests.core.test_promise_table import any_promise
from tests.twins.memory_store import MemoryStore
from troth.core import commands as c
from troth.core import records
from troth.core.model import EMPTY_VALUE, PENDING, Promise, PromiseState, Value, replace
from troth.core.records import PromisesDeleted
from troth.core.state.apply import replay
from troth.core.state.shard_state import ShardState
from troth.core.tables import promise_table
from troth.core.tables.folding import DATA_CHARACTERS, PACKED, serial_of
from troth.core.tables.packing import CONTENT, pack, unpack
from troth.core.tables.promise_table import PromiseTable
from troth.core.tables.serial_index import SerialIndex
from troth.core.tables.tag_index import LateTagIndex

FINAL = [state for state in PromiseState if state is not PENDING]
FAR = 10**15


def any_completed(random: Random, number: int) -> Promise:
    return replace(
        any_promise(random, number),
        state=random.choice(FINAL),
        value=random.choice((EMPTY_VALUE, Value(None, "ü"), Value({"a": "b"}, "eA=="))),
        key_for_complete=random.choice((None, "key")),
        completed_on=random.choice((-3, 0, 1_760_000_000_007)),
        task_version=random.choice((None, 4)),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_packed_promise_is_read_as_it_was_and_written_as_it_would_be(seed: int) -> None:
    random = Random(seed)
    table = PromiseTable()
    promises = [any_completed(random, number * 997) for number in range(100)]
    for promise in promises:
        table[promise.id] = promise
    table.pack(promises)
    assert table.folded_count == 0
    for promise in promises:
        kept = table.kept[promise.id]
        assert isinstance(kept, bytes)
        assert kept[0] == PACKED
        assert serial_of(kept) == table.serial_of(promise.id) == promise.serial
        assert kept[CONTENT] == records.encode(promise)
        assert table[promise.id] == table.get(promise.id) == unpack(kept) == promise
    assert dict(table) == {promise.id: promise for promise in promises}
    assert table.timeouts() == ([], [])


def completed_in(*, tracks_changes: bool) -> ShardState:
    """A shard in which one promise has been completed, and one waits."""
    system = System(1, now=1_000, store=MemoryStore() if tracks_changes else None)
    for name in ("done", "waits"):
        system.ask(c.CreatePromise(name, FAR, tags={"x": "1"}))
    system.ask(c.CompletePromise("done", PromiseState.RESOLVED, Value(None, "eA==")))
    state = system.machines[0].state
    assert state.tracks_changes is tracks_changes
    return state


def test_only_what_a_checkpoint_takes_out_of_memory_is_packed() -> None:
    """Without checkpoints it would be read from bytes for good."""
    kept = completed_in(tracks_changes=False).promises.kept
    assert isinstance(kept["done"], Promise)
    state = completed_in(tracks_changes=True)
    assert isinstance(state.promises.kept["done"], bytes)
    assert isinstance(state.promises.kept["waits"], Promise)
    assert state.unpacked == []
    assert state.promises.timeouts() == (["waits"], [FAR])


def test_what_was_deleted_is_not_found_under_an_id_that_is_in_use_again() -> None:
    state = completed_in(tracks_changes=True)
    assert state.promises["done"].state is PromiseState.RESOLVED
    replay(state, PromisesDeleted(["done"], [], 1, 2_000))
    assert "done" not in state.promises
    assert [*state.index_for({"x": "1"}).below(FAR, 9)] == [(2, "waits")]
    again = Promise("done", 9, PENDING, FAR, 2_000)
    state.add_promise(again, None)
    state.promises.fold(again)
    assert state.promises["done"] == again


def test_a_promise_with_much_data_stays_an_object() -> None:
    much = Value(None, "x" * (DATA_CHARACTERS + 1))
    promise = Promise("p", 1, PromiseState.RESOLVED, 9, 5, completed_on=7)
    for large in (replace(promise, value=much), replace(promise, param=much)):
        assert pack(large) is None
        table = PromiseTable()
        table["p"] = large
        table.pack([large])
        assert table.kept == {"p": large}


def test_a_promise_stays_an_object_while_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(promise_table, "pack", fail)
    system = System(1, now=1_000, store=MemoryStore())
    system.ask(c.CreatePromise("p", FAR))
    system.ask(c.CompletePromise("p", PromiseState.RESOLVED))
    state = system.machines[0].state
    assert isinstance(state.promises.kept["p"], Promise)
    system.capture(0)
    system.write_checkpoint()
    system.renew()
    assert system.evict() == 1
    assert state.completed == {}
    assert system.ask(c.ReadPromise("p")).code.name == "OK"


def test_tags_that_are_read_late_are_also_those_of_packed_promises() -> None:
    table, index = PromiseTable(), SerialIndex()
    promises = [
        Promise(f"p{serial}", serial, FINAL[0], 9, 5, tags=tags, completed_on=7)
        for serial, tags in enumerate(({"a": "1"}, None, {"a": "1", "b": "p2"}))
    ]
    for promise in promises:
        table[promise.id] = promise
        index.append(promise.serial, promise.id)
    table.pack(promises)
    late = LateTagIndex(table, index)
    assert not late.read_some(9)
    whole = late.whole()
    assert [*whole.smallest({"a": "1"}).above(-1, 9)] == [(0, "p0"), (2, "p2")]
    assert [*whole.smallest({"b": "p2"}).above(-1, 9)] == [(2, "p2")]
    whole.discard_all([("p2", 2, promises[2].tags)])
    assert [*whole.smallest({"a": "1"}).above(-1, 9)] == [(0, "p0")]
