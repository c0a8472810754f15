"""What a store says about its format, and which rows the server's own promises have."""

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core.executions import ACCOUNT_TAG
from troth.core.model import Promise, PromiseState, Task, TaskKind, TaskState, replace
from troth.core.state.captures import Capture, ShardHeader
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import CheckpointDamaged

DATA_ID = b"x" * 16
LARGEST_SERIAL = 100
INDEXES = (rows.BY_SERIAL, rows.BY_STATE, rows.BY_TAG, rows.BY_END)


def capture(**changes: object) -> Capture:
    """What one shard hands over."""
    header = ShardHeader(0, 1, 1, 0, LARGEST_SERIAL, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0)
    made = Capture(header, {}, {}, {}, {}, {}, {})
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def format_of(store: MemoryStore) -> bytes | None:
    return store.view().get(rows.META, b"format")


def completed(promise_id: str) -> Promise:
    return Promise(
        *(promise_id, 7, PromiseState.RESOLVED, 9, 1),
        tags={ACCOUNT_TAG: "a"},
        completed_on=2,
    )


def indexed(store: MemoryStore) -> set[str]:
    """The indexes that have rows."""
    return {table for table in INDEXES if store.tables.get(table)}


def test_a_store_says_its_format_from_the_first_commit_on() -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    assert format_of(store) is None
    checkpoints.write([])
    assert format_of(store) == b"5"
    Checkpoints(store, DATA_ID, 1).write([capture()])
    assert format_of(store) == b"5"


def test_it_is_known_whether_another_process_has_written_a_checkpoint_since() -> None:
    store = MemoryStore()
    Checkpoints(store, DATA_ID, 1).write([capture()])
    read = Checkpoints(store, DATA_ID, 1)
    assert read.is_newest()
    header = replace(capture().header, sequence=2, position=2)
    Checkpoints(store, DATA_ID, 1).write([capture(header=header)])
    assert not read.is_newest()
    assert Checkpoints(store, DATA_ID, 1).is_newest()


@pytest.mark.parametrize("version", [b"1", b"3", b"6"])
def test_another_format_is_refused(version: bytes) -> None:
    store = MemoryStore()
    store.commit([(rows.META, b"format", version)])

    with pytest.raises(CheckpointDamaged, match="this version of Troth knows 4 and 5"):
        Checkpoints(store, DATA_ID, 1)


@pytest.mark.parametrize(
    ("promise_id", "tables"),
    [("p", set(INDEXES)), ("troth:task/1", {rows.BY_TAG, rows.BY_END})],
)
def test_the_servers_own_promises_are_found_by_tags_only(promise_id: str, tables: set[str]) -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    checkpoints.write([capture(promises={promise_id: completed(promise_id)})])
    assert indexed(store) == tables

    gone = {promise_id: 7}
    checkpoints.write([capture(promises={promise_id: None}, deleted_promises=gone)])
    assert indexed(store) == set()


def test_deleting_takes_rows_that_are_not_written_any_more() -> None:
    """A client may have made such an id before it was reserved."""
    promise = completed("troth:x")
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    checkpoints.write([capture(promises={"troth:x": promise})])
    store.commit((table, key, b"troth:x") for table, key in rows.index_keys(0, promise))

    gone = {"troth:x": 7}
    checkpoints.write([capture(promises={"troth:x": None}, deleted_promises=gone)])
    assert indexed(store) == set()


def test_an_id_that_is_used_again_has_its_newest_row() -> None:
    """Deleted and made again, live or completed, within one checkpoint or more."""
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)

    def found() -> Promise | None:
        checkpoints.renew()
        return checkpoints.reader.shards[0].promise("p")

    def live() -> list[int]:
        return [rows.number_of(key) for key in store.tables.get(rows.LIVE_PROMISES, {})]

    first, second = completed("p"), replace(completed("p"), serial=9)
    checkpoints.write([capture(promises={"p": first})])
    assert found() == first
    pending = replace(second, state=PromiseState.PENDING, completed_on=None)
    checkpoints.write([capture(promises={"p": pending}, deleted_promises={"p": 7})])
    assert (found(), live()) == (None, [9])
    checkpoints.write([capture(promises={"p": second})])
    assert (found(), live()) == (second, [])
    third = replace(second, serial=12)
    checkpoints.write([capture(promises={"p": third}, deleted_promises={"p": 9})])
    assert (found(), live()) == (third, [])
    assert [len(store.tables[table]) for table in (rows.PROMISES, *INDEXES)] == [1] * 5
    checkpoints.verify()


@pytest.mark.parametrize("serial", [1, LARGEST_SERIAL])
def test_a_promise_that_was_pending_in_the_last_checkpoint_is_not_live_any_more(
    serial: int,
) -> None:
    """The newest one that it had, too; of a later one nothing can be there."""
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    ended = replace(completed("p"), serial=serial)
    pending = replace(ended, state=PromiseState.PENDING, completed_on=None)
    checkpoints.write([capture(promises={"p": pending})])
    assert len(store.tables[rows.LIVE_PROMISES]) == 1

    later = replace(completed("q"), serial=LARGEST_SERIAL + 1)
    checkpoints.write([capture(promises={"p": ended, "q": later})])
    assert not store.tables[rows.LIVE_PROMISES]
    assert len(store.tables[rows.PROMISES]) == 2


def test_a_task_that_lives_again_has_one_row() -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)

    def sequences() -> list[list[int]]:
        tables = (rows.LIVE_TASKS, rows.TASKS)
        return [[rows.number_of(key) for key in store.tables.get(one, {})] for one in tables]

    live = Task("t", TaskKind.INVOKE, "r", "r", {}, 9, 1, 1)
    ended = replace(live, state=TaskState.COMPLETED)
    checkpoints.write([capture(tasks={"t": live})])
    assert sequences() == [[1], []]
    checkpoints.write([capture(tasks={"t": replace(live, sequence=5)}, deleted_tasks={"t": 1})])
    assert sequences() == [[5], []]
    checkpoints.write([capture(tasks={"t": replace(ended, sequence=5)})])
    assert sequences() == [[], [5]]
    checkpoints.write([capture(tasks={"t": replace(ended, sequence=8)}, deleted_tasks={"t": 5})])
    assert sequences() == [[], [8]]
    checkpoints.renew()
    found = checkpoints.reader.shards[0].task("t")
    assert found is not None
    assert found.sequence == 8
    checkpoints.verify()
