"""The rows of promises that a checkpoint writes: all of them, once, in order, in groups."""

from random import Random

import pytest
from msgspec.structs import replace

from troth.core.model import PENDING, Promise, PromiseState
from troth.core.state.captures import Capture, ShardHeader
from troth.core.tables.packing import pack
from troth.persistence.checkpoints import rows, writing
from troth.persistence.checkpoints.port import Rows, Write

STORED_SERIAL = 40
"""The largest serial of the checkpoint before."""

FINAL_STATES = [state for state in PromiseState if state is not PENDING]


def header(shard: int, largest_serial: int) -> ShardHeader:
    return ShardHeader(shard, 1, 1, 0, largest_serial, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0)


def captures_of(random: Random, shards_count: int, count: int) -> list[Capture]:
    """Make promises in a random order, most of them completed, in shards of different sizes."""
    captures = [
        Capture(header(shard, 1000), {}, {}, {}, {}, {}, {}) for shard in range(shards_count)
    ]
    for serial in random.sample(range(1, 1000), count):
        shard = min(random.randrange(shards_count), random.randrange(shards_count))
        name = f"{random.choice(['', 'troth:'])}{random.random()}"
        state = random.choice([PENDING, *FINAL_STATES * 2])
        completed_on = None if state is PENDING else random.randrange(9)
        tags = {"a": "1", name: "2"} if random.random() < 0.5 else None
        promise = Promise(name, serial, state, 9, 3, tags=tags, completed_on=completed_on)
        captures[shard].promises[name] = promise
    return captures


def packed(captures: list[Capture], random: Random) -> list[Capture]:
    """Return the same with some of what is completed as a shard has it."""
    return [
        replace(
            capture,
            promises={
                name: pack(one)
                if isinstance(one, Promise) and one.state is not PENDING and random.random() < 0.5
                else one
                for name, one in capture.promises.items()
            },
        )
        for capture in captures
    ]


def expected(captures: list[Capture]) -> dict[tuple[str, bytes], bytes | None]:
    """Say each row by itself."""
    found: dict[tuple[str, bytes], bytes | None] = {}
    for capture in captures:
        shard = capture.header.shard
        for promise in capture.promises.values():
            assert isinstance(promise, Promise)
            live_key = rows.number_key(shard, promise.serial)
            if promise.state is PENDING:
                value = rows.encode(rows.LIVE_PROMISES, live_key, promise)
                found[rows.LIVE_PROMISES, live_key] = value
                continue
            if shard == 0 and promise.serial <= STORED_SERIAL:
                found[rows.LIVE_PROMISES, live_key] = None
            key = rows.number_bytes(promise.serial)
            found[rows.PROMISES, key] = rows.encode(rows.PROMISES, key, promise)
            found[rows.PROMISE_IDS, rows.id_key(shard, promise.id)] = key
            for table, index_key in rows.index_keys(shard, promise):
                is_for_clients = table in (rows.BY_SERIAL, rows.BY_STATE)
                if not (is_for_clients and promise.id.startswith("troth:")):
                    found[table, index_key] = promise.id.encode()
    return found


def each(writes: list[Write]) -> list[tuple[str, bytes, bytes | None]]:
    found: list[tuple[str, bytes, bytes | None]] = []
    for one in writes:
        if isinstance(one, Rows):
            assert one.keys, "there are no rows of nothing"
            found += zip([one.table] * len(one.keys), one.keys, one.values, strict=True)
        else:
            found.append(one)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_all_rows_of_promises_are_written_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever the sizes of groups, and of what is sorted in one piece."""
    random = Random(seed)
    monkeypatch.setattr(writing, "GROUP_COUNT", random.choice([1, 7, 50]))
    monkeypatch.setattr(writing, "SORT_COUNT", random.choice([1, 6, 1000]))
    captures = captures_of(random, random.choice([1, 3, 16]), 300)
    heads: list[bytes] = []
    headers = {0: header(0, STORED_SERIAL)}
    writes = writing.promise_writes(packed(captures, random), heads.extend, headers)
    found = each(list(writes))

    assert len({(table, key) for table, key, _ in found}) == len(found)
    assert {(table, key): value for table, key, value in found} == expected(captures)
    for ordered in (rows.LIVE_PROMISES, rows.PROMISES, rows.PROMISE_IDS):
        keys = [key for table, key, value in found if table == ordered and value is not None]
        assert keys == sorted(keys)
    assert heads == [rows.id_head(key) for table, key, _ in found if table == rows.PROMISE_IDS]
