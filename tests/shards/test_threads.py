"""Threads that cannot be had for a moment are waited for; what a thread raises is raised."""

import pytest
import trio

from troth.shards.threads import in_thread


class NoThreads:
    """Plays trio's `to_thread` on a machine that has none left for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception, times_count: int) -> None:
        self.left_count = times_count
        self._error = error
        self._real = trio.to_thread.run_sync
        monkeypatch.setattr(trio.to_thread, "run_sync", self)

    async def __call__(self, act: object, **options: object) -> object:
        if self.left_count:
            self.left_count -= 1
            raise self._error
        return await self._real(act, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
async def test_a_thread_is_waited_for(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    threads = NoThreads(monkeypatch, error, 3)

    assert await in_thread(lambda: "done") == "done"
    assert threads.left_count == 0


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    NoThreads(monkeypatch, RuntimeError("can't start new thread"), 10**6)

    with pytest.raises(RuntimeError, match="new thread"):
        await in_thread(lambda: None, patience_s=0.1)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
async def test_what_has_begun_is_not_done_again(error: Exception) -> None:
    calls_count = 0

    def act() -> None:
        nonlocal calls_count
        calls_count += 1
        raise error

    with pytest.raises(type(error)):
        await in_thread(act)
    assert calls_count == 1
