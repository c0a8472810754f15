"""A directory and a stream that do not belong together: refused at the start, with the reason."""

from pathlib import Path
from random import Random

import pytest

from tests.persistence import groups
from tests.shards.stage import FAR_MS
from tests.twins.simulated_stream import SimulatedClock, SimulatedStream
from troth.core.commands import CreatePromise
from troth.persistence.errors import DataDirectoryError, DataDirectoryLost
from troth.persistence.streams.chain import StreamDamaged
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable
from troth.shards.streams import stream_storage
from troth.shards.streams.times import Times

from .stream_world import Engine, node


def refused(engine: Engine, directory: Path, problem: str, shard_count: int = 2) -> None:
    """It is refused for this, and lets the directory go."""
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match=problem):
            engine.open(directory, shard_count=shard_count)


def test_a_directory_that_has_a_log_of_its_own(tmp_path: Path) -> None:
    """A server that changed from one to the other would leave all promises behind."""
    groups.write(tmp_path / "data", [CreatePromise("a", FAR_MS)])
    refused(Engine(), tmp_path / "data", "holds a server's own log")


async def test_another_number_of_shards_than_the_stream_has(tmp_path: Path) -> None:
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        await one.create("p")
    refused(engine, tmp_path / "b", "shard", shard_count=3)


async def test_a_directory_that_was_taken_away(tmp_path: Path) -> None:
    """It is noticed before anything is written to another one in its place."""
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        await one.create("p")
        one.storage.check()
        (tmp_path / "a").rename(tmp_path / "elsewhere")
        (tmp_path / "a").mkdir()
        with pytest.raises(DataDirectoryLost):
            one.storage.check()
        (tmp_path / "a").rmdir()
        (tmp_path / "elsewhere").rename(tmp_path / "a")


async def test_a_stream_that_was_set_back_behind_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a database that was restored from a backup: what was acknowledged is not in it."""
    monkeypatch.setattr(SimulatedStream, "behind_ms", 0)
    engine = Engine()
    async with node(engine, tmp_path / "a") as one:
        await one.create(*(f"p{number}" for number in range(10)))
        await one.checkpointer.checkpoint()
    del engine.stream.frames[3:]
    engine.stream.epoch = 1
    with pytest.raises(StreamDamaged, match="the log was set back to an earlier state"):
        async with node(engine, tmp_path / "a"):
            pytest.fail("it serves what it has lost")


async def test_checkpoints_that_are_gone_are_made_again_from_the_stream(tmp_path: Path) -> None:
    """What was noted of them does not count any more."""
    engine = Engine()
    names = [f"p{number}" for number in range(10)]
    async with node(engine, tmp_path / "a") as one:
        await one.create(*names)
        states = await one.states(*names)
        await one.checkpointer.checkpoint()
        await one.work()
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        path.unlink()
    async with node(engine, tmp_path / "a") as again:
        assert await again.states(*names) == states


def test_an_engine_that_cannot_be_reached_is_asked_again_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the start fails, and says with what."""
    clock = SimulatedClock()
    times = Times(boot_ms=clock.boot_ms, sleep_s=clock.sleep_s)
    engine = Engine()
    client = SimulatedStream(engine.stream, Random(1), clock)
    found, tries = client.found, []

    def fail(identity: bytes) -> bytes:
        tries.append(clock.time_ms)
        if len(tries) < 3:
            raise StreamUnreachable("no route")
        return found(identity)

    monkeypatch.setattr(client, "found", fail)
    storage = stream_storage.StreamStorage(
        client, engine.keeping, tmp_path / "a", 2, node="a", times=times
    )
    assert len(tries) == 3
    storage.close()

    def never(_: bytes) -> bytes:
        raise StreamUnreachable("no route")

    monkeypatch.setattr(client, "found", never)
    with pytest.raises(StreamRefused, match="cannot be reached: no route"):
        stream_storage.StreamStorage(
            client, engine.keeping, tmp_path / "b", 2, node="a", patience_ms=5_000, times=times
        )
    assert client.is_closed
