"""Merging the shards' parts of a search gives the page that sorting everything would give."""

from dataclasses import dataclass

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.core.limits import INTEGER_MAX
from troth.shards.gather import ShardPart, page


@dataclass(frozen=True)
class Row:
    """One entity; `matches` says whether the search is for it."""

    serial: int
    matches: bool
    size: int = 1


class FakeShard:
    """Answers as a shard does: looks at `scan_count` entries at a time, newest first."""

    def __init__(self, rows: list[Row], scan_count: int) -> None:
        self.rows = sorted(rows, key=lambda row: -row.serial)
        self.scan_count = scan_count
        self.asked_count = 0

    def answer(self, before: int, limit_count: int) -> ShardPart[Row]:
        """The next part below a serial."""
        self.asked_count += 1
        found: list[Row] = []
        last = before
        for row in [row for row in self.rows if row.serial < before][: self.scan_count]:
            last = row.serial
            if row.matches:
                found.append(row)
                if len(found) == limit_count:
                    break
        more = any(row.serial < last for row in self.rows)
        return ShardPart(tuple(found), last if more else None)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[int, FakeShard], int]:
    """Some shards with entities, and a page size."""
    limit_count = draw(st.integers(1, 8))
    scan_count = draw(st.integers(1, 6))
    placed = draw(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=50))
    rows: dict[int, list[Row]] = {index: [] for index in range(4)}
    for serial, (index, matches) in enumerate(placed, 1):
        rows[index].append(Row(serial, matches))
    return {i: FakeShard(rows[i], scan_count) for i in rows}, limit_count


def gather(
    shards: dict[int, FakeShard], limit_count: int, before: int | None, limit_bytes: int = 1_000
) -> tuple[list[Row], int | None]:
    """Run one page."""

    async def ask(wanted: dict[int, int], count: int) -> list[ShardPart[Row]]:
        await trio.lowlevel.checkpoint()
        return [shards[index].answer(below, count) for index, below in wanted.items()]

    async def main() -> tuple[list[Row], int | None]:
        return await page(ask, list(shards), limit_count, before, limit_bytes)

    return trio.run(main)


@given(worlds())
def test_pages_are_what_sorting_everything_gives(world: tuple[dict[int, FakeShard], int]) -> None:
    shards, limit_count = world
    everything = [row for shard in shards.values() for row in shard.rows if row.matches]
    everything.sort(key=lambda row: -row.serial)
    before: int | None = None
    while True:
        below = INTEGER_MAX if before is None else before
        expected = [row for row in everything if row.serial < below][:limit_count]

        rows, cursor = gather(shards, limit_count, before)

        assert rows == expected
        assert cursor == (rows[-1].serial if len(rows) == limit_count else None)
        if cursor is None:
            break
        before = cursor


@settings(deadline=None)
@given(worlds(), st.data())
def test_pages_of_large_rows_end_early_and_leave_nothing_out(
    world: tuple[dict[int, FakeShard], int], data: st.DataObject
) -> None:
    shards, limit_count = world
    for shard in shards.values():
        shard.rows = [
            Row(row.serial, row.matches, data.draw(st.integers(0, 30))) for row in shard.rows
        ]
    everything = [row for shard in shards.values() for row in shard.rows if row.matches]
    everything.sort(key=lambda row: -row.serial)
    seen: list[Row] = []
    before: int | None = None
    while True:
        rows, cursor = gather(shards, limit_count, before, limit_bytes=40)

        assert len(rows) <= limit_count
        assert len(rows) == 1 or sum(row.size for row in rows) <= 40
        seen += rows
        if cursor is None:
            break
        assert cursor == rows[-1].serial
        before = cursor
    assert everything == seen


def test_a_full_page_does_not_ask_shards_that_have_only_older_rows() -> None:
    new = FakeShard([Row(serial, True) for serial in range(100, 110)], 5)
    old = FakeShard([Row(serial, False) for serial in range(50)], 5)

    rows, cursor = gather({0: new, 1: old}, 5, None)

    assert [row.serial for row in rows] == [109, 108, 107, 106, 105]
    assert cursor == 105
    assert (new.asked_count, old.asked_count) == (1, 1)


def test_no_shards_give_an_empty_page() -> None:
    assert gather({}, 5, None) == ([], None)


def test_what_is_in_one_shard_takes_two_rounds() -> None:
    """The newest promises are often those of one workflow, which are in one shard."""
    shards = {index: FakeShard([], 1_000) for index in range(16)}
    shards[3].rows = [Row(serial, matches=True) for serial in range(500, 0, -1)]

    rows, before = gather(shards, 100, None)

    assert [row.serial for row in rows] == list(range(500, 400, -1))
    assert before == 401
    assert shards[3].asked_count == 2
