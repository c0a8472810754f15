"""Searching what has left memory: the same matches by every index, in pages of every size."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from tests.twins.memory_store import MemoryStore
from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, PromiseState, Task, TaskKind, TaskState, Value
from troth.core.state.captures import Capture
from troth.core.state.checkpointing import capture
from troth.core.state.cold import Found, Query, merge
from troth.core.state.shard_state import ShardState
from troth.persistence import process_memory
from troth.persistence.checkpoints import cold, rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import CheckpointDamaged

ALL = tuple(PromiseState)
PATTERNS = ("*", "a*", "a/1*", "*1", "*/*2", "b*7", "none*", "é*", "l" * 450 + "*")


def empty_capture(shard: int) -> Capture:
    """A capture without changes."""
    return capture(ShardState(shard, lambda _: shard), 1, 1)


def stored(promises: Sequence[Promise], shard: int = 1) -> tuple[MemoryStore, Checkpoints]:
    """A store of two shards that holds these completed promises in one of them."""
    store = MemoryStore()
    checkpoints = Checkpoints(store, b"data", 2)
    captures = [empty_capture(0), empty_capture(1)]
    captures[shard].promises = {promise.id: promise for promise in promises}
    checkpoints.write(captures)
    checkpoints.renew()
    return store, checkpoints


def some_promises(random: Random, count: int) -> list[Promise]:
    """Promises of all final states, with few ids to begin with and few tags."""
    heads = ("a", "b", "a/1", "é", "l" * 450)
    return [
        Promise(
            f"{random.choice(heads)}/{number}",
            number * random.choice((1, 2)) * 1000 + number,
            random.choice(ALL[1:]),
            INTEGER_MAX,
            1,
            tags=random.choice((None, {}, {"x": "1"}, {"x": "2", "y": "1"})),
            completed_on=2,
        )
        for number in range(1, count + 1)
    ]


def query(**changes: Any) -> Query:
    """A search for everything, but for what is given."""
    pattern = Pattern(changes.pop("pattern", "*"))
    chosen: dict[str, Any] = {
        "states": ALL,
        "tags": {},
        "limit_count": 5,
        "before_serial": INTEGER_MAX,
        "scan_count": 10,
    }
    return Query(pattern, **(chosen | changes))


@pytest.mark.parametrize("seed", range(6))
def test_a_search_finds_what_matches_newest_first(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every index, for all patterns, states and tags, in pages and scans of any size."""
    monkeypatch.setattr(cold, "PREFIX_SCAN_COUNT", Random(seed).choice((5, 2_000)))
    monkeypatch.setattr(cold, "READ_COUNT", Random(seed).choice((3, 100)))
    random = Random(seed)
    promises = some_promises(random, 120)
    _, checkpoints = stored(promises)
    shard = checkpoints.reader.shards[1]
    for _ in range(60):
        limit_count = random.choice((1, 4, 200))
        asked: dict[str, Any] = {
            "pattern": random.choice(PATTERNS),
            "states": random.choice((ALL, ALL[1:], ALL[1:2], ALL[2:4], ALL[:2], ALL[:1])),
            "tags": random.choice(({}, {"x": "1"}, {"x": "2", "y": "1"}, {"z": "1"})),
            "limit_count": limit_count,
            "scan_count": random.choice((1, 7, 2000)),
        }
        found: list[Promise] = []
        before: int | None = INTEGER_MAX
        while before is not None:
            page = shard.search(query(**asked, before_serial=before))
            assert len(page.promises) <= limit_count
            assert page.next_before is None or page.next_before < before, "no progress"
            found += page.promises
            before = page.next_before
        everything = query(**asked)
        expected = [one for one in promises if everything.matches(one)]
        expected.sort(key=lambda one: -one.serial)
        assert found == expected, f"seed {seed}: {asked}"


@pytest.mark.parametrize("pattern", ["*", "a*"])
def test_a_slice_of_large_rows_ends_early(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that reading them holds up nobody else."""
    monkeypatch.setattr(cold, "COLD_READ_LIMIT_BYTES", 2_500)
    large = Value(data="A" * 1_000)
    promises = [
        Promise(f"a/{n}", n, PromiseState.RESOLVED, INTEGER_MAX, 1, value=large, completed_on=2)
        for n in range(1, 9)
    ]
    store = stored(promises)[1].reader.shards[1]

    found = store.search(query(pattern=pattern, limit_count=8))

    assert [promise.serial for promise in found.promises] == [8, 7, 6]
    assert found.next_before == 6


def test_each_shard_sees_its_own() -> None:
    """Not its neighbours'."""
    promises = some_promises(Random(1), 10)
    _, checkpoints = stored(promises)
    other = checkpoints.reader.shards[0]
    assert other.search(query()) == Found([], None)
    assert other.promise(promises[0].id) is None
    assert checkpoints.reader.shards[1].promise(promises[0].id) == promises[0]


@pytest.mark.parametrize(
    "damage", ["row is gone", "row is rotten", "index names nobody", "index has another serial"]
)
def test_what_does_not_fit_together_is_damage(damage: str) -> None:
    """Never a page without the row."""
    store, checkpoints = stored(some_promises(Random(2), 5))
    table = rows.PROMISES if damage.startswith("row") else rows.BY_SERIAL
    changed = dict(store.tables[table])
    key = min(changed)
    value = changed.pop(key)
    if damage == "row is rotten":
        changed[key] = value[:-1]
    elif damage == "index names nobody":
        changed[key] = b"\xff\xfe"
    elif damage == "index has another serial":
        changed[key[:-8] + rows.number_bytes(rows.number_of(key) + 1)] = value
    store.tables = store.tables | {table: changed}
    checkpoints.renew()
    with pytest.raises(CheckpointDamaged):
        checkpoints.reader.shards[1].search(query())
    with pytest.raises(CheckpointDamaged):
        checkpoints.verify()


@pytest.mark.parametrize("damage", ["row is gone", "id names another", "id names nothing"])
def test_an_id_that_does_not_fit_its_row_is_damage(damage: str) -> None:
    """Never another promise, and never none. Two ids with one key would be found like this too."""
    promises = some_promises(Random(2), 5)
    store, checkpoints = stored(promises)
    one, other = promises[:2]
    ids, found = dict(store.tables[rows.PROMISE_IDS]), dict(store.tables[rows.PROMISES])
    key = rows.id_key(1, one.id)
    if damage == "row is gone":
        del found[rows.number_bytes(one.serial)]
    else:
        ids[key] = rows.number_bytes(other.serial if damage == "id names another" else 10**9)
    store.tables = store.tables | {rows.PROMISE_IDS: ids, rows.PROMISES: found}
    checkpoints.renew()
    with pytest.raises(CheckpointDamaged):
        checkpoints.reader.shards[1].promise(one.id)
    assert checkpoints.reader.shards[1].promise(other.id) == other
    with pytest.raises(CheckpointDamaged):
        checkpoints.verify()


def test_merging_repeats_and_omits_nothing() -> None:
    """Rows below where somebody has stopped wait; a row in two places is one."""
    one, two, three, four = (
        Promise(f"p{serial}", serial, PromiseState.RESOLVED, 1, 1) for serial in range(1, 5)
    )
    assert merge((Found([four, two], None), Found([three, two], None)), 9) == Found(
        [four, three, two], None
    )
    assert merge((Found([four, one], None), Found([three], 3)), 9) == Found([four, three], 3)
    assert merge((Found([four, three], None), Found([two], None)), 2) == Found([four, three], 3)
    assert merge((Found([], 7), Found([], 4)), 2) == Found([], 7)


@pytest.mark.parametrize("limit_count", [1, 7, 1_000])
def test_a_prefix_is_read_in_pages_in_which_nothing_else_is(limit_count: int) -> None:
    """Of ids with the same long beginning too, whose keys differ in a digest only."""
    promises = some_promises(Random(3), 120)
    shard = stored(promises)[1].reader.shards[1]
    for prefix in ("a/", "a/1", "é", "l" * 450 + "/1", "none"):
        found: list[Promise] = []
        after: bytes | None = b""
        while after is not None:
            page, after = shard.beginning_with(prefix, after, limit_count)
            assert len(page) <= limit_count
            found += page
        expected = [one for one in promises if one.id.startswith(prefix)]
        assert sorted(one.id for one in found) == sorted(one.id for one in expected)


def test_a_prefix_of_large_rows_is_read_in_short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "COLD_READ_LIMIT_BYTES", 2_500)
    large = Value(data="A" * 1_000)
    promises = [
        Promise(f"a/{number}", number, ALL[1], INTEGER_MAX, 1, param=large, completed_on=2)
        for number in range(1, 11)
    ]
    shard = stored(promises)[1].reader.shards[1]
    page, after = shard.beginning_with("a/", b"", 1_000)

    assert after is not None
    assert len(page) == 3


def test_nothing_has_ended_before_all_time() -> None:
    shard = stored(some_promises(Random(3), 10))[1].reader.shards[1]

    assert shard.ended(ALL[1], (0, 0), -1, 100) == []


def with_tasks(root: str, count: int) -> tuple[MemoryStore, Checkpoints]:
    """A store that holds finished tasks of a root, and one of another with a similar id."""
    store = MemoryStore()
    checkpoints = Checkpoints(store, b"data", 2)
    captures = [empty_capture(0), empty_capture(1)]
    for number in range(count):
        name = root if number else f"{root}x"
        task_id = task_ids.resume_id(name, f"leaf{number}")
        task = Task(task_id, TaskKind.RESUME, name, f"leaf{number}", "r", 9, number + 1, 1)
        task.state = TaskState.COMPLETED
        captures[1].tasks[task_id] = task
    checkpoints.write(captures)
    checkpoints.renew()
    return store, checkpoints


@pytest.mark.parametrize("limit_count", [1, 2, 100])
def test_tasks_of_a_promise_are_read_in_pages_in_which_no_others_are(limit_count: int) -> None:
    """Also where an id is so long that keys have only its beginning and a digest."""
    for root in ("root", "l" * 450):
        shard = with_tasks(root, 6)[1].reader.shards[1]
        found: list[Task] = []
        after: bytes | None = b""
        while after is not None:
            page, after = shard.tasks_of(root, after, limit_count)
            assert len(page) <= limit_count
            found += page
        assert sorted(task.leaf_id for task in found) == [f"leaf{number}" for number in range(1, 6)]


def test_a_task_whose_row_is_gone_is_damage() -> None:
    store, checkpoints = with_tasks("root", 2)
    store.tables = store.tables | {rows.TASKS: {}}
    checkpoints.renew()
    with pytest.raises(CheckpointDamaged, match="names a row that is missing"):
        checkpoints.reader.shards[1].task(task_ids.resume_id("root", "leaf1"))


def test_a_search_by_ids_that_meets_a_row_that_is_gone_is_damage() -> None:
    promises = some_promises(Random(2), 5)
    store, checkpoints = stored(promises)
    found = dict(store.tables[rows.PROMISES])
    del found[rows.number_bytes(promises[0].serial)]
    index = dict(store.tables[rows.BY_SERIAL])
    first, second = sorted(index)[:2]
    index[first] = index[second]
    store.tables = store.tables | {rows.PROMISES: found, rows.BY_SERIAL: index}
    checkpoints.renew()
    shard = checkpoints.reader.shards[1]
    with pytest.raises(CheckpointDamaged, match="an id names a row that is missing"):
        shard.search(query(pattern=f"{promises[0].id[0]}*", limit_count=100, scan_count=100))
    with pytest.raises(CheckpointDamaged):
        shard.search(query(limit_count=100, scan_count=100))


def test_pages_of_the_file_are_given_back_after_many_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they have become much: else a look at all that is stored would fill the memory."""
    monkeypatch.setattr(cold, "READS_BETWEEN_LOOKS_COUNT", 3)
    promises = some_promises(Random(2), 5)
    _, checkpoints = stored(promises)
    reader, released = checkpoints.reader, []
    monkeypatch.setattr(reader.view, "release_pages", lambda: released.append(True), raising=False)
    for file_bytes, expected_count in ((0, 0), (cold.FILE_MEMORY_LIMIT_BYTES + 1, 2)):
        monkeypatch.setattr(process_memory, "file_bytes", lambda size=file_bytes: size)
        for _ in range(6):
            assert reader.shards[1].promise(promises[0].id) == promises[0]
        assert len(released) == expected_count
