"""The reserve of memory: who gets it, when it is taken back, and what is short meanwhile."""

from collections.abc import Callable, Iterator

import pytest

from troth.persistence import memory_reserve
from troth.persistence.memory_reserve import MemoryReserve, with_reserve

SIZE_BYTES = 1 << 20


@pytest.fixture
def reserve(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryReserve]:
    """The reserve of the process, and nothing in it yet."""
    made = MemoryReserve()
    monkeypatch.setattr(memory_reserve, "RESERVE", made)
    yield made
    made.close()


def failing(times_count: int) -> Callable[[], int]:
    """Make what runs out of memory so many times and then returns how often it was called."""
    calls_count = 0

    def act() -> int:
        nonlocal calls_count
        calls_count += 1
        if calls_count <= times_count:
            raise MemoryError
        return calls_count

    return act


def test_who_runs_out_of_memory_gets_the_reserve_once(reserve: MemoryReserve) -> None:
    reserve.open(SIZE_BYTES, lambda: 100 * SIZE_BYTES)
    assert not reserve.is_given_away

    assert with_reserve(failing(1)) == 2
    assert reserve.is_given_away
    assert reserve.is_short
    with pytest.raises(MemoryError):
        with_reserve(failing(1))
    assert reserve.given_away_count == 1


def test_without_a_reserve_nothing_is_tried_again(reserve: MemoryReserve) -> None:
    with pytest.raises(MemoryError):
        with_reserve(failing(1))
    assert not reserve.is_short


def test_it_is_taken_back_when_there_is_twice_as_much(reserve: MemoryReserve) -> None:
    left_bytes = 100 * SIZE_BYTES
    reserve.open(SIZE_BYTES, lambda: left_bytes)
    assert reserve.give_away()

    left_bytes = 2 * SIZE_BYTES - 1
    reserve.look()
    assert reserve.is_given_away
    left_bytes = 2 * SIZE_BYTES
    reserve.look()
    assert not reserve.is_given_away
    assert not reserve.is_short


def test_memory_is_short_before_there_is_none(reserve: MemoryReserve) -> None:
    left_bytes = 100 * SIZE_BYTES
    reserve.open(SIZE_BYTES, lambda: left_bytes)

    left_bytes = SIZE_BYTES - 1
    reserve.look()
    assert reserve.is_short
    assert not reserve.is_given_away
    left_bytes = SIZE_BYTES
    reserve.look()
    assert not reserve.is_short
