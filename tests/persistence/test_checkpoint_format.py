"""What a store says about its format, and which rows the server's own promises have."""

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core.catalog import Account
from troth.core.executions import ACCOUNT_TAG, Usage
from troth.core.model import Promise, PromiseState
from troth.core.state.captures import Capture, ShardHeader
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import CheckpointDamaged

DATA_ID = b"x" * 16
WITH_WORKFLOWS = ShardHeader(0, 1, 1, 0, 0, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0, has_workflows=True)
INDEXES = (rows.BY_SERIAL, rows.BY_STATE, rows.BY_TAG, rows.BY_END)


def capture(**changes: object) -> Capture:
    """What one shard hands over."""
    header = ShardHeader(0, 1, 1, 0, 0, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": {"a": Account("a", 1, 2, "n")}},
        {"executions": {"troth:task/1": None}},
        {"usage": {"f": Usage("f", "a")}},
    ],
)
def test_the_format_steps_up_when_there_is_something_new(changes: dict[str, object]) -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)

    checkpoints.write([capture()])
    assert format_of(store) == b"1"
    checkpoints.write([capture(**changes)])
    assert format_of(store) == b"2"
    checkpoints.write([capture()])
    assert format_of(store) == b"2", "it never steps back"
    Checkpoints(store, DATA_ID, 1).write([capture()])
    assert format_of(store) == b"2"


def test_a_store_that_got_its_rows_otherwise_says_so_too() -> None:
    """As restoring a snapshot does."""
    store = MemoryStore()
    Checkpoints(store, DATA_ID, 1).write([])
    key = rows.id_key(0, "a")
    store.commit([(rows.ENTRIES, key, rows.encode(rows.ENTRIES, key, Account("a", 1, 2, "n")))])

    Checkpoints(store, DATA_ID, 1).write([capture()])
    assert format_of(store) == b"2"


def test_a_format_of_a_later_release_is_refused() -> None:
    store = MemoryStore()
    store.commit([(rows.META, b"format", b"4")])

    with pytest.raises(CheckpointDamaged, match="knows up to 3"):
        Checkpoints(store, DATA_ID, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"header": WITH_WORKFLOWS},
        {"awaits": {("a", "b"): None}},
        {"listeners": {("a", "http://b"): None}},
    ],
)
def test_workflow_tasks_have_a_format_of_their_own(changes: dict[str, object]) -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    checkpoints.write([capture()])
    checkpoints.write([capture(**changes)])
    assert format_of(store) == b"3"
    checkpoints.write([capture(usage={"f": Usage("f", "a")})])
    assert format_of(store) == b"3", "it never steps back"


def test_a_store_whose_workflows_came_otherwise_says_so_too() -> None:
    """As restoring a snapshot does: the header knows of tasks that have ended."""
    store = MemoryStore()
    Checkpoints(store, DATA_ID, 1).write([])
    key = rows.shard_key(0)
    store.commit([(rows.HEADERS, key, rows.encode(rows.HEADERS, key, WITH_WORKFLOWS))])

    Checkpoints(store, DATA_ID, 1).write([capture()])
    assert format_of(store) == b"3"


@pytest.mark.parametrize(
    ("promise_id", "tables"),
    [("p", set(INDEXES)), ("troth:task/1", {rows.BY_TAG, rows.BY_END})],
)
def test_the_servers_own_promises_are_found_by_tags_only(promise_id: str, tables: set[str]) -> None:
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    checkpoints.write([capture(promises={promise_id: completed(promise_id)})])
    assert indexed(store) == tables

    gone = frozenset({promise_id})
    checkpoints.write([capture(promises={promise_id: None}, deleted_promises=gone)])
    assert indexed(store) == set()


def test_deleting_takes_rows_that_are_not_written_any_more() -> None:
    """A client may have made such an id before it was reserved."""
    promise = completed("troth:x")
    store = MemoryStore()
    checkpoints = Checkpoints(store, DATA_ID, 1)
    checkpoints.write([capture(promises={"troth:x": promise})])
    store.commit((table, key, b"troth:x") for table, key in rows.index_keys(0, promise))

    gone = frozenset({"troth:x"})
    checkpoints.write([capture(promises={"troth:x": None}, deleted_promises=gone)])
    assert indexed(store) == set()
