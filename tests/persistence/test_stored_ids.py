"""When the checkpoint store is looked into for an id, and that it is never forgotten to."""

import zlib
from collections.abc import Iterator

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, PromiseState, Task, TaskKind, TaskState
from troth.core.state.captures import Capture
from troth.persistence.checkpoints import digests, rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.port import View
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed

from .test_cold import empty_capture

LONG = "é" * 300


class CountingView:
    """A view that counts how often it was asked for a row."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.gets_count = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        self.gets_count += 1
        return self._view.get(table, key)

    def scan(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._view.scan(table, start, stop)

    def scan_back(self, table: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._view.scan_back(table, start, stop)

    def release_pages(self) -> None:
        self._view.release_pages()

    def close(self) -> None:
        self._view.close()


def opened(store: MemoryStore) -> Checkpoints:
    """The checkpoints of one shard; nothing is verified yet."""
    return Checkpoints(store, b"data", 1)


def number_of(name: str) -> int:
    """A number of its own for each id."""
    return zlib.crc32(name.encode())


def promise(name: str) -> Promise:
    """A completed promise."""
    return Promise(name, number_of(name), PromiseState.RESOLVED, INTEGER_MAX, 1, completed_on=2)


def task(name: str) -> Task:
    """The finished task of a promise."""
    name = f"t/{name}"
    return Task(
        name, TaskKind.INVOKE, name, name, {}, 9, number_of(name), 1, state=TaskState.COMPLETED
    )


def write(checkpoints: Checkpoints, *names: str, deleted: tuple[str, ...] = ()) -> None:
    """A checkpoint in which promises, and a task of each, have come to their end."""
    capture: Capture = empty_capture(0)
    capture.promises = {name: promise(name) for name in names}
    capture.tasks = {task(name).id: task(name) for name in names}
    capture.deleted_promises = {name: number_of(name) for name in deleted}
    capture.deleted_tasks = {one.id: one.sequence for one in map(task, deleted)}
    checkpoints.write([capture])
    checkpoints.renew()


def finds(checkpoints: Checkpoints, name: str) -> tuple[bool, int]:
    """Whether promise and task are found, and how often the store was asked for them."""
    reader = checkpoints.reader
    counting = CountingView(reader.view)
    reader.view = counting
    shard = reader.shards[0]
    found = shard.promise(name), shard.task(task(name).id)
    reader.view = counting._view
    assert found in ((None, None), (promise(name), task(name)))
    return found[0] is not None, counting.gets_count


FOUND = True, 4
"""Each id is found, and then its row."""
LOOKED_FOR = False, 2
NOT_LOOKED_FOR = False, 0


def test_what_is_surely_not_stored_is_not_looked_for() -> None:
    """A new store's filter is complete at once."""
    checkpoints = opened(MemoryStore())
    assert checkpoints.statistics().filter_is_complete
    assert finds(checkpoints, "a") == NOT_LOOKED_FOR
    write(checkpoints, "a", LONG)

    assert finds(checkpoints, "a") == FOUND
    assert finds(checkpoints, LONG) == FOUND
    assert finds(checkpoints, "b") == NOT_LOOKED_FOR
    assert finds(checkpoints, LONG + "b") == LOOKED_FOR, "its beginning is that of a stored one"
    statistics = checkpoints.statistics()
    assert statistics.filter_ids_count == 4
    assert statistics.filter_bytes == 2 << 20


def test_an_id_is_known_before_its_row_can_be_read() -> None:
    """A commit may have been made although it failed."""
    store = MemoryStore()
    checkpoints = opened(store)
    store.fail_next = True
    with pytest.raises(CheckpointFailed):
        write(checkpoints, "a")
    assert finds(checkpoints, "a") == LOOKED_FOR


def test_after_a_restart_everything_is_looked_for_until_all_ids_are_known() -> None:
    store = MemoryStore()
    write(opened(store), "a", LONG)

    again = opened(store)
    assert not again.statistics().filter_is_complete
    assert finds(again, "a") == FOUND
    assert finds(again, "b") == LOOKED_FOR
    write(again, "c")
    again.verify()

    assert again.statistics().filter_is_complete
    assert again.statistics().filter_ids_count == 6
    assert [finds(again, name) for name in ("a", LONG, "c")] == [FOUND] * 3
    assert finds(again, "b") == NOT_LOOKED_FOR


@pytest.mark.parametrize("is_renewed", [False, True])
def test_what_is_written_while_all_is_read_is_found(
    is_renewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment of the pass, which sees only what was there when it began."""
    monkeypatch.setattr(digests, "SLICE_COUNT", 1)
    store = MemoryStore()
    write(opened(store), *"abc")
    checkpoints = opened(store)
    if is_renewed:
        checkpoints.verify()
    written: list[str] = []

    def pause() -> None:
        written.append(f"new/{len(written)}")
        write(checkpoints, written[-1])
        assert finds(checkpoints, written[-1]) == FOUND
        assert finds(checkpoints, "a") == FOUND
        assert finds(checkpoints, "x") == (NOT_LOOKED_FOR if is_renewed else LOOKED_FOR)

    (checkpoints.renew_filter if is_renewed else checkpoints.verify)(pause)

    assert len(written) >= 6
    assert all(finds(checkpoints, name) == FOUND for name in [*"abc", *written])
    assert finds(checkpoints, "x") == NOT_LOOKED_FOR


def test_an_id_that_is_used_again_is_found_again() -> None:
    """What was deleted is looked for until the filter is made anew."""
    checkpoints = opened(MemoryStore())
    write(checkpoints, "a", "b")
    write(checkpoints, deleted=("a", "b"))
    assert finds(checkpoints, "a") == LOOKED_FOR
    write(checkpoints, "a")
    assert finds(checkpoints, "a") == FOUND
    checkpoints.renew_filter(lambda: None)

    assert finds(checkpoints, "a") == FOUND
    assert finds(checkpoints, "b") == NOT_LOOKED_FOR
    write(checkpoints, "b")
    assert finds(checkpoints, "b") == FOUND


def test_damage_leaves_a_filter_that_denies_nothing() -> None:
    """A pass that did not end well has not seen everything."""
    store = MemoryStore()
    write(opened(store), *"abc")
    lost = dict(store.tables[rows.TASKS])
    del lost[min(lost)]
    store.tables = store.tables | {rows.TASKS: lost}
    again = opened(store)
    with pytest.raises(CheckpointDamaged):
        again.verify()
    assert not again.statistics().filter_is_complete
    assert finds_promise(again, "c")


def finds_promise(checkpoints: Checkpoints, name: str) -> bool:
    """Whether a promise is found."""
    return checkpoints.reader.shards[0].promise(name) == promise(name)
