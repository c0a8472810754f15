"""Messages between shards through every crash: none is lost, none is applied twice (I6).

A script makes promises wait for each other across shards and lets a schedule create promises in
other shards, over a real log on a simulated disk. The power is lost in each operation on that disk
in turn; the disk keeps of the unsynced what a seed says. Each turn of a shard is a batch of its own
here, so a crash can come between any two of them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.seeds import seeds
from tests.twins.simulated_files import SimulatedCrash, SimulatedFiles
from troth.core import records
from troth.core.codes import Code
from troth.core.commands import CompletePromise, CreateCallback, CreatePromise, CreateSchedule
from troth.core.grammar.task_ids import resume_id
from troth.core.model import PromiseState, TaskState
from troth.core.records import MessageReceived, PromiseMessage, ScheduleFired
from troth.persistence.wal.log import LogRecord, NewRecord
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.clock import TrioClock
from troth.shards.committer import LINGER_S, BatchWriter, Committer
from troth.shards.hashing import shard_of
from troth.shards.shards import Shards

from .simulated_storage import SimulatedStorage
from .stage import (
    EPOCH_MS,
    FAR_MS,
    WORKER,
    ManualWriter,
    Outgoing,
    Stage,
    id_in,
    make_shards,
    settle,
    stage,
)

SHARD_COUNT = 4
LEAVES = [id_in(index, SHARD_COUNT, "leaf") for index in range(3)]
ROOTS = [id_in(index, SHARD_COUNT, "root") for index in range(SHARD_COUNT)]
WAITING = [(leaf, root) for leaf in LEAVES for root in ROOTS[1:]]
SCHEDULE = id_in(3, SHARD_COUNT, "schedule")
RUNS_COUNT = 4
PARTS_COUNT = 4


class TurnWriter:
    """Writes at once, each shard's turn as a batch of its own, until the power is lost."""

    def __init__(self, log: SegmentedLog, committer: Committer) -> None:
        self.crashed = trio.Event()
        self._log = log
        self._committer = committer

    def submit(self, batch: Sequence[NewRecord]) -> None:
        for _, turn in groupby(batch, key=itemgetter(0)):
            if self.crashed.is_set():
                return
            try:
                position = self._log.append(list(turn), self._log.next_sequence)
            except SimulatedCrash:
                self.crashed.set()
            else:
                self._committer.durable(position)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class Life:
    """One life of a server on a disk, from its start to its end or the loss of power."""

    def __init__(self, files: SimulatedFiles) -> None:
        self.writers: list[TurnWriter] = []
        self.storage = SimulatedStorage(files, SHARD_COUNT, self._writer)
        self.outgoing = Outgoing()
        self.shards = Shards(
            shard_count=SHARD_COUNT,
            clock=TrioClock(EPOCH_MS),
            outgoing=self.outgoing,
            cursor_secret=b"",
        )
        self.shards.recover(self.storage)

    def _writer(self, log: SegmentedLog, committer: Committer) -> TurnWriter:
        self.writers.append(TurnWriter(log, committer))
        return self.writers[0]

    async def until_crash(self) -> bool:
        """Play the script; whether the power was lost on the way."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.shards.run, self.storage.make_writer)
            nursery.start_soon(self._watch, nursery)
            await self.script()
            await trio.sleep(RUNS_COUNT * 60)
            nursery.cancel_scope.cancel()
        return self.writers[0].crashed.is_set()

    async def _watch(self, nursery: trio.Nursery) -> None:
        await self.writers[0].crashed.wait()
        nursery.cancel_scope.cancel()

    async def to_the_end(self) -> None:
        """After a crash: see that all is well by itself, then go on with the script."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.shards.run, self.storage.make_writer)
            await self.become_quiet()
            self.check_quiet()
            await self.script()
            await trio.sleep(150)
            await self.become_quiet()
            self.check_quiet()
            nursery.cancel_scope.cancel()
        self.storage.close()

    async def become_quiet(self) -> None:
        """Wait for what lies until it is written with something else: acknowledgments may."""
        await settle()
        with trio.move_on_after(10 * LINGER_S):
            while any(shard.machine.state.outbox for shard in self.shards._shards):
                await trio.sleep(LINGER_S)
                await settle()

    async def script(self) -> None:
        """What the clients do. It can be repeated from the start, as clients do after a crash."""
        ask = self.shards.ask
        schedule = CreateSchedule(
            SCHEDULE, "* * * * *", "run/{{.timestamp}}", 10**12, idempotency_key="k"
        )
        assert (await ask(schedule)).code.status < 300
        for identifier in LEAVES + ROOTS:
            await ask(CreatePromise(identifier, FAR_MS, idempotency_key="k"))
        for leaf, root in WAITING:
            await ask(CreateCallback(leaf, root, FAR_MS, WORKER))
        async with trio.open_nursery() as nursery:
            for leaf in LEAVES:
                nursery.start_soon(self._complete, leaf)

    async def _complete(self, leaf: str) -> None:
        command = CompletePromise(leaf, PromiseState.RESOLVED, idempotency_key="k")
        reply = await self.shards.ask(command)
        assert reply.code in (Code.OK, Code.CREATED)

    # Checks

    def check_quiet(self) -> None:
        """With nothing under way: effects are there exactly where their causes are."""
        states = [shard.machine.state for shard in self.shards._shards]
        assert [list(state.outbox) for state in states] == [[]] * SHARD_COUNT
        promises = {key: value for state in states for key, value in state.promises.items()}
        tasks = {key: value for state in states for key, value in state.tasks.items()}
        for leaf, root in WAITING:
            task = tasks.get(resume_id(root, leaf))
            done = leaf in promises and promises[leaf].state is PromiseState.RESOLVED
            if not done:
                assert task is None
            else:
                assert task is not None
                assert (task.counter, task.state) == (1, TaskState.INIT)


def check_log(entries: Iterable[tuple[int, LogRecord]]) -> Counter[str]:
    """Each message was applied once, each run fired once and gave one promise; what there was."""
    received: Counter[tuple[int, int, int]] = Counter()
    fired: Counter[int] = Counter()
    made: Counter[str] = Counter()
    for _, entry in entries:
        record = records.decode(entry.body)
        if isinstance(record, MessageReceived):
            received[entry.shard, record.source, record.sequence] += 1
            if isinstance(record.message, PromiseMessage):
                made[record.message.id] += 1
        elif isinstance(record, ScheduleFired):
            fired[record.run_time] += 1
            if shard_of(record.promise.id, SHARD_COUNT) == entry.shard:
                made[record.promise.id] += 1
    assert set(received.values()) <= {1}
    assert set(fired.values()) == {1}
    assert made == Counter(f"run/{run_time}" for run_time in fired)
    first = min(fired)
    assert sorted(fired) == [first + 60_000 * number for number in range(len(fired))]
    return Counter(received=len(received), fired=len(fired))


async def operations_count() -> tuple[int, int]:
    """How many operations on the disk there are up to the script's start, and up to its end."""
    files = SimulatedFiles()
    life = Life(files)
    before_count = files.operations_count
    assert not await life.until_crash()
    after_count = files.operations_count
    life.storage.close()
    counts = check_log(SimulatedStorage(files, SHARD_COUNT, TurnWriter).records())
    assert counts["received"] >= 5, "the script is to send messages between shards"
    assert counts["fired"] >= RUNS_COUNT
    return before_count, after_count


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("part", range(PARTS_COUNT))
async def test_no_crash_loses_or_repeats_a_message(part: int, autojump_clock: MockClock) -> None:
    before_count, after_count = await operations_count()
    crashes_count = 0
    for operation in range(before_count + 1 + part, after_count + 1, PARTS_COUNT):
        files = SimulatedFiles()
        life = Life(files)
        files.crash_before_operation = operation
        if not await life.until_crash():
            continue  # trio takes tasks in a random order, so the last operations are not always
        crashes_count += 1
        for seed in seeds(0, 1, 3):
            survivor = files.crash(Random(f"{operation}/{seed}"))
            try:
                await Life(survivor).to_the_end()
                check_log(SimulatedStorage(survivor, SHARD_COUNT, TurnWriter).records())
            except BaseException as error:
                error.add_note(f"the power was lost in operation {operation}, seed {seed}")
                raise
    assert crashes_count >= 15


@pytest.mark.parametrize(
    ("kept", "resent", "tasks"),
    [
        ("neither the cause nor the effect", 0, 0),
        ("the cause only", 1, 1),
        ("cause and effect, not the acknowledgement", 1, 1),
        ("all of it", 0, 1),
    ],
)
async def test_what_is_kept_of_a_message_decides_what_is_sent_again(
    kept: str, resent: int, tasks: int
) -> None:
    """The four places at which a crash can cut the three records of one message."""
    leaf, root = LEAVES[0], ROOTS[1]
    task_id = resume_id(root, leaf)
    async with stage(SHARD_COUNT) as s:
        await s.call(CreatePromise(leaf, FAR_MS))
        await s.call(CreateCallback(leaf, root, FAR_MS, WORKER))
        await s.write_all()
        before_count = len(s.writer.written)
        await s.call(CompletePromise(leaf, PromiseState.RESOLVED))
        await s.write_all()
        written = s.writer.written
    cut = ["neither", "the cause only", "cause and effect, n", "all of it"]
    kept_count = next(number for number, start in enumerate(cut) if kept.startswith(start))
    survived = written[: before_count + kept_count]
    assert len(written) == before_count + 3

    outgoing = Outgoing()
    shards = make_shards(SHARD_COUNT, outgoing, next_sequence=len(survived) + 1)
    shards.replay(enumerate(survived, 1))
    commands_before = shards.statistics().shards[1].commands_count
    writers: list[ManualWriter] = []

    def make_writer(committer: Committer) -> BatchWriter:
        writers.append(ManualWriter(committer))
        return writers[0]

    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, make_writer)
        s = Stage(shards, outgoing, nursery, writers[0])
        await s.write_all()
        nursery.cancel_scope.cancel()

    state = shards._shards[1].machine.state
    assert shards.statistics().shards[1].commands_count - commands_before == resent
    assert [task.counter for task in state.tasks.values()] == [1] * tasks
    assert outgoing.events == [("send", task_id, 1)] * tasks
    assert sum(shard.outbox_count for shard in shards.statistics().shards) == 0
    kinds = [type(records.decode(entry.body)) for entry in survived + writers[0].written]
    assert kinds.count(MessageReceived) == tasks
