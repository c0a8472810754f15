"""Times of groups that share no clock: none does anything below the time of what has caused it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.shards.simulated_storage import SimulatedStorage
from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER, ManualWriter
from tests.twins.memory_store import MemoryStore
from tests.twins.simulated_files import SimulatedFiles
from troth.core import records as r
from troth.core.commands import CompletePromise, CreateCallback, CreatePromise, Receive
from troth.core.model import EMPTY_VALUE, RESOLVED
from troth.core.records import PromiseMessage
from troth.core.state.checkpointing import Capturing
from troth.persistence.wal.log import LogRecord
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.clock import STAND_STILL_LIMIT_MS, SystemClock
from troth.shards.committer import BatchWriter, Committer, DirectWriter
from troth.shards.mesh.codec import decode_command, encode_content

from .world import Process, World, make_process, world

SHARDS_EACH = 2
AHEAD_MS = 3_000
MUCH_AHEAD_MS = 60_000


def clock_of(ahead_ms: int) -> SystemClock:
    """Make the clock of a machine whose time of day is wrong, from trio's."""

    def passed_ms() -> int:
        return int(trio.current_time() * 1000)

    return SystemClock(lambda: EPOCH_MS + ahead_ms + passed_ms(), passed_ms)


def maker_of(ahead_ms: int) -> Callable[[int], Process]:
    """Return what makes two processes of which the first is ahead."""

    def make(k: int) -> Process:
        return make_process(k, (SHARDS_EACH,) * 2, clock=clock_of(0 if k else ahead_ms))

    return make


async def have_sent(server: World) -> None:
    """Have the first process tell the second that a promise has ended, which a task is for."""
    leaf, root = server.id_of(0, "leaf"), server.id_of(1, "root")
    for command in (
        CreatePromise(leaf, FAR_MS),
        CreateCallback(leaf, root, FAR_MS, WORKER),
        CompletePromise(leaf, RESOLVED),
    ):
        server.ask(0, command)
        await trio.sleep(0.01)
        server.processes[0].writer.make_all_durable()
        await trio.sleep(0.01)


def times(entries: list[r.Record], kind: type[Any]) -> list[int]:
    """Return when records of a kind say that they happened."""
    return [one.at for one in entries if isinstance(one, kind)]


def written(writer: ManualWriter) -> list[r.Record]:
    """Return all that was handed to a writer."""
    writer.make_all_durable()
    return [r.decode(one.body) for one in writer.written]


@pytest.mark.parametrize("ahead_ms", [1, AHEAD_MS, STAND_STILL_LIMIT_MS, MUCH_AHEAD_MS])
async def test_a_receivers_time_is_never_below_the_senders(
    autojump_clock: MockClock, ahead_ms: int
) -> None:
    async with world(2, SHARDS_EACH, make=maker_of(ahead_ms), manual=True) as server:
        await have_sent(server)
        await trio.sleep(0.1)

        (sent_ms,) = times(written(server.processes[0].writer), r.PromiseCompleted)
        (received_ms,) = times(written(server.processes[1].writer), r.MessageReceived)
        assert received_ms >= sent_ms >= EPOCH_MS + ahead_ms


@pytest.mark.parametrize("ahead_ms", [AHEAD_MS, MUCH_AHEAD_MS])
async def test_what_is_sent_again_says_when_it_was_sent(
    autojump_clock: MockClock, ahead_ms: int
) -> None:
    """The sender's clock may have been set back in the meantime."""
    is_set_back = False

    def wall_ms() -> int:
        return EPOCH_MS + (0 if is_set_back else ahead_ms) + int(trio.current_time() * 1000)

    def make(k: int) -> Process:
        clock = SystemClock(wall_ms, lambda: int(trio.current_time() * 1000))
        return make_process(k, (SHARDS_EACH,) * 2, clock=clock_of(0) if k else clock)

    async with world(2, SHARDS_EACH, make=make, manual=True) as server:
        server.wires[0, 1].is_silent = True
        await have_sent(server)
        is_set_back = True
        server.cut_off(1)
        await trio.sleep(0.1)
        assert written(server.processes[1].writer) == []
        server.wires[0, 1].is_silent = False
        server.mend_all()
        await trio.sleep(1)

        (sent_ms,) = times(written(server.processes[0].writer), r.PromiseCompleted)
        (received_ms,) = times(written(server.processes[1].writer), r.MessageReceived)
        assert received_ms >= sent_ms >= EPOCH_MS + ahead_ms


async def test_what_follows_is_not_earlier_either(autojump_clock: MockClock) -> None:
    async with world(2, SHARDS_EACH, make=maker_of(AHEAD_MS), manual=True) as server:
        await have_sent(server)
        receiver = server.processes[1]
        clock = receiver.shards.clock
        assert clock.now_ms() >= EPOCH_MS + AHEAD_MS
        server.ask(1, CreatePromise(server.id_of(1, "later"), FAR_MS))
        await trio.sleep(0.1)

        made = next(one for one in written(receiver.writer) if isinstance(one, r.PromiseCreated))
        assert made.created_on >= EPOCH_MS + AHEAD_MS
        await trio.sleep(2 * AHEAD_MS / 1000)
        assert clock.now_ms() == EPOCH_MS + int(trio.current_time() * 1000), "it has caught up"
        assert clock.jumps_count == 0


async def test_a_clock_that_is_wrong_by_much_moves_no_other(autojump_clock: MockClock) -> None:
    async with world(2, SHARDS_EACH, make=maker_of(MUCH_AHEAD_MS), manual=True) as server:
        await have_sent(server)
        await trio.sleep(0.1)
        clock = server.processes[1].shards.clock
        assert clock.now_ms() < EPOCH_MS + MUCH_AHEAD_MS
        assert clock.jumps_count == 0


async def test_a_receiver_that_is_started_again_goes_on_from_that_time(
    autojump_clock: MockClock,
) -> None:
    """Whether its last records are in the log, or only what they led to is, in a checkpoint."""
    async with world(2, SHARDS_EACH, make=maker_of(AHEAD_MS), manual=True) as server:
        await have_sent(server)
        before = server.processes[1]
        (received_ms,) = times(written(before.writer), r.MessageReceived)
        open_storage = partial(
            SimulatedStorage,
            SimulatedFiles(),
            2 * SHARDS_EACH,
            lambda *_: before.writer,
            store=MemoryStore(),
            group=1,
            groups_count=2,
        )
        storage = open_storage()
        assert list(storage.records()) == []
        storage.log.append(_as_new(before.writer.written), 1)
        storage.close()

        storage = open_storage()
        after = make_process(1, (SHARDS_EACH,) * 2, clock=clock_of(0))
        assert _recover(after, storage) == len(before.writer.written)
        assert after.shards.clock.now_ms() >= received_ms > EPOCH_MS + AHEAD_MS
        async with trio.open_nursery() as nursery:
            await nursery.start(after.shards.run, partial(_write_to, storage.log))
            shards = after.shards._shards
            captures = [shard.finish_capture(Capturing(shard.machine.state)) for shard in shards]
            assert storage.checkpoints is not None
            storage.checkpoints.write(captures)
            nursery.cancel_scope.cancel()
        storage.close()

        storage = open_storage()
        after = make_process(1, (SHARDS_EACH,) * 2, clock=clock_of(0))
        assert _recover(after, storage) == 0
        assert after.shards.clock.now_ms() >= received_ms > EPOCH_MS + AHEAD_MS


def _recover(process: Process, storage: SimulatedStorage) -> int:
    return process.shards.recover(storage).records_count


def _write_to(log: SegmentedLog, committer: Committer) -> BatchWriter:
    return DirectWriter(log, committer.durable)


def _as_new(entries: list[LogRecord]) -> list[tuple[int, int, bytes]]:
    return [(one.shard, one.shard_sequence, one.body) for one in entries]


class _Earlier(msgspec.Struct, frozen=True, array_like=True, tag="Receive"):
    """`Receive` as versions before had it."""

    source: int
    sequence: int
    message: PromiseMessage


def test_nodes_of_the_version_before_read_messages_and_are_read() -> None:
    message = PromiseMessage("run", FAR_MS, EMPTY_VALUE, {})
    body, flags = encode_content(Receive(3, 7, message, EPOCH_MS))
    assert flags == 0
    assert msgspec.msgpack.decode(body, type=_Earlier) == _Earlier(3, 7, message)

    earlier = msgspec.msgpack.encode(_Earlier(3, 7, message))
    assert decode_command(earlier, 0) == Receive(3, 7, message, 0)
