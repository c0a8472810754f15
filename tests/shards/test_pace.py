"""Looks at much: how long all of them work before the others have their turn."""

import time
from collections import defaultdict

import pytest
import trio

from troth.shards.surveys.pace import FIRST_SLICE_S, SLICE_S, Pace

LOOKS_COUNT = 20
STEPS_COUNT = 50
STEP_S = FIRST_SLICE_S / 2


class Looks:
    """Looks whose CPU time a test says, and how much there was in each round of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.round_number = 0
        self.used_s: defaultdict[int, float] = defaultdict(float)  # by round
        self.ended: list[str] = []
        monkeypatch.setattr(time, "thread_time", lambda: self.now_s)

    async def look(self, name: str) -> None:
        """Look at something, step by step."""
        used = Pace()
        for _ in range(STEPS_COUNT):
            await used.rest()
            self.now_s += STEP_S
            self.used_s[self.round_number] += STEP_S
        self.ended.append(name)

    async def count_rounds(self) -> None:
        """Have a turn in every round, as all others should."""
        while True:
            self.round_number += 1
            await trio.lowlevel.checkpoint()


async def test_however_many_look_others_wait_for_one_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    async with trio.open_nursery() as others:
        others.start_soon(looks.count_rounds)
        async with trio.open_nursery() as nursery:
            for number in range(LOOKS_COUNT):
                nursery.start_soon(looks.look, str(number))
        others.cancel_scope.cancel()

    assert len(looks.ended) == LOOKS_COUNT
    first, *later = sorted(looks.used_s.items())
    assert first[1] <= LOOKS_COUNT * (FIRST_SLICE_S + STEP_S)
    # A round of the looks may fall into the same round of the counter as the next one.
    assert max(used_s for _, used_s in later) <= 2 * (SLICE_S + STEP_S)


async def test_a_look_that_begins_among_others_waits_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(looks.look, str(number))
        while not looks.now_s:
            await trio.lowlevel.checkpoint()
        before_s = looks.now_s
        late = Pace()
        await late.rest()

        assert looks.now_s > before_s, "others have worked in between"
        nursery.cancel_scope.cancel()


async def test_a_look_that_is_canceled_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(looks.look, str(number))
        with trio.CancelScope() as scope:
            scope.cancel()
            await looks.look("canceled")

    assert sorted(looks.ended) in (["0", "1", "2"], ["0", "1", "2", "canceled"])
    assert scope.cancelled_caught


async def test_a_short_look_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of some rows costs no rest."""
    looks = Looks(monkeypatch)
    others_count = 0

    async def count() -> None:
        nonlocal others_count
        others_count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        used = Pace()
        while looks.now_s < FIRST_SLICE_S:
            await used.rest()
            looks.now_s += STEP_S
        assert others_count == 0
