"""Searches whose pages end early: joined they are the whole search, whatever a page may cost."""

from random import Random

import pytest

from troth.core import commands as c
from troth.core.lifecycles import COMPLETION_STATES
from troth.core.model import Promise, PromiseState
from troth.shards import gathering
from troth.shards.gathering import SearchBounds
from troth.shards.shards import Shards

from .test_checkpointer import Disk, life

ALL = tuple(PromiseState)
FAR_MS = 4_102_444_800_000


async def filled(shards: Shards, random: Random, count: int) -> None:
    """Promises with tags, about half of them completed in one way or another."""
    for number in range(count):
        name = f"{random.choice('ab')}/{number:03}"
        await shards.ask(c.CreatePromise(name, FAR_MS, tags={"n": str(number % 3)}))
        if random.random() < 0.5:
            await shards.ask(c.CompletePromise(name, random.choice(COMPLETION_STATES)))


@pytest.mark.parametrize("seed", range(6))
async def test_partial_search_finds_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory and in the checkpoint; every page goes on where the last one has ended."""
    random = Random(seed)
    async with life(Disk()) as one:
        await filled(one.shards, random, 150)
        await one.checkpointer.checkpoint()
        if seed % 2:
            await filled(one.shards, Random(-seed), 60)
        everything, _ = await one.shards.search_promises("*", ALL, {}, 1_000, None)
        monkeypatch.setattr(gathering, "PARTIAL_LIMIT_S", 0.0)
        monkeypatch.setattr(gathering, "PARTIAL_SCAN_COUNT", 5)
        half = everything[len(everything) // 2].created_on
        for pattern, states, tags, created in (
            ("*", ALL, {}, None),
            ("a/*", ALL, {}, None),
            ("*nomatch*", ALL, {}, None),
            ("*7", ALL[1:], {}, None),
            ("*", (PromiseState.REJECTED, PromiseState.PENDING), {"n": "1"}, None),
            ("b*", ALL, {}, (half, half + 10**9)),
        ):
            whole, _ = await one.shards.search_promises(
                pattern, states, tags, 1_000, None, "", SearchBounds(created=created)
            )
            oldest_first = random.random() < 0.5
            if oldest_first:
                whole.reverse()
            found: list[Promise] = []
            before: int | None = None
            pages_count = 0
            while pages_count == 0 or before is not None:
                earlier = before
                page, before = await one.shards.search_promises(
                    *(pattern, states, tags, random.choice((1, 7, 100)), before, ""),
                    SearchBounds(created, None, True, oldest_first),
                )
                if before is not None and earlier is not None:
                    assert before != earlier, "no progress"
                    assert (before > earlier) is oldest_first
                found += page
                pages_count += 1
            assert found == whole
            assert pages_count > 1 or len(whole) == 0 or tags
