"""The next process of a restart follows a group that another process of its node still has.

Here each has a directory of its own, with the same in it: a process opens a store only once.
"""

import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from troth.core.model import PromiseState
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.errors import CheckpointsOvertaken
from troth.persistence.streams.stream_frames import FrameKind, decode_stream_frame
from troth.shards.streams.noted_mark import CACHE_NAME
from troth.shards.streams.stream_group import StreamGroup
from troth.shards.streams.stream_storage import CHECKPOINTS_NAME, StreamStorage

from .stream_world import Engine, Node, node
from .test_groups_of_streams import engine_of, group_at, names

OLD, NEXT = 7, 8
EARLY, LATE = names(40), names(40, "q")
STATES = [PromiseState.PENDING, PromiseState.RESOLVED] * 20


@dataclass
class Successor:
    """The next process; `told` says that the old one is gone."""

    engine: Engine
    old: Path
    told: threading.Event = field(default_factory=threading.Event)
    opened: list[StreamStorage] = field(default_factory=list)
    owns: trio.Event = field(default_factory=trio.Event)
    is_over: trio.Event = field(default_factory=trio.Event)
    node: Node | None = None
    has_ended: bool = False
    """Whether the old one has made another checkpoint since."""

    def copied(self) -> StreamGroup:
        """Copy the directory as it is now; return what there is to be opened."""
        directory = self.old.with_name("copy")
        shutil.copytree(self.old, directory)
        return replace(
            group_at(directory, incarnation=NEXT),
            ended=lambda: frozenset({OLD}) if self.told.is_set() else frozenset(),
            is_early=lambda: not self.told.is_set(),
        )

    async def run(self, group: StreamGroup) -> None:
        """Follow, then serve, until told to end."""
        directory = Path(group.place.path)
        try:
            async with node(self.engine, directory, group=group, opened=self.opened) as self.node:
                self.owns.set()
                await self.is_over.wait()
        except CheckpointsOvertaken:
            self.has_ended = True

    def _has_read(self, number: int) -> bool:
        return bool(self.opened) and self.opened[0].stream_statistics().number >= number

    async def until_read(self, number: int) -> None:
        """Wait until it has read all frames up to a number."""
        with trio.fail_after(60):
            while not self._has_read(number):  # noqa: ASYNC110  in a thread
                await trio.sleep(0.01)


def _kinds(engine: Engine) -> list[tuple[FrameKind, int]]:
    """Return the kinds of all frames, and the epochs in which they were written."""
    decoded = (decode_stream_frame(one) for one in engine.stream.frames)
    return [(one[0].kind, one[0].epoch) for one in decoded if one is not None]


async def _covered(owner: Node) -> None:
    await owner.create(*EARLY)
    await owner.checkpointer.checkpoint()
    await owner.work()


@pytest.mark.parametrize("has_mark", [True, False])
async def test_it_reads_early_and_owns_the_group_when_the_old_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_mark: bool
) -> None:
    """Without a mark it cannot follow: it would begin with a snapshot, in the same directory."""
    monkeypatch.setattr("troth.shards.streams.following.STREAM_UPKEEP_MS", 0)
    engine, old = engine_of(), tmp_path / "old"
    one = Successor(engine, old)
    async with trio.open_nursery() as nursery:
        async with node(engine, old, group=group_at(old, incarnation=OLD)) as owner:
            await _covered(owner)
            group = one.copied()
            files = Path(group.place.path) / "groups" / "1"
            if not has_mark:
                (files / CACHE_NAME).unlink()
            stored = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
            nursery.start_soon(one.run, group)
            await owner.create(*LATE)
            if has_mark:
                await one.until_read(len(engine.stream.frames))
                assert one.opened[0].waits_for is not None
            await trio.sleep(0.3)
            assert not one.owns.is_set()
            for path, content in stored.items():
                if path.name != "lock.mdb":
                    assert path.read_bytes() == content, "it leaves all as it is"
            assert {epoch for _, epoch in _kinds(engine)} == {1}
            owner.storage.keeps_ownership = True
        assert (old / "groups" / "1" / CHECKPOINTS_NAME / "lock.mdb").exists()
        one.told.set()
        with trio.fail_after(30):
            await one.owns.wait()
        assert one.node is not None
        assert one.node.storage.epoch == 2
        assert FrameKind.RELEASED not in {kind for kind, _ in _kinds(engine)}
        assert await one.node.states(*EARLY, *LATE) == STATES * 2
        assert one.node.recovery.records_count == len(LATE) + len(LATE) // 2
        await one.node.checkpointer.checkpoint()
        one.is_over.set()


async def test_it_does_not_claim_a_group_that_is_free_while_it_is_early(tmp_path: Path) -> None:
    """The old process has released it, and may own it again: it is the one that has the seat."""
    engine, old = engine_of(), tmp_path / "old"
    one = Successor(engine, old)
    async with node(engine, old, group=group_at(old, incarnation=OLD)) as owner:
        await _covered(owner)
        group = one.copied()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, group)
        await one.until_read(len(engine.stream.frames))
        await trio.sleep(0.3)
        assert not one.owns.is_set()
        nursery.cancel_scope.cancel()


async def test_it_ends_if_the_old_one_has_made_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has in memory is changes to an earlier one. Its supervisor starts it again."""
    monkeypatch.setattr(Checkpoints, "is_newest", lambda _: False)
    engine, old = engine_of(), tmp_path / "old"
    one = Successor(engine, old)
    one.is_over.set()
    async with trio.open_nursery() as nursery:
        async with node(engine, old, group=group_at(old, incarnation=OLD)) as owner:
            await _covered(owner)
            nursery.start_soon(one.run, one.copied())
            await one.until_read(len(engine.stream.frames))
            assert not one.has_ended
            owner.storage.keeps_ownership = True
        one.told.set()
    assert one.has_ended
    assert {epoch for _, epoch in _kinds(engine)} == {1}
