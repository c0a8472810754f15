"""The list of locks while others take and release them: it ends where the locks do."""

from collections.abc import Sequence

import pytest

from tests.shards.stage import Stage, stage
from troth.core.commands import AcquireLock, ReleaseLock
from troth.shards.gathered.surveys import joined_locks
from troth.shards.surveys import locks
from troth.shards.surveys.locks import LockPage, LockPlace
from troth.shards.surveys.pace import Pace

from .world import surveys_of

NAMES = [f"r{number}" for number in range(10)]


async def locked(s: Stage, names: Sequence[str] = NAMES) -> None:
    """Take a lock on each of some resources."""
    for name in names:
        await s.shards.ask(AcquireLock(name, "execution", "worker", 600_000))


async def pages_of(s: Stage, limit_count: int) -> list[list[str]]:
    """The resources on each page of the list."""
    surveys, pages = surveys_of(s.shards), []
    place: LockPlace | None = LockPlace()
    while place is not None:
        page = await surveys.locks("*", "", None, limit_count, place)
        pages.append([row.lock.resource_id for row in page.rows])
        place = page.following
    return pages


@pytest.mark.parametrize("ordered_count", [100, 3])
@pytest.mark.parametrize("limit_count", [1, 3, 100])
async def test_a_lock_released_while_its_page_is_made_does_not_end_the_list(
    ordered_count: int, limit_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is in the middle of the page, at its end, or what shows that there are more."""
    monkeypatch.setattr(locks, "ORDERED_LIMIT_COUNT", ordered_count)
    async with stage(1, direct=True) as s:

        async def release(_: Pace) -> None:
            if released:
                await s.shards.ask(ReleaseLock(released.pop(), "execution"))

        monkeypatch.setattr(Pace, "rest", release)
        for name in ("r0", "r2", "r3", "r9"):
            released = [name]
            await locked(s)
            found = [one for page in await pages_of(s, limit_count) for one in page]
            assert found == [one for one in NAMES if one != name]


async def test_a_page_of_very_many_locks_ends_when_it_has_cost_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one goes on in the next shard; each lock is shown once."""
    monkeypatch.setattr(locks, "ORDERED_LIMIT_COUNT", 3)
    monkeypatch.setattr(Pace, "is_spent", True)
    async with stage(3, direct=True) as s:
        await locked(s)
        pages = await pages_of(s, 100)
        assert len(pages) == 3
        assert sorted(name for page in pages for name in page) == NAMES


async def test_locks_of_groups_are_joined_up_to_where_each_list_has_come() -> None:
    """A page whose locks were released in the meantime ends what can be shown of the others."""
    async with stage(1, direct=True) as s:
        await locked(s)
        rows = (await surveys_of(s.shards).locks("*", "", None, 10, LockPlace())).rows
    whole = LockPage(rows[5:], None)
    assert joined_locks([LockPage(rows[:5], None), whole], 10) == LockPage(rows, None)
    cut = LockPage(rows[:2], LockPlace("r6"))
    assert joined_locks([cut, whole], 10) == LockPage([*rows[:2], *rows[5:7]], LockPlace("r6"))
    assert joined_locks([cut, whole], 3) == LockPage([*rows[:2], rows[5]], LockPlace("r5"))
    nothing = LockPage([], LockPlace("r3"))
    assert joined_locks([nothing, whole], 3) == LockPage([], LockPlace("r3"))
